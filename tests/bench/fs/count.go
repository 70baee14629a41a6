package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// kinds are the requests that the rows on names make, with their numbers in the protocol.
var kinds = []struct {
	name   string
	opcode int
}{
	{"LOOKUP", 1}, {"GETATTR", 3}, {"SETATTR", 4}, {"READLINK", 5}, {"SYMLINK", 6}, {"MKDIR", 9}, {"UNLINK", 10}, {"RMDIR", 11}, {"RENAME2", 45},
	{"OPEN", 14}, {"CREATE", 35}, {"READ", 15}, {"WRITE", 16}, {"FSYNC", 20}, {"FLUSH", 25}, {"RELEASE", 18}, {"GETXATTR", 22},
	{"OPENDIR", 27}, {"READDIR", 28}, {"READDIRPLUS", 44}, {"RELEASEDIR", 29},
}

// count is what one row cost the process that serves.
type count struct {
	requests       map[string]float64 // by kind; "": all
	calls          float64            // system calls
	switches, msec float64
}

// counts runs the rows on names once on our mount and once on the loopback, and prints what no load of the machine changes: the requests
// that the kernel makes, and how many system calls the process that serves makes for them.
func (b *bench) counts(ctx context.Context) error {
	if _, err := exec.LookPath("perf"); err != nil {
		return errors.New("counting wants perf: apt install linux-perf")
	}
	var places []*place
	for _, k := range [][2]string{{"mount", "ours"}, {"loopback", "loopback"}} {
		p, err := b.newPlace(k[0], k[1], "")
		if err != nil {
			return err
		}
		places = append(places, p)
	}
	if err := b.makeTar(ctx); err != nil {
		return err
	}
	names, err := countTar(b.tar)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "for each name\t\trequests\tsystem calls\tswitches\tCPU µs\trequests by kind, for a thousand names")
	for _, r := range metaRows {
		for _, p := range places {
			if r.remount {
				if err := p.remount(); err != nil {
					return err
				}
			}
			c, err := b.count(ctx, p, r.command)
			if err != nil {
				return err
			}
			n := float64(names)
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%.1f\t%.1f\t%.0f\t%s\n", r.name, p.name, c.requests[""]/n, c.calls/n, c.switches/n, 1000*c.msec/n, c.byKind(n))
		}
	}
	return t.Flush()
}

// byKind lists the kinds that are more than one for a thousand names, the most frequent first.
func (c count) byKind(names float64) string {
	var all []string
	for k, n := range c.requests {
		if k != "" && n >= names/1000 {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return int(c.requests[b] - c.requests[a]) })
	for i, k := range all {
		all[i] = fmt.Sprintf("%.0f %s", 1000*c.requests[k]/names, k)
	}
	return strings.Join(all, ", ")
}

// count runs a command line on p, and perf around it twice: for the requests of the connection, and for the process that serves it.
func (b *bench) count(ctx context.Context, p *place, command string) (count, error) {
	c := count{requests: map[string]float64{}}
	var st unix.Stat_t
	if err := unix.Stat(p.dir, &st); err != nil {
		return c, err
	}
	byKind, byProcess := filepath.Join(b.dir, "kinds.perf"), filepath.Join(b.dir, "process.perf")
	args := []string{"stat", "-x,", "-o", byProcess, "-p", strconv.Itoa(p.cmd.Process.Pid), "-e", "raw_syscalls:sys_enter,context-switches,task-clock", "--",
		"perf", "stat", "-x,", "-o", byKind, "-a"}
	filter := fmt.Sprintf("connection == %d", unix.Minor(st.Dev))
	args = append(args, "-e", "fuse:fuse_request_send", "--filter", filter)
	for _, k := range kinds {
		args = append(args, "-e", "fuse:fuse_request_send", "--filter", fmt.Sprintf("%s && opcode == %d", filter, k.opcode))
	}
	cmd := exec.CommandContext(ctx, "perf", append(args, "--", "bash", "-ec", fmt.Sprintf("TAR=%s; %s", b.tar, command))...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent")
	if out, err := cmd.CombinedOutput(); err != nil {
		return c, fmt.Errorf("perf: %w: %s", err, bytes.TrimSpace(out))
	}
	v, err := perfValues(byProcess, 3)
	if err != nil {
		return c, err
	}
	c.calls, c.switches, c.msec = v[0], v[1], v[2]
	if v, err = perfValues(byKind, 1+len(kinds)); err != nil {
		return c, err
	}
	c.requests[""] = v[0]
	for i, k := range kinds {
		c.requests[k.name] = v[1+i]
	}
	return c, nil
}

// perfValues are the first fields of a file of perf stat, in the order of its events.
func perfValues(file string, n int) ([]float64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var v []float64
	for line := range strings.Lines(string(b)) {
		first, _, ok := strings.Cut(line, ",")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		f, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return nil, fmt.Errorf("perf counted nothing: %s", strings.TrimSpace(line))
		}
		v = append(v, f)
	}
	if len(v) != n {
		return nil, fmt.Errorf("perf counted %d things, not %d: %s", len(v), n, b)
	}
	return v, nil
}
