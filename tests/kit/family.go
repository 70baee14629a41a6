package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// relative is a process by number and the time of its start: numbers are used again.
type relative struct {
	pid, group int
	started    string
}

// procStat is what /proc/PID/stat says of a process; see proc(5).
type procStat struct {
	state         string
	parent, group int
	threads       int
	started       string
}

// statOf returns false where there is no such process.
func statOf(pid int) (s procStat, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	// pid (name) state ppid pgrp ...: the name may hold anything but ends at the last ")".
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return s, false
	}
	s = procStat{state: f[0], started: f[19]}
	for i, n := range map[int]*int{1: &s.parent, 2: &s.group, 17: &s.threads} {
		if *n, err = strconv.Atoi(f[i]); err != nil {
			return s, false
		}
	}
	return s, true
}

// descendantsOf returns the processes below pid, nearest first.
func descendantsOf(pid int) (list []relative) {
	children := map[int][]relative{}
	stats, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, name := range stats {
		child, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if s, ok := statOf(child); ok {
			children[s.parent] = append(children[s.parent], relative{pid: child, group: s.group, started: s.started})
		}
	}
	list = append(list, children[pid]...)
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i].pid]...)
	}
	return list
}

// gone reports whether nothing is left of the process that could hold a file. A zombie whose threads have all ended is gone: those whose parent has ended
// nobody here can wait for.
func (r relative) gone() bool {
	s, ok := statOf(r.pid)
	return !ok || s.started != r.started || (s.state == "Z" || s.state == "X") && s.threads <= 1
}

// kill ends the process, and its group where it is the head of one.
func (r relative) kill() {
	if r.gone() {
		return
	}
	if r.group == r.pid {
		_ = syscall.Kill(-r.pid, syscall.SIGKILL)
	}
	_ = syscall.Kill(r.pid, syscall.SIGKILL)
}

// awaitGone waits until all are gone; false where some are not within patience.
func awaitGone(all []relative, patience time.Duration) bool {
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		left := false
		for _, r := range all {
			left = left || !r.gone()
		}
		if !left {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// peakOf returns the sum of the most memory that pid and its descendants have held each (VmHWM), in bytes; 0 when it has ended. A child that still
// shares its parent's memory, between vfork and exec, is not counted twice.
func peakOf(pid int) (sum int64) {
	seen := map[string]bool{}
	pids := []int{pid}
	for _, r := range descendantsOf(pid) {
		pids = append(pids, r.pid)
	}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil { // ended
			continue
		}
		var who string
		var peak int64
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			switch f[0] {
			case "VmPeak:", "VmData:":
				who += f[1] + " "
			case "VmHWM:":
				who += f[1]
				peak, _ = strconv.ParseInt(f[1], 10, 64) // the kernel writes numbers
			}
		}
		if !seen[who] {
			seen[who] = true
			sum += peak << 10
		}
	}
	return sum
}
