package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// explained are the tests that a mount fails and plain BTRFS does not. docs/POSIX.md says for each why it stays; a
// test holds the two against each other.
var explained = map[string]string{
	"generic/003": "access times follow the pool, which is mounted noatime",
	"generic/020": "the test takes 64 KiB for the largest xattr of FUSE",
	"generic/424": "the kernel does not pass the attributes of FUSE_STATX on",
}

// leftOut are the tests that are not run, and why.
var leftOut = map[string]string{
	"generic/732": "mounts one file system at two places: the driver mounts a volume once, and Docker shares that mount",
}

// runXfstests runs the group quick on a mount in each state, what fails there on plain BTRFS too, and prints the difference.
func (c config) runXfstests(ctx context.Context, s *stage, socket string, out io.Writer) error {
	x := &xfstests{checkout: c.xfstests, dir: s.dir, limit: c.limit, out: out}
	tests := strings.Fields(c.tests)
	if len(tests) == 0 {
		var err error
		if tests, err = x.quick(); err != nil {
			return err
		}
		tests = slices.DeleteFunc(tests, func(t string) bool { return leftOut[t] != "" })
	}
	byState := map[string]map[string]verdict{}
	var again []string
	for _, state := range strings.Split(c.mounts, ",") {
		got, err := s.onMount(ctx, x, state, socket, tests)
		if err != nil {
			return err
		}
		byState[state] = got
		for t, v := range got {
			if v.status == "fail" && !slices.Contains(again, t) {
				again = append(again, t)
			}
		}
	}
	slices.Sort(again)
	plain := map[string]verdict{}
	if len(again) > 0 {
		var err error
		if plain, err = s.onBtrfs(ctx, x, again); err != nil {
			return err
		}
	}
	var wrong []error
	for state, got := range byState {
		count := map[string]int{}
		for _, v := range got {
			count[v.status]++
		}
		fmt.Fprintf(out, "xfstests on a mount (%s): %d passed, %d failed, %d not run\n", state, count["pass"], count["fail"], count["notrun"])
		for _, t := range again {
			switch {
			case got[t].status != "fail" || plain[t].status == "fail":
			case explained[t] != "":
				fmt.Fprintf(out, "  only the mount fails %s, as explained: %s\n", t, explained[t])
			default:
				fmt.Fprintf(out, "  only the mount fails %s: %s\n", t, got[t].why)
				wrong = append(wrong, fmt.Errorf("xfstests %s fails on a mount (%s), and does not on BTRFS (%s)", t, state, plain[t].status))
			}
		}
		if len(got) < len(tests) {
			wrong = append(wrong, fmt.Errorf("xfstests: %d of %d tests have no result", len(tests)-len(got), len(tests)))
		}
	}
	return errors.Join(wrong...)
}

// onMount runs tests on two mounts of ours, each on a pool of its own: some tests fill it.
func (s *stage) onMount(ctx context.Context, x *xfstests, state, socket string, tests []string) (got map[string]verdict, err error) {
	stages := map[string]*stage{}
	mnt := filepath.Join(s.dir, "mnt-"+state)
	env := []string{"FSTYP=fuse", "FUSE_SUBTYP=." + mountType}
	for _, of := range []string{"TEST", "SCRATCH"} {
		name := "xfs-" + state + "-" + strings.ToLower(of)
		dir := filepath.Join(s.dir, "pool-"+name)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.MkdirAll(filepath.Join(mnt, name), 0o755)); err != nil {
			return nil, err
		}
		pool, err := newStage(dir, plainSize, s.log)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, pool.close()) }() // after the mounts
		if err := pool.state(ctx, name, state); err != nil {
			return nil, err
		}
		stages[name] = pool
		env = append(env, of+"_DEV="+name, of+map[string]string{"TEST": "_DIR=", "SCRATCH": "_MNT="}[of]+filepath.Join(mnt, name))
	}
	m, err := newMountServer(stages, socket)
	if err != nil {
		return nil, err
	}
	got, err = x.run(ctx, "mount-"+state, env, tests)
	return got, errors.Join(err, m.close())
}

// plainSize is that of each of the two devices.
const plainSize = 6 << 30

// onBtrfs runs tests on BTRFS itself.
func (s *stage) onBtrfs(ctx context.Context, x *xfstests, tests []string) (got map[string]verdict, err error) {
	mnt := filepath.Join(s.dir, "mnt-btrfs")
	env := []string{"FSTYP=btrfs"}
	for _, of := range []string{"TEST", "SCRATCH"} {
		name := strings.ToLower(of)
		image, dir := filepath.Join(s.dir, name+".img"), filepath.Join(mnt, name)
		f, err := os.Create(image)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Truncate(plainSize), f.Close(), os.MkdirAll(dir, 0o755)); err != nil {
			return nil, err
		}
		dev, err := exec.Command("losetup", "-f", "--show", image).Output()
		if err != nil {
			return nil, fmt.Errorf("losetup: %w", err)
		}
		device := strings.TrimSpace(string(dev))
		defer func() {
			_ = exec.Command("umount", dir).Run() // mounted or not
			if out, e := exec.Command("losetup", "-d", device).CombinedOutput(); e != nil {
				err = errors.Join(err, fmt.Errorf("losetup -d: %w: %s", e, out))
			}
		}()
		if out, err := exec.Command("mkfs.btrfs", "-q", "-f", device).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("mkfs.btrfs: %w: %s", err, out)
		}
		env = append(env, of+"_DEV="+device, of+map[string]string{"TEST": "_DIR=", "SCRATCH": "_MNT="}[of]+dir)
	}
	return x.run(ctx, "btrfs", env, tests)
}
