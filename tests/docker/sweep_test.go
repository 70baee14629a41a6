//go:build docker

package docker

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// tag is what the names of a world's name spaces and control groups begin with.
func tag(dir string) string { return filepath.Base(dir) }

// sweep takes away all of the world in dir and returns what was there but files.
func sweep(dir string) (left []string) {
	for range 50 {
		pids := processesOf(dir)
		if len(pids) == 0 {
			break
		}
		for pid, name := range pids {
			left = append(left, "process "+name)
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		time.Sleep(100 * time.Millisecond)
		reap()
	}
	for _, m := range slices.Backward(mountsUnder(dir)) {
		left = append(left, "mount "+m)
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			left = append(left, fmt.Sprintf("unmount %s: %v", m, err))
		}
	}
	for _, name := range netnsOf(dir) {
		left = append(left, "network name space "+name)
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			left = append(left, fmt.Sprintf("%v: %s", err, out))
		}
	}
	for _, g := range cgroupsOf(dir) {
		left = append(left, "control group "+g)
		_ = os.Remove(g) // the next run tries again
	}
	sockets, _ := filepath.Glob(dir + "/*/data/plugins/" + strings.Repeat("[0-9a-f]", 64))
	for _, p := range sockets { // folders of sockets, which Docker has outside of its exec root
		_ = os.RemoveAll(filepath.Join("/run/docker/plugins", filepath.Base(p)))
	}
	for _, pattern := range []string{"/run/docker/plugins/", "/etc/docker/plugins/"} {
		list, _ := filepath.Glob(pattern + tag(dir) + "-*")
		for _, p := range list {
			left = append(left, p)
			_ = os.Remove(p) // named above
		}
	}
	slices.Sort(left)
	left = slices.Compact(left)
	for range 20 {
		found, err := kit.Leaks(dir)
		if err == nil && len(found) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if found, err := kit.Leaks(dir); err != nil || len(found) > 0 {
		return append(left, append(found, fmt.Sprintf("cannot be taken away: %v", err))...)
	}
	if err := os.RemoveAll(dir); err != nil {
		left = append(left, err.Error())
	}
	return left
}

// processesOf finds the processes of a world: by their arguments, their network name space, and their control group.
func processesOf(dir string) map[int]string {
	spaces := map[string]bool{}
	for _, n := range netnsOf(dir) {
		var st unix.Stat_t
		if unix.Stat("/run/netns/"+n, &st) == nil {
			spaces[fmt.Sprintf("net:[%d]", st.Ino)] = true
		}
	}
	own := map[int]bool{os.Getpid(): true, os.Getppid(): true}
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range dirs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || own[pid] {
			continue
		}
		args, _ := os.ReadFile(p + "/cmdline")
		net, _ := os.Readlink(p + "/ns/net")
		groups, _ := os.ReadFile(p + "/cgroup")
		if strings.Contains(string(args), dir+"/") || spaces[net] || strings.Contains(string(groups), "/"+tag(dir)+"-") {
			found[pid] = strings.ReplaceAll(strings.TrimRight(string(args), "\x00"), "\x00", " ")
		}
	}
	return found
}

func mountsUnder(dir string) (all []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			all = append(all, f[4])
		}
	}
	return all
}

func netnsOf(dir string) (names []string) {
	list, _ := filepath.Glob("/run/netns/" + tag(dir) + "-*")
	for _, n := range list {
		names = append(names, filepath.Base(n))
	}
	return names
}

// cgroupsOf returns the control groups of containers and plugins, the deepest first.
func cgroupsOf(dir string) (groups []string) {
	ids := map[string]bool{}
	for _, pattern := range []string{"/*/data/plugins/*", "/*/data/containers/*"} {
		list, _ := filepath.Glob(dir + pattern)
		for _, p := range list {
			if id := filepath.Base(p); len(id) == 64 {
				ids[id] = true
			}
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (ids[d.Name()] || strings.HasPrefix(d.Name(), tag(dir)+"-")) {
			groups = append(groups, path)
		}
		return nil
	})
	slices.SortFunc(groups, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return groups
}
