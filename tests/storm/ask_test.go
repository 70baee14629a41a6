package storm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

func init() { children["ask"] = askChild }

// asking is one answer that took long.
type asking struct {
	Begin int64 // Unix time in ns
	Took  time.Duration
}

// askChild asks for the attributes of its folder all the time, past the kernel's cache, and writes down what took long.
func askChild(_ string, c child) error {
	f, err := os.Create(filepath.Join(c.state, "log"))
	if err != nil {
		return err
	}
	defer f.Close()
	enc := json.NewEncoder(f)
	return c.until(func(int) error {
		for range 20 {
			var st unix.Statx_t
			begin := time.Now()
			if err := unix.Statx(unix.AT_FDCWD, c.dir, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
				return err
			}
			if took := time.Since(begin); took > 2*time.Millisecond {
				if err := enc.Encode(asking{begin.UnixNano(), took}); err != nil {
					return err
				}
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
}

// waits returns, for each moment at which a worker was killed, how long somebody waited then who was asking.
func waits(t *testing.T, log string, moments []time.Time) (ms []float64) {
	t.Helper()
	f, err := os.Open(log)
	kit.Must(t, err)
	defer f.Close()
	var all []asking
	for dec := json.NewDecoder(f); dec.More(); {
		var a asking
		kit.Must(t, dec.Decode(&a))
		all = append(all, a)
	}
	for _, m := range moments {
		for _, a := range all {
			if at := m.UnixNano(); a.Begin < at+int64(3*time.Millisecond) && a.Begin+int64(a.Took) > at {
				ms = append(ms, float64(a.Took)/1e6)
				break
			}
		}
	}
	return ms
}
