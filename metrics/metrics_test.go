package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	one = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	two = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func scrape(t *testing.T, s *Set) string {
	t.Helper()
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err, string(b))
	}
	return string(b)
}

func wantLines(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+page, "\n"+l+"\n") {
			t.Errorf("missing: %s", l)
		}
	}
}

func TestSet_ShowsWhatWasTold(t *testing.T) {
	s := New()
	now := time.Unix(1000, 0)
	s.lag.now = func() time.Time { return now }
	v := s.Volume(one)
	v.Fetched(262144, 3*time.Millisecond)
	v.Fetched(100, 40*time.Millisecond)
	v.FetchFailed()
	v.SetRemote(4096, 7)
	v.SetFenced(true)
	v.BehindSince(time.Unix(940, 0))
	v.Op("read", 20*time.Microsecond)
	v.Op("read", 2*time.Second)
	v.Op("lookup", time.Microsecond)
	wantLines(t, scrape(t, s),
		`fractal_fetch_bytes_total{volume="0011223344556677"} 262244`,
		`fractal_fetch_seconds_count{volume="0011223344556677"} 2`,
		`fractal_fetch_seconds_bucket{volume="0011223344556677",le="0.005"} 1`,
		`fractal_fetch_errors_total{volume="0011223344556677"} 1`,
		`fractal_remote_bytes{volume="0011223344556677"} 4096`,
		`fractal_remote_files{volume="0011223344556677"} 7`,
		`fractal_fenced{volume="0011223344556677"} 1`,
		`fractal_upload_lag_seconds{volume="0011223344556677"} 60`,
		`fractal_fuse_op_seconds_count{op="read",volume="0011223344556677"} 2`,
		`fractal_fuse_op_seconds_count{op="lookup",volume="0011223344556677"} 1`,
	)
	now = now.Add(30 * time.Second)
	v.SetFenced(false)
	wantLines(t, scrape(t, s), `fractal_upload_lag_seconds{volume="0011223344556677"} 90`, `fractal_fenced{volume="0011223344556677"} 0`)
	v.BehindSince(time.Time{})
	wantLines(t, scrape(t, s), `fractal_upload_lag_seconds{volume="0011223344556677"} 0`)
}

func TestSet_ShowsAVolumeBeforeAnythingHappened(t *testing.T) {
	s := New()
	s.Volume(one)
	wantLines(t, scrape(t, s), `fractal_fenced{volume="0011223344556677"} 0`, `fractal_upload_lag_seconds{volume="0011223344556677"} 0`)
}

func TestSet_AskingForAVolumeAgainKeepsItsFigures(t *testing.T) {
	s := New()
	s.Volume(one).Fetched(1, time.Second)
	s.Volume(one).BehindSince(time.Now().Add(time.Hour))
	s.Volume(one).Fetched(2, time.Second)
	wantLines(t, scrape(t, s), `fractal_fetch_bytes_total{volume="0011223344556677"} 3`, `fractal_upload_lag_seconds{volume="0011223344556677"} 0`)
}

func TestSet_ForgetDropsThatVolumeAlone(t *testing.T) {
	s := New()
	for _, key := range []string{one, two} {
		v := s.Volume(key)
		v.Fetched(1, time.Second)
		v.Op("read", time.Second)
		v.BehindSince(time.Unix(1, 0))
	}
	s.Forget(one)
	page := scrape(t, s)
	if strings.Contains(page, "0011223344556677") {
		t.Error("the forgotten volume is still shown")
	}
	wantLines(t, page, `fractal_fetch_bytes_total{volume="ff11223344556677"} 1`, `fractal_fuse_op_seconds_count{op="read",volume="ff11223344556677"} 1`)
}

func TestSet_TwoSetsDoNotMeet(t *testing.T) {
	a, b := New(), New()
	a.Volume(one).FetchFailed()
	b.Volume(one)
	wantLines(t, scrape(t, b), `fractal_fetch_errors_total{volume="0011223344556677"} 0`)
}

func TestSet_ToldAndReadAtOnce(t *testing.T) {
	s := New()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			v := s.Volume(one)
			for range 200 {
				v.Fetched(1, time.Millisecond)
				v.Op("write", time.Millisecond)
				v.BehindSince(time.Now())
			}
		})
	}
	for range 3 {
		scrape(t, s)
	}
	wg.Wait()
	wantLines(t, scrape(t, s), `fractal_fetch_bytes_total{volume="0011223344556677"} 800`)
}
