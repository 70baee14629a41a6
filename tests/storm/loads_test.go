package storm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// load is something that a process of its own does below a folder of a volume, round by round, until it is told to stop; and later again, with
// what it finds there. What it must find at the end is kept outside the volume.
type load struct {
	name  string
	work  string // a shell script; empty: children[name]
	check string // a shell script, with nothing going on
}

// begin is what every script begins with. over ends a round, and says whether it was the last.
const begin = `dir=$1 stop=$2 rounds=$3 state=$4 tar=$5
over() { echo >>"$rounds"; [ -e "$stop" ]; }
count() { cat "$state/$1" 2>/dev/null || echo 0; }
`

var loads = []load{
	{name: "untar",
		work: `[ -d "$dir/kept" ] || { mkdir "$dir/kept.new"; tar -C "$dir/kept.new" -xf "$tar"; mv "$dir/kept.new" "$dir/kept"; }
			until mkdir "$dir/t"; tar -C "$dir/t" -xf "$tar"; tar -C "$dir/t" -df "$tar"; rm -r "$dir/t"; over; do :; done`,
		check: `[ "$(ls -A "$dir")" = kept ]; tar -C "$dir/kept" -df "$tar"`},
	{name: "names",
		work: `n=0; cd "$dir"; until n=$((n+1)); mkdir a; echo $n >a/x; mv a/x y; ln y z; [ "$(cat z)" = $n ]; ln -s z s; [ "$(cat s)" = $n ]
			echo new >w; mv w y; [ "$(cat y z)" = "new
$n" ]; mv a b; rmdir b; rm y z s; [ -z "$(ls -A)" ]; over; do :; done`,
		check: `[ -z "$(ls -A "$dir")" ]`},
	{name: "append",
		work:  `n=$(count n); until n=$((n+1)); echo "line $n" >>"$dir/log"; echo $n >"$state/n"; over; do :; done`,
		check: `seq -f 'line %.0f' $(count n) | cmp - "$dir/log"`},
	{name: "unlinked",
		work: `n=0; until n=$((n+1)); exec 5<>"$dir/f"; rm "$dir/f"; echo "$n first" >&5; sleep 0.02; echo "$n second" >&5
			printf '%s first\n%s second\n' $n $n | cmp - /proc/self/fd/5; exec 5>&-; over; do :; done`,
		check: `[ -z "$(ls -A "$dir")" ]`},
	// Two take turns; a third holds a lock all the time, which nobody else may get.
	{name: "lock",
		work: `exec 9>>"$dir/held"; flock 9; [ -e "$dir/n" ] || { echo 0 >"$dir/n"; : >"$dir/count"; }
			turns() { until flock "$dir/l" sh -ec 'n=$(cat "$1"); echo $((n+1)) >"$1"; echo >>"$2"' - "$dir/n" "$dir/count"; ! flock -n "$dir/held" true; over; do :; done; }
			turns 9>&- & pids=$!; turns 9>&- & for p in $pids $!; do wait $p; done`,
		check: `[ "$(cat "$dir/n")" = "$(wc -l <"$dir/count" | tr -d ' ')" ]`},
	{name: "git",
		work: `export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent; cd "$dir"
			[ -d .git ] || { git init -q; git config gc.auto 0; }
			n=$(count n); until n=$((n+1)); echo $n >f; echo $n >"g$((n%7))"; git add -A; git commit -qm $n; echo $n >"$state/n"; [ -z "$(git status --porcelain)" ]
			[ $((n%20)) != 0 ] || git gc -q; over; do :; done`,
		check: `export GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent; cd "$dir"; git fsck --full >/dev/null; [ "$(git rev-list --count HEAD)" = $(count n) ]; [ -z "$(git status --porcelain)" ]`},
	{name: "sqlite"},
	{name: "mapped"},
	{name: "postgres"},
}

// job is a load at work.
type job struct {
	load
	p      *kit.Process
	rounds string // a byte for each round that is done
}

