package ipfs

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

// BenchmarkWays compares ways to bring 64 MiB to a node: CAR streams side by side, block/put of one block, and of many in one
// form. The CPU time is of both sides.
func BenchmarkWays(b *testing.B) {
	_, srv := openNode(b, b.TempDir())
	b.Run("ours", func(b *testing.B) { benchWays(b, srv.URL) })
	b.Run("kubo", func(b *testing.B) { benchWays(b, startKubo(b, false).rpc) })
}

func benchWays(b *testing.B, url string) {
	s := openClient(b, Options{RPC: url, Token: testToken})
	for _, size := range []int{4 << 10, 128 << 10} {
		for _, way := range []struct {
			name     string
			atOnce   int
			together int
		}{{"CAR", 1, 0}, {"CAR", 2, 0}, {"put", 1, 1}, {"put", 16, 1}, {"put", 2, 64}, {"put", 4, 64}} {
			name := fmt.Sprintf("%dKiB/%s-%d-at-once", size>>10, way.name, way.atOnce)
			if way.together > 1 {
				name += fmt.Sprintf("-of-%d", way.together)
			}
			b.Run(name, func(b *testing.B) {
				total := 64 << 20
				if size < 64<<10 {
					total = 8 << 20
				}
				b.SetBytes(int64(total))
				var used time.Duration
				for b.Loop() {
					b.StopTimer()
					list := make([]store.Block, total/size)
					for i := range list {
						list[i] = storetest.Block(fmt.Sprint(b.Name(), salt.Add(1), time.Now().UnixNano(), i), size)
					}
					used -= cpuTime(b)
					b.StartTimer()
					var g errgroup.Group
					g.SetLimit(way.atOnce)
					step := way.together
					if way.name == "CAR" {
						step = len(list) / way.atOnce
					}
					for i := 0; i < len(list); i += step {
						part := list[i:min(i+step, len(list))]
						g.Go(func() error {
							if way.name == "CAR" {
								return s.PutMany(b.Context(), storetest.Seq(part...))
							}
							return putForm(url, part)
						})
					}
					if err := g.Wait(); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					used += cpuTime(b)
					b.StartTimer()
				}
				b.ReportMetric(used.Seconds()/float64(b.N)/float64(total)*(1<<30), "CPU-s/GiB")
			})
		}
	}
}

// putForm is block/put of some blocks.
func putForm(url string, list []store.Block) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for i, x := range list {
		w, err := form.CreateFormFile("file", strconv.Itoa(i))
		if err != nil {
			return err
		}
		if _, err := w.Write(x.Data); err != nil {
			return err
		}
	}
	form.Close()
	req, err := http.NewRequest(http.MethodPost, url+"/api/v0/block/put?cid-codec=raw&mhtype=sha2-256", &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	req.Header.Set("Authorization", "Bearer "+testToken)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || strings.Count(string(answer), `"Key"`) != len(list)) {
		err = fmt.Errorf("%s: %.200s", res.Status, answer)
	}
	return err
}

// cpuTime is what this process and its children have used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	t := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		b.Fatal(err)
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that ended
		}
		for pid := range strings.FieldsSeq(string(children)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil {
				continue
			}
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
				n, err := strconv.ParseInt(f, 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				t += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return t
}
