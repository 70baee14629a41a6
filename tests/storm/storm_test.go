package storm

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

func kills(t *testing.T) int {
	v := os.Getenv("FRACTAL_KILLS")
	if v == "" {
		return 30
	}
	n, err := strconv.Atoi(v)
	kit.Must(t, err)
	return n
}

// reader reads a tree again and again that nobody changes, of which every byte is remote at first.
var reader = load{name: "tree",
	work:  `cd "$dir"; until sha256sum --quiet -c "$state/sums"; over; do :; done`,
	check: `cd "$dir"; sha256sum --quiet -c "$state/sums"; [ "$(find . -type f | wc -l)" = "$(wc -l <"$state/sums")" ]`}

func (s *storm) makeTree(path string) {
	s.t.Helper()
	kit.Must(s.t, os.MkdirAll(filepath.Join(s.dir, "state/tree"), 0o755))
	out, err := exec.Command("bash", "-ec", `mkdir "$1"; tar -C "$1" -xf "$2"; for n in 1 2 3; do head -c 12M /dev/urandom >"$1/big$n"; done
		cd "$1"; find . -type f -print0 | sort -z | xargs -0 sha256sum >"$3"`, "-", filepath.Join(path, "tree"), s.tarball, filepath.Join(s.dir, "state/tree/sums")).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// under runs the loads on the volume at path while the worker of d is killed, n times at least.
func (s *storm) under(d *device, loads []load, path string, n int) {
	s.t.Helper()
	stop := filepath.Join(s.dir, "stop-"+d.name)
	jobs := s.work(append([]load{{name: "ask"}}, loads...), path, stop)
	d.kills(n, jobs)
	s.finish(d, jobs, stop)
	d.report(filepath.Join(s.dir, "state/ask/log"))
}

func TestStorm_NobodySeesAnError(t *testing.T) {
	s := newStorm(t)
	n := kills(t)
	a := s.device("a", s.url)
	a.run("volume", "create", "db")
	path := a.run("volume", "mount", "db")
	s.makeTree(path)
	s.under(a, loads, path, n*2/3)
	s.check(a, append(loads, reader), path)

	// The same volume on another machine, with everything still in the network, through a line that is not too fast.
	a.run("flush", "db")
	key := filepath.Join(s.dir, "key")
	kit.Must(t, os.WriteFile(key, []byte(a.run("key", "export", "db")), 0o600))
	a.run("volume", "umount", "db", "--wait", "3m")
	hive, err := url.Parse(s.url)
	kit.Must(t, err)
	line, err := kit.NewRelay(hive.Host, kit.Link{RTT: 4 * time.Millisecond, Down: 60e6})
	kit.Must(t, err)
	t.Cleanup(func() { line.Close() })
	b := s.device("b", "http://"+line.Addr())
	b.run("volume", "create", "db", "-o", "privkey-file="+key, "-o", "prefetch=none")
	path = b.run("volume", "mount", "db")
	s.under(b, append(loads, reader), path, n-n*2/3)

	// Nothing of what is compared at the end comes from the kernel's memory of this mount.
	b.run("volume", "umount", "db", "--wait", "3m")
	path = b.run("volume", "mount", "db")
	s.check(b, append(loads, reader), path)
	b.run("volume", "umount", "db", "--wait", "3m")
}
