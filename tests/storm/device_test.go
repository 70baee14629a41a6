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

// patience is how long anything may take before it counts as a stall.
const patience = 4 * time.Minute

// longStorm is how many kills of a device make a long storm.
const longStorm = 50

type storm struct {
	t       *testing.T
	dir     string
	bin     string
	url     string
	tok     string
	tarball string
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	kit.NeedRoot(t)
	dir, err := os.MkdirTemp("", "storm-")
	kit.Must(t, err)
	kit.Must(t, os.Chmod(dir, 0o755)) // PostgreSQL is another user
	s := &storm{t: t, dir: dir, bin: filepath.Join(dir, "fractal-lazy"), tok: uuid.NewString(), tarball: filepath.Join(dir, "files.tar")}
	t.Cleanup(func() { s.tidy() })
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", s.bin, "fractal-lazy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("tar", "-C", "/usr/include", "-cf", s.tarball, "linux").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.start("hive.log", "hive", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "hive"))
	s.wait("the hive", func() error {
		b, err := os.ReadFile(filepath.Join(dir, "hive.log"))
		if m := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).Find(b); m != nil {
			s.url = string(m)
			return nil
		}
		return fmt.Errorf("no URL: %v", err)
	})
	return s
}

// tidy takes the folder away; where the test failed its logs stay.
func (s *storm) tidy() {
	if s.t.Failed() {
		if keep, err := os.MkdirTemp("", "storm-failed-"); err == nil {
			logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log")) // the pattern is well-formed
			more, _ := filepath.Glob(filepath.Join(s.dir, "state/*/s/*.log"))
			for _, l := range append(logs, more...) {
				_ = os.Rename(l, filepath.Join(keep, filepath.Base(l)))
			}
			s.t.Logf("the logs are in %s", keep)
		}
	}
	os.RemoveAll(s.dir)
}

func (s *storm) start(log string, args ...string) *kit.Process {
	s.t.Helper()
	p, err := kit.Start(kit.ProcessOptions{Path: s.bin, Args: args, Env: []string{"FRACTAL_TOKEN=" + s.tok}, Log: filepath.Join(s.dir, log)})
	kit.Must(s.t, err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	s.t.Fatalf("not within a minute: %s: %v", what, err)
}

// device is one driver.
type device struct {
	*storm
	name, root, socket string
	p                  *kit.Process
	moments            []time.Time // of the kills and upgrades
	upgrades           int
}

func (s *storm) device(name, url string) *device {
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
	kit.Must(s.t, os.Chmod(pool.Dir, 0o755))
	d := &device{storm: s, name: name, root: pool.Dir, socket: filepath.Join(dir, "s")}
	d.p = s.start(name+".log", "run", "--root", d.root, "--socket", d.socket, "--hive", url, "--ipfs", url, "--interval", "off", "--stop-timeout", "10s")
	s.wait("the driver", func() error { _, err := d.try("volume", "ls"); return err })
	return d
}

func (d *device) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.bin, append([]string{"--socket", d.socket}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%v: %w: %s", args, err, errs.String())
	}
	if ctx.Err() != nil {
		d.stalled(strings.Join(args, " "))
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

// stalled says who waits for what, has the worker say what it does, and ends the test.
func (d *device) stalled(what string) {
	d.t.Helper()
	names, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, name := range names {
		stat, _ := os.ReadFile(name + "/stat")
		if _, tail, ok := strings.Cut(string(stat), ") "); !ok || tail[0] != 'D' {
			continue
		}
		line, _ := os.ReadFile(name + "/cmdline")
		stack, _ := os.ReadFile(name + "/stack")
		d.t.Logf("%s waits: %q\n%s", name, line, stack)
	}
	if pid := d.worker(); pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
		time.Sleep(time.Second)
		d.t.Logf("%s.log:\n%s", d.name, d.p.LogTail(600))
	}
	d.p.Kill9() // who waits for a dead driver can be ended
	d.t.Fatalf("%s: a stall: %s", d.name, what)
}

// worker is the worker that runs, 0 where there is none.
func (d *device) worker() int {
	pids, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.p.Pid()))
	kit.Must(d.t, err)
	for _, p := range pids {
		b, _ := os.ReadFile(p)
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			line, _ := os.ReadFile("/proc/" + f + "/cmdline")
			if args := bytes.Split(line, []byte{0}); err == nil && len(args) > 1 && string(args[1]) == "worker" {
				return pid
			}
		}
	}
	return 0
}

