//go:build docker

package docker

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// figures reads all figures, by name and labels as they stand there.
func figures(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error), url string) map[string]float64 {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	kit.Must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	kit.Must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, resp.Status, b)
	}
	all := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^(fractal_\S+) (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		kit.Must(t, err)
		all[m[1]] = v
	}
	return all
}

func TestMetrics_TellOfAFailoverOnTheSocketAndOnThePort(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	const addr = "127.0.0.1:9477"
	reset(t, b, "FRACTAL_METRICS="+addr)
	volume(t, a, "measured", "interval=off")
	a.run(t, []string{"-v", "measured:/data"}, "dd if=/dev/urandom of=/data/f bs=1M count=4 2>/dev/null")
	a.state(t, "measured", "unmounted")
	volume(t, b, "measured", "interval=off", "privkey="+a.cli(t, "key", "export", "measured"))
	b.docker(t, "run", "-d", "--name", "measured", "--network", "none", "-v", "measured:/data", "busybox", "sh", "-c", "md5sum /data/f; echo new >/data/g; sync; exec sleep 600")
	defer b.try("rm", "-f", "measured")
	pubkey, _ := b.status(t, "measured")["pubkey"].(string)
	label := `{volume="` + pubkey[:16] + `"}`
	port := func() map[string]float64 { return figures(t, dialIn(b.w.netns("b")), "http://"+addr+"/metrics") }
	eventually(t, 20*time.Second, func() error {
		f := port()
		if f["fractal_fetch_bytes_total"+label] < 4<<20 || f["fractal_remote_bytes"+label] != 0 || f["fractal_upload_lag_seconds"+label] <= 0 {
			return fmt.Errorf("fetched %v, remote %v, lag %v", f["fractal_fetch_bytes_total"+label], f["fractal_remote_bytes"+label], f["fractal_upload_lag_seconds"+label])
		}
		return nil
	})
	socket := b.socket(t)
	f := figures(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}, "http://plugin/metrics")
	if f[`fractal_fuse_op_seconds_count{op="open",volume="`+pubkey[:16]+`"}`] < 1 || f["fractal_fenced"+label] != 0 {
		t.Errorf("operations: %v", f)
	}
	b.cli(t, "flush", "measured")
	if lag := port()["fractal_upload_lag_seconds"+label]; lag != 0 {
		t.Errorf("upload lag after a flush: %v", lag)
	}
	b.docker(t, "rm", "-f", "measured")
	b.state(t, "measured", "unmounted")
	b.cli(t, "volume", "rm", "measured")
	if _, there := port()["fractal_remote_bytes"+label]; there {
		t.Error("a removed volume is still measured")
	}
}
