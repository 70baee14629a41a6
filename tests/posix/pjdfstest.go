package main

import (
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
	"time"

	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
)

// proved is what prove(1) says of a file with failures.
var proved = regexp.MustCompile(`tests/(\S+\.t)\s+\(Wstat: [^)]*Failed: [1-9]\d*\)\n\s+Failed tests?:\s+(.*)`)

// broken is what it says of one that ended early.
var broken = regexp.MustCompile(`tests/(\S+\.t)\s+\(Wstat: [1-9]\d*[^)]*\)`)

// prove runs the scripts of pjdfstest in the folder dir, and returns which of their checks failed, and how many there were.
func prove(ctx context.Context, checkout, only, dir string) (failed []string, count string, err error) {
	// The shell changes to dir, not this process's child before its exec: it could wait for a mount that this process serves.
	cmd := exec.CommandContext(ctx, "sh", "-c", `cd "$0" && exec prove -r "$1"`, dir, filepath.Join(checkout, "tests", only))
	out, _ := cmd.CombinedOutput() // not 0 where a check failed
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	n := regexp.MustCompile(`Files=\d+, Tests=(\d+)`).FindSubmatch(out)
	if n == nil {
		return nil, "", fmt.Errorf("pjdfstest did not run:\n%s", out)
	}
	for _, m := range proved.FindAllStringSubmatch(string(out), -1) {
		failed = append(failed, m[1]+" "+m[2])
	}
	for _, m := range broken.FindAllStringSubmatch(string(out), -1) {
		if !slices.ContainsFunc(failed, func(f string) bool { return strings.HasPrefix(f, m[1]+" ") }) {
			failed = append(failed, m[1]+" ended early")
		}
	}
	slices.Sort(failed)
	return failed, string(n[1]), nil
}

// runPjdfstest compares plain BTRFS with a mount in both states.
func (c config) runPjdfstest(ctx context.Context, s *stage, out io.Writer) error {
	plain, err := s.plain("pjdfstest-plain")
	if err != nil {
		return err
	}
	began := time.Now()
	want, count, err := prove(ctx, c.pjdfstest, c.only, plain)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "pjdfstest on BTRFS: %s checks in %v; failed: %q\n", count, time.Since(began).Round(time.Second), want)
	var wrong []error
	for _, state := range []string{stateLocal, stateHalf} {
		began := time.Now()
		name := "pjdfstest-" + state
		if err := s.state(ctx, name, state); err != nil {
			return err
		}
		dir := filepath.Join(s.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		m, err := s.mount(name, dir, lazy.Options{Prefetch: lazy.PrefetchNone}, fusefs.Options{})
		if err != nil {
			return err
		}
		got, n, err := prove(ctx, c.pjdfstest, c.only, dir)
		if err := errors.Join(err, m.unmount()); err != nil {
			return err
		}
		fmt.Fprintf(out, "pjdfstest on a mount (%s): %s checks in %v; failed: %q\n", state, n, time.Since(began).Round(time.Second), got)
		if !slices.Equal(got, want) || n != count {
			wrong = append(wrong, fmt.Errorf("pjdfstest: the mount (%s) is not as BTRFS", state))
		}
	}
	return errors.Join(wrong...)
}
