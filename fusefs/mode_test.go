package fusefs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// orders returns every order of: two descriptors that are opened, mapped, closed
// and unmapped, and of the moment L at which the file becomes local.
func orders() []string {
	var all []string
	var extend func(done string)
	events := "AaxyBbzwL" // open, map, close, unmap of the first; of the second
	before := map[byte]byte{'a': 'A', 'x': 'A', 'y': 'a', 'b': 'B', 'z': 'B', 'w': 'b'}
	// A mapping is made from an open descriptor.
	notAfter := map[byte]byte{'a': 'x', 'b': 'z'}
	extend = func(done string) {
		if len(done) == len(events) {
			all = append(all, done)
			return
		}
		for i := range len(events) {
			e := events[i]
			if strings.IndexByte(done, e) >= 0 {
				continue
			}
			if b, ok := before[e]; ok && strings.IndexByte(done, b) < 0 {
				continue
			}
			if n, ok := notAfter[e]; ok && strings.IndexByte(done, n) >= 0 {
				continue
			}
			extend(done + string(e))
		}
	}
	extend("")
	return all
}

const modeFileSize = 2*sector + 1000

func init() { children["modes"] = modesChild }

// modesChild runs each order, one file each, in a process of its own: a page
// fault on a mount that the same process serves could stop it. It asks for L on stdout and waits for the answer on stdin.
func modesChild(args []string) error {
	answers := bufio.NewReader(os.Stdin)
	step, _ := strconv.Atoi(args[1])
	for i, order := range orders() {
		if i%step != 0 {
			continue
		}
		local := func() error {
			fmt.Println(i)
			_, err := answers.ReadString('\n')
			return err
		}
		if err := runOrder(filepath.Join(args[0], strconv.Itoa(i)), uint64(i), order, local); err != nil {
			return fmt.Errorf("order %s: %w", order, err)
		}
	}
	return nil
}

func runOrder(path string, seed uint64, order string, local func() error) error {
	want := pattern(seed, modeFileSize)
	var fd [2]int
	var mem [2][]byte
	check := func(at byte, got []byte) error {
		if i := firstDifference(got, want); i >= 0 {
			return fmt.Errorf("at %c: byte %d differs", at, i)
		}
		return nil
	}
	for n, e := range []byte(order) {
		i := strings.IndexByte("AaxyBbzw", e) / 4
		var err error
		switch e {
		case 'A', 'B':
			fd[i], err = unix.Open(path, unix.O_RDWR, 0)
			if err == nil {
				mark := []byte(fmt.Sprintf("<%c%d>", e, n))
				off := sector - 3 + 20*i
				copy(want[off:], mark)
				_, err = unix.Pwrite(fd[i], mark, int64(off))
			}
		case 'a', 'b':
			mem[i], err = unix.Mmap(fd[i], 0, modeFileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				mark := []byte(fmt.Sprintf("<%c%d>", e, n))
				off := 2*sector - 3 + 20*i
				copy(want[off:], mark)
				copy(mem[i][off:], mark)
			}
		case 'x', 'z':
			err = unix.Close(fd[i])
			fd[i] = 0
		case 'y', 'w':
			err = unix.Munmap(mem[i])
			mem[i] = nil
		case 'L':
			err = local()
		}
		if err != nil {
			return fmt.Errorf("at %c: %w", e, err)
		}
		for i := range fd {
			if fd[i] != 0 {
				got := make([]byte, modeFileSize)
				if _, err := unix.Pread(fd[i], got, 0); err != nil {
					return fmt.Errorf("at %c: read: %w", e, err)
				}
				if err := check(e, got); err != nil {
					return err
				}
			}
			if mem[i] != nil {
				if err := check(e, mem[i]); err != nil {
					return fmt.Errorf("mapping: %w", err)
				}
			}
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return check('.', got)
}

func firstDifference(a, b []byte) int {
	for i := range b {
		if i >= len(a) || a[i] != b[i] {
			return i
		}
	}
	if len(a) > len(b) {
		return len(b)
	}
	return -1
}

func TestModes_EveryOrderWhileTheFileBecomesLocal(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("passthrough=%t", !through), func(t *testing.T) {
			src := newSubvolume(t)
			res := newPartial(t, src)
			step := 1
			if through || testing.Short() {
				step = 7
			}
			files := map[string]*remoteFile{}
			for i := range orders() {
				if i%step == 0 {
					name := strconv.Itoa(i)
					files[name] = res.add(t, filepath.Join(src, name), pattern(uint64(i), modeFileSize))
				}
			}
			w := mountTest(t, src, res, Options{NoPassthrough: through})
			cmd := child("modes", w.mnt, strconv.Itoa(step))
			in, err := cmd.StdinPipe()
			must(t, err)
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				rf := files[lines.Text()]
				if rf == nil {
					t.Error(lines.Text())
					continue
				}
				must(t, rf.becomeLocal())
				io.WriteString(in, "\n")
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			waitFor(t, func() bool {
				w.nodes.mu.Lock()
				defer w.nodes.mu.Unlock()
				return len(w.nodes.byIno) == 0
			})
		})
	}
}

func TestModes_TurnToPassthroughAtTheNextOpen(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	want := pattern(3, modeFileSize)
	rf := res.add(t, filepath.Join(src, "f"), want)
	w := mountTest(t, src, res, Options{})
	p := filepath.Join(w.mnt, "f")
	mode := func() (cached, pass int) { return w.modes(rf.ino) }
	f, err := os.Open(p)
	must(t, err)
	if c, b := mode(); c != 1 || b != 0 {
		t.Errorf("incomplete: %d cached, %d passed through", c, b)
	}
	must(t, rf.becomeLocal())
	g, err := os.Open(p)
	must(t, err)
	if c, b := mode(); c != 2 || b != 0 {
		t.Errorf("local, a cached handle open: %d cached, %d passed through", c, b)
	}
	must(t, f.Close())
	must(t, g.Close())
	waitFor(t, func() bool { c, _ := mode(); return c == 0 })
	f, err = os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	if c, b := mode(); w.magic && (c != 0 || b != 1) {
		t.Errorf("local: %d cached, %d passed through", c, b)
	}
	_, err = f.WriteAt([]byte("new"), 5)
	must(t, err)
	copy(want[5:], "new")
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("content differs after the turn")
	}
}
