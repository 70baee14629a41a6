//go:build storm

package storm

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
)

// loads are shell scripts that work below $1 until the file $2 is there. $3 is a tar file of many files.
var loads = map[string]string{
	"untar": `n=0; until [ -e "$2" ] && [ $n -gt 0 ]; do n=$((n+1)); mkdir "$1/t"; tar -C "$1/t" -xf "$3"; (cd "$1/t" && tar -cf - .) | tar -C "$1/t" -df -; rm -r "$1/t"; done`,
	"names": `n=0; until [ -e "$2" ] && [ $n -gt 0 ]; do n=$((n+1)); mkdir "$1/a"; echo $n >"$1/a/x"; mv "$1/a/x" "$1/y"; ln "$1/y" "$1/z"; [ "$(cat "$1/z")" = $n ]
		ln -s z "$1/s"; [ "$(cat "$1/s")" = $n ]; mv "$1/a" "$1/b"; rmdir "$1/b"; rm "$1/y" "$1/z" "$1/s"; [ -z "$(ls -A "$1")" ]; done`,
	"append": `n=0; until [ -e "$2" ] && [ $n -gt 0 ]; do n=$((n+1)); echo "line $n" >>"$1/log"; done; seq -f 'line %.0f' $n | cmp - "$1/log"`,
	"unlinked": `n=0; until [ -e "$2" ] && [ $n -gt 0 ]; do n=$((n+1)); exec 5<>"$1/f"; rm "$1/f"; echo "$n first" >&5; sleep 0.02; echo "$n second" >&5
		printf '%s first\n%s second\n' $n $n | cmp - /proc/self/fd/5; exec 5>&-; done`,
	"lock": `: >"$1/l"; echo 0 >"$1/n"; for who in 1 2; do (until [ -e "$2" ]; do flock "$1/l" sh -ec 'n=$(cat "$1"); echo $((n+1)) >"$1"; echo >>"$2"' - "$1/n" "$1/count"; done) & pids="$pids $!"; done
		for p in $pids; do wait $p; done; [ "$(cat "$1/n")" = "$(wc -l <"$1/count" | tr -d ' ')" ]`,
	"git": `export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_GLOBAL=/dev/null; git -C "$1" init -q; cd "$1"; git config gc.auto 0
		n=0; until [ -e "$2" ] && [ $n -gt 0 ]; do n=$((n+1)); echo $n >f; git add f; git commit -qm $n; done; git fsck --full >/dev/null; [ "$(git rev-list --count HEAD)" = $n ]`,
}

type storm struct {
	t    *testing.T
	dir  string
	bin  string
	url  string
	tok  string
	logs []string
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	kit.NeedRoot(t)
	dir, err := os.MkdirTemp("", "storm-")
	kit.Must(t, err)
	s := &storm{t: t, dir: dir, bin: filepath.Join(dir, "fractal-lazy"), tok: uuid.NewString()}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", s.bin, "fractal-lazy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hive := s.start("hive.log", "hive", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "hive"))
	s.wait("the hive", func() error {
		b, err := os.ReadFile(filepath.Join(dir, "hive.log"))
		if m := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).Find(b); m != nil {
			s.url = string(m)
			return nil
		}
		return fmt.Errorf("no URL: %v", err)
	})
	_ = hive
	return s
}

func (s *storm) start(log string, args ...string) *kit.Process {
	s.t.Helper()
	p, err := kit.Start(kit.ProcessOptions{Path: s.bin, Args: args, Env: []string{"FRACTAL_TOKEN=" + s.tok}, Log: filepath.Join(s.dir, log)})
	kit.Must(s.t, err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := p.Term(ctx); err != nil && !strings.Contains(err.Error(), "ended") {
			s.t.Logf("%s: %v", log, err)
		}
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", log, p.LogTail(40))
		}
	})
	return p
}

func (s *storm) wait(what string, ok func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	s.t.Fatalf("not within 30 s: %s: %v", what, err)
}

// device is one driver.
type device struct {
	*storm
	name, root, socket string
}

func (s *storm) device(name string) *device {
	s.t.Helper()
	dir := filepath.Join(s.dir, name)
	kit.Must(s.t, os.Mkdir(dir, 0o755))
	pool, err := kit.NewPool(dir, kit.PoolSize)
	kit.Must(s.t, err)
	s.t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			s.t.Error(err)
		}
	})
	d := &device{storm: s, name: name, root: pool.Dir, socket: filepath.Join(dir, "s")}
	s.start(name+".log", "run", "--root", d.root, "--socket", d.socket, "--hive", s.url, "--ipfs", s.url, "--interval", "off", "--stop-timeout", "10s")
	s.wait("the driver", func() error { _, err := d.try("volume", "ls"); return err })
	return d
}

