package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// verdict is how one test of xfstests ended.
type verdict struct {
	status string // pass, fail, notrun
	why    string
}

// xfstests runs tests of a built checkout.
type xfstests struct {
	checkout string
	dir      string // for mount points and results
	limit    time.Duration
	out      io.Writer
}

// quick lists the tests of group quick for all file systems.
func (x *xfstests) quick() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(x.checkout, "tests/generic/[0-9][0-9][0-9]"))
	if err != nil {
		return nil, err
	}
	group := regexp.MustCompile(`(?m)^_begin_fstest\b.*\bquick\b`)
	var list []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if group.Match(b) {
			list = append(list, "generic/"+filepath.Base(f))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no tests of group quick: is it xfstests?", x.checkout)
	}
	slices.Sort(list)
	return list, nil
}

// run runs tests with the settings env, and says how each ended.
func (x *xfstests) run(ctx context.Context, name string, env, tests []string) (map[string]verdict, error) {
	results := filepath.Join(x.dir, name)
	config := filepath.Join(results, "local.config")
	if err := os.MkdirAll(results, 0o755); err != nil {
		return nil, err
	}
	lines := "export RESULT_BASE=" + results + "\n"
	for _, e := range env {
		lines += "export " + e + "\n"
	}
	if err := os.WriteFile(config, []byte(lines), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "./check", tests...)
	cmd.Dir = x.checkout
	cmd.Env = append(os.Environ(), "HOST_OPTIONS="+config)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(results, "output"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	got, err := x.follow(io.TeeReader(pipe, log))
	_ = cmd.Wait() // not 0 where a test failed
	if err == nil && ctx.Err() == nil && len(got) == 0 {
		text, _ := os.ReadFile(log.Name())
		err = fmt.Errorf("xfstests did not start:\n%s", text)
	}
	return got, errors.Join(err, ctx.Err())
}

// line is what check prints for a test: its name, perhaps the time it took the last time, and how it ended.
var line = regexp.MustCompile(`^(generic/\d+)\b(?:\s+\d+s)?\s*(\.\.\.)?\s*(.*)$`)

// follow reads what check prints, and kills a test that takes longer than the limit.
func (x *xfstests) follow(r io.Reader) (map[string]verdict, error) {
	got := map[string]verdict{}
	var mu sync.Mutex
	var timer *time.Timer
	late := map[string]bool{}
	stop := func() {
		if timer != nil {
			timer.Stop()
		}
	}
	defer stop()
	// The name comes at the start of a test and its end on the same line, so lines are read byte by byte.
	in := bufio.NewReader(r)
	var text strings.Builder
	begun := false
	for {
		b, err := in.ReadByte()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if b != '\n' {
			text.WriteByte(b)
			if m := line.FindStringSubmatch(text.String()); !begun && m != nil && (b == ' ') {
				begun = true
				test := m[1]
				stop()
				timer = time.AfterFunc(x.limit, func() {
					mu.Lock()
					late[test] = true
					mu.Unlock()
					killTest(test)
				})
			}
			continue
		}
		m := line.FindStringSubmatch(text.String())
		text.Reset()
		begun = false
		if m == nil || got[m[1]].status != "" {
			continue
		}
		stop()
		v := verdict{"pass", ""}
		switch end := m[3]; {
		case strings.Contains(end, "[not run]"):
			v = verdict{"notrun", strings.TrimSpace(end[strings.Index(end, "[not run]")+9:])}
		case strings.Contains(end, "[expunged]"):
			v = verdict{"notrun", "left out"}
		case strings.Contains(end, "[failed") || strings.Contains(end, "- output mismatch") || strings.Contains(end, "_check_"):
			v = verdict{"fail", end}
		}
		mu.Lock()
		if late[m[1]] {
			v = verdict{"fail", fmt.Sprintf("took longer than %v", x.limit)}
		}
		mu.Unlock()
		got[m[1]] = v
		fmt.Fprintf(x.out, "%s %s %s\n", m[1], v.status, v.why)
	}
}

// killTest ends the processes of a test: those that have its name as an argument, and their children.
func killTest(test string) {
	parents := map[int]int{}
	var kill []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var pid, ppid int
		fmt.Sscanf(filepath.Base(d), "%d", &pid)
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
		var state string
		fmt.Sscan(rest, &state, &ppid)
		parents[pid] = ppid
		args, _ := os.ReadFile(d + "/cmdline")
		if strings.Contains(string(args), "/tests/"+test+"\x00") && !strings.Contains(string(args), "/check\x00") {
			kill = append(kill, pid)
		}
	}
	for i := 0; i < len(kill); i++ {
		for pid, ppid := range parents {
			if ppid == kill[i] && !slices.Contains(kill, pid) {
				kill = append(kill, pid)
			}
		}
	}
	for _, pid := range kill {
		unix.Kill(pid, unix.SIGKILL)
	}
}