// upgradeEvery says how many kills come on one upgrade.
const upgradeEvery = 8

// upgrade puts another file in the place of the program, and has the driver become it, both of its processes. Now and then it does not wait for the end
// of that.
func (d *device) upgrade() {
	d.t.Helper()
	if out, err := exec.Command("bash", "-ec", `cp "$1" "$1.new"; mv "$1.new" "$1"`, "-", d.bin).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	d.upgrades++
	d.moments = append(d.moments, time.Now())
	kit.Must(d.t, syscall.Kill(d.p.Pid(), syscall.SIGHUP))
	if rand.IntN(3) == 0 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		return
	}
	d.upgraded()
}

// upgraded waits until both processes run what is at the program's path.
func (d *device) upgraded() {
	d.t.Helper()
	want, err := os.Stat(d.bin)
	kit.Must(d.t, err)
	d.wait("the new program in both processes", func() error {
		for _, pid := range []int{d.p.Pid(), d.worker()} {
			is, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
			if err != nil {
				return err
			}
			if !os.SameFile(is, want) {
				return fmt.Errorf("process %d runs an older one", pid)
			}
		}
		return nil
	})
}

var becameReady = regexp.MustCompile(`"op":"supervise","pause":([0-9.]+),"worker":\d+,.*worker is ready`)

// pauses are what the supervisor says: from the death of a worker until the next one is ready.
func (d *device) pauses() (ms []float64) {
	b, err := os.ReadFile(filepath.Join(d.dir, d.name+".log"))
	kit.Must(d.t, err)
	for _, m := range becameReady.FindAllSubmatch(b, -1) {
		p, _ := strconv.ParseFloat(string(m[1]), 64) // the pattern is that of a number
		ms = append(ms, p)
	}
	return ms[1:] // the first is its start
}

// kills kills the worker, n times at least and until each job has done two rounds meanwhile: at another moment of its life each time, and one in four while
// it takes over. A long storm begins at once, a short one when each job has done its first round.
func (d *device) kills(n int, jobs []*job) {
	d.t.Helper()
	begun, first := time.Now(), map[string]int{}
	// idle names a job that has not done its rounds yet.
	idle := func() string {
		for _, j := range jobs {
			select {
			case <-j.p.Done():
				d.t.Fatalf("%s: %s ended: %s", d.name, j.name, j.p.LogTail(15))
			default:
			}
			if want, set := first[j.name]; j.done() < want+2 && set || j.done() == 0 {
				return j.name
			}
		}
		return ""
	}
	for who := idle(); n < longStorm && who != ""; who = idle() {
		if time.Sleep(10 * time.Millisecond); time.Since(begun) > patience {
			d.stalled(who + " does nothing")
		}
	}
	for _, j := range jobs {
		first[j.name] = j.done()
	}
	for i := 0; ; i++ {
		who := idle()
		if i >= n && who == "" {
			break
		}
		if i >= n && time.Since(begun) > patience+time.Duration(n)*2*time.Second {
			d.stalled(who + " does nothing")
		}
		before := len(d.pauses())
		if i%upgradeEvery == upgradeEvery/2 {
			d.upgrade()
			continue
		}
		var pid int
		d.wait("a worker", func() error {
			if pid = d.worker(); pid == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
		d.moments = append(d.moments, time.Now())
		kit.Must(d.t, syscall.Kill(pid, syscall.SIGKILL))
		d.wait("its end", func() error {
			if d.worker() == pid {
				return fmt.Errorf("it is there")
			}
			return nil
		})
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(30_000)) * time.Microsecond)
			continue
		}
		d.wait("the next worker", func() error {
			if now := len(d.pauses()); now <= before {
				return fmt.Errorf("%d were ready", now)
			}
			return nil
		})
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
	}
}

// report prints how long it took, as the supervisor says and as somebody noticed who asked all the time.
func (d *device) report(asked string) {
	d.t.Helper()
	d.t.Logf("%s: %d kills, %d upgrades; from a death to the next worker that is ready: %s; a process that asks all the time waited: %s", d.name, len(d.moments)-d.upgrades, d.upgrades,
		figures(d.pauses()), figures(waits(d.t, asked, d.moments)))
}

func figures(ms []float64) string {
	if len(ms) == 0 {
		return "nothing measured"
	}
	slices.Sort(ms)
	return fmt.Sprintf("median %.0f ms, longest %.0f ms", ms[len(ms)/2], ms[len(ms)-1])
}