func (d *device) try(args ...string) (string, error) {
	cmd := exec.Command(d.bin, append([]string{"--socket", d.socket}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%v: %w: %s", args, err, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], err
}

func (d *device) run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	kit.Must(d.t, err)
	return out
}

var workerPid = regexp.MustCompile(`"op":"supervise","pause":([0-9.]+),"worker":(\d+),.*worker is ready`)

// ready returns the pauses so far, and the worker that runs.
func (d *device) ready() (pauses []float64, pid int) {
	b, err := os.ReadFile(filepath.Join(d.dir, d.name+".log"))
	kit.Must(d.t, err)
	for _, m := range workerPid.FindAllSubmatch(b, -1) {
		p, _ := strconv.ParseFloat(string(m[1]), 64)
		pauses = append(pauses, p)
		pid, _ = strconv.Atoi(string(m[2]))
	}
	return pauses, pid
}

// kills kills the worker n times, each time at another moment of its life.
func (d *device) kills(n int) {
	d.t.Helper()
	for range n {
		before, pid := d.ready()
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		kit.Must(d.t, syscall.Kill(pid, syscall.SIGKILL))
		d.wait("the next worker", func() error {
			if now, _ := d.ready(); len(now) <= len(before) {
				return fmt.Errorf("%d were ready", len(now))
			}
			return nil
		})
	}
	pauses, _ := d.ready()
	pauses = pauses[1:] // the first worker's start
	slices.Sort(pauses)
	if len(pauses) == 0 {
		d.t.Fatal("no pause was measured")
	}
	d.t.Logf("%s: %d kills; pause in ms: median %.0f, longest %.0f", d.name, len(pauses), pauses[len(pauses)/2], pauses[len(pauses)-1])
}

func kills(t *testing.T) int {
	v := os.Getenv("FRACTAL_KILLS")
	if v == "" {
		return 30
	}
	n, err := strconv.Atoi(v)
	kit.Must(t, err)
	return n
}

// shell runs script with args in a process of its own.
func shell(script string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command("bash", append([]string{"-ec", script, "-"}, args...)...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func TestStorm_NobodySeesAnError(t *testing.T) {
	s := newStorm(t)
	tarball := filepath.Join(s.dir, "files.tar")
	if out, err := exec.Command("tar", "-C", "/usr/include", "--exclude=*/c++/*", "-cf", tarball, "linux").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a := s.device("a")
	a.run("volume", "create", "db")
	path := a.run("volume", "mount", "db")

	stop := filepath.Join(s.dir, "stop")
	type job struct {
		name string
		cmd  *exec.Cmd
		out  *bytes.Buffer
	}
	var jobs []job
	for name, script := range loads {
		dir := filepath.Join(path, name)
		kit.Must(t, os.Mkdir(dir, 0o755))
		cmd, out := shell(script, dir, stop, tarball)
		kit.Must(t, cmd.Start())
		jobs = append(jobs, job{name, cmd, out})
	}
	a.kills(kills(t) * 2 / 3)
	kit.Must(t, os.WriteFile(stop, nil, 0o600))
	for _, j := range jobs {
		if err := j.cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", j.name, err, j.out)
		}
	}

	// The same data, still in the network, read on another device while it is fetched.
	kit.Must(t, os.Mkdir(filepath.Join(path, "tree"), 0o755))
	prepare, out := shell(`tar -C "$1/tree" -xf "$2"; head -c 64M /dev/urandom >"$1/tree/big"; cd "$1/tree"; find . -type f -print0 | sort -z | xargs -0 sha256sum >"$3"`,
		path, tarball, filepath.Join(s.dir, "sums"))
	if err := prepare.Run(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a.run("flush", "db")
	key := filepath.Join(s.dir, "key")
	kit.Must(t, os.WriteFile(key, []byte(a.run("key", "export", "db")), 0o600))
	a.run("volume", "umount", "db")
	b := s.device("b")
	b.run("volume", "create", "db", "-o", "privkey-file="+key, "-o", "prefetch=none")
	path = b.run("volume", "mount", "db")
	check, out := shell(`cd "$1/tree"; sha256sum --quiet -c "$2"; until [ -e "$3" ]; do sha256sum --quiet -c "$2"; done`,
		path, filepath.Join(s.dir, "sums"), stop+"2")
	kit.Must(t, check.Start())
	write, wout := shell(loads["names"], filepath.Join(path, "names"), stop+"2")
	kit.Must(t, write.Start())
	b.kills(kills(t) - kills(t)*2/3)
	kit.Must(t, os.WriteFile(stop+"2", nil, 0o600))
	if err := check.Wait(); err != nil {
		t.Errorf("half-fetched: %v: %s", err, out)
	}
	if err := write.Wait(); err != nil {
		t.Errorf("half-fetched, names: %v: %s", err, wout)
	}
	b.run("volume", "umount", "db")
}