func (j *job) done() int {
	st, err := os.Stat(j.rounds)
	if err != nil {
		return 0
	}
	return int(st.Size())
}

// process starts what l does, "work" or "check", on the volume that is mounted at path.
func (s *storm) process(l load, what, path, stop string) *job {
	s.t.Helper()
	j := &job{load: l, rounds: stop + "-rounds-" + l.name}
	state := filepath.Join(s.dir, "state", l.name)
	kit.Must(s.t, os.MkdirAll(state, 0o755))
	o := kit.ProcessOptions{Path: "bash", Log: filepath.Join(s.dir, l.name+".log"), Env: []string{childEnv + "=" + l.name, "GORACE=atexit_sleep_ms=0"}}
	args := []string{filepath.Join(path, l.name), stop, j.rounds, state, s.tarball}
	script := l.work
	if what == "check" {
		script = l.check
	}
	if script != "" {
		o.Args = append([]string{"-ec", begin + script, l.name}, args...)
	} else {
		o.Path, o.Args = "/proc/self/exe", append([]string{what}, args...)
	}
	var err error
	j.p, err = kit.Start(o)
	kit.Must(s.t, err)
	s.t.Cleanup(func() {
		select {
		case <-j.p.Done():
		default:
			j.p.Kill9()
		}
	})
	return j
}

// work starts every load on the volume at path.
func (s *storm) work(loads []load, path, stop string) (all []*job) {
	s.t.Helper()
	for _, l := range loads {
		dir := filepath.Join(path, l.name)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			s.t.Fatal(err)
		}
		all = append(all, s.process(l, "work", path, stop))
	}
	return all
}

// finish tells the jobs to stop, and waits for their ends.
func (s *storm) finish(d *device, all []*job, stop string) {
	s.t.Helper()
	kit.Must(s.t, os.WriteFile(stop, nil, 0o644))
	s.await(d, "the end of", all)
	for _, j := range all {
		s.t.Logf("%s: %s: %d rounds", d.name, j.name, j.done())
	}
}

// await waits for the ends of jobs, each of which has to be a good one.
func (s *storm) await(d *device, what string, all []*job) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, j := range all {
		if err := j.p.Wait(ctx); ctx.Err() != nil {
			d.stalled(what + " " + j.name)
		} else if err != nil {
			s.t.Errorf("%s: %s %s: %v: %s", d.name, what, j.name, err, j.p.LogTail(15))
		}
	}
}

// check has every load look at what it left.
func (s *storm) check(d *device, loads []load, path string) {
	s.t.Helper()
	start := time.Now()
	var all []*job
	for _, l := range loads {
		all = append(all, s.process(l, "check", path, filepath.Join(s.dir, "none")))
	}
	s.await(d, "the check of", all)
	s.t.Logf("%s: everything checked in %.1f s", d.name, time.Since(start).Seconds())
}

// children are the loads, and other things, that this test's binary does in a process of its own, by name. args are those of a script.
var children = map[string]func(what string, c child) error{}

// childEnv names the child to be.
const childEnv = "STORM_TEST_CHILD"

// child is the arguments of one.
type child struct{ dir, stop, rounds, state string }

func TestMain(m *testing.M) {
	do, args := children[os.Getenv(childEnv)], os.Args
	if do == nil {
		os.Exit(m.Run())
	}
	if err := do(args[1], child{args[2], args[3], args[4], args[5]}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// over ends a round, and says whether it was the last.
func (c child) over() (bool, error) {
	f, err := os.OpenFile(c.rounds, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err := f.Write([]byte("\n")); err != nil {
		return false, err
	}
	_, err = os.Stat(c.stop)
	return err == nil, nil
}

// until runs rounds until the last one, or an error.
func (c child) until(round func(n int) error) error {
	for n := 1; ; n++ {
		if err := round(n); err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		if over, err := c.over(); over || err != nil {
			return err
		}
	}
}
