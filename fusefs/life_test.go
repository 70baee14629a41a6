package fusefs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openFDs(t *testing.T) []string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var all []string
	for _, e := range list {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The runtime's own poller, and the pipes and the /dev/null that the protocol library keeps, do not belong to a mount.
		if err == nil && to != "/dev/null" && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "pipe:") && to != "/proc/self/fd" && !strings.HasSuffix(to, "/fd") {
			all = append(all, to)
		}
	}
	return all
}

func TestUnmount_LeavesNothing(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	for i := range 20 {
		res.add(t, filepath.Join(src, fmt.Sprint(i)), pattern(uint64(i), 3*sector))
	}
	fds, routines := openFDs(t), runtime.NumGoroutine()
	w := mountTest(t, src, res, Options{})
	own := openFDs(t) // the Tree of the mount stays open until the end of the test
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 100 {
				p := filepath.Join(w.mnt, fmt.Sprint((n+i)%20))
				f, err := os.OpenFile(p, os.O_RDWR, 0)
				if err != nil {
					t.Error(err)
					return
				}
				f.ReadAt(make([]byte, 100), 5000)
				f.Close()
				os.ReadDir(w.mnt)
			}
		})
	}
	wg.Wait()
	must(t, w.Unmount())
	must(t, w.Unmount())
	if now := openFDs(t); len(now) > len(fds)+1 {
		t.Errorf("descriptors before: %q\nmounted: %q\nafter: %q", fds, own, now)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= routines })
	if len(w.nodes.byIno) != 0 || len(w.handles.byID) != 0 {
		t.Errorf("%d inodes and %d handles left", len(w.nodes.byIno), len(w.handles.byID))
	}
}

func TestUnmount_BusyThenDetached(t *testing.T) {
	w := newWorld(t)
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	must(t, err)
	wantErr(t, "unmount in use", w.Unmount(), unix.EBUSY)
	must(t, w.Detach())
	_, err = f.WriteString("still served")
	must(t, err)
	_, err = f.Stat()
	must(t, err)
	must(t, f.Close())
	w.Wait()
}

func TestMount_ReadOnlyAndFenced(t *testing.T) {
	src := newSubvolume(t)
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("x"), 0o644))
	w := mountTest(t, src, complete{}, Options{ReadOnly: true})
	wantErr(t, "mkdir on a read-only mount", os.Mkdir(filepath.Join(w.mnt, "d"), 0o755), unix.EROFS)
	must(t, w.Unmount())
	w = mountTest(t, src, complete{}, Options{})
	w.Fence(true)
	wantErr(t, "mkdir when fenced", os.Mkdir(filepath.Join(w.mnt, "d"), 0o755), unix.EROFS)
	_, err := os.OpenFile(filepath.Join(w.mnt, "f"), os.O_RDWR, 0)
	wantErr(t, "open for writing when fenced", err, unix.EROFS)
	_, err = os.ReadFile(filepath.Join(w.mnt, "f"))
	must(t, err)
	w.Fence(false)
	must(t, os.Mkdir(filepath.Join(w.mnt, "d"), 0o755))
}

func TestMount_WantsASubvolume(t *testing.T) {
	d := filepath.Join(newSubvolume(t), "d")
	must(t, os.Mkdir(d, 0o755))
	if _, err := Mount(openTree(t, d), complete{}, t.TempDir(), Options{}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
}

func TestLimit_GivesENOSPC(t *testing.T) {
	const total = 100 << 20
	var used atomic.Uint64
	used.Store(40 << 20)
	w := mountTest(t, newSubvolume(t), complete{}, Options{Limit: func() (uint64, uint64) { return total, used.Load() }})
	var st unix.Statfs_t
	must(t, unix.Statfs(w.mnt, &st))
	if st.Blocks*uint64(st.Bsize) != total || st.Bavail*uint64(st.Bsize) != 60<<20 {
		t.Errorf("%d bytes, %d free", st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize))
	}
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 10<<20))
	must(t, err)
	must(t, f.Sync())
	used.Store(total - 1000)
	_, err = f.Write(make([]byte, 8192))
	wantErr(t, "write past the limit", err, unix.ENOSPC)
	wantErr(t, "fallocate past the limit", unix.Fallocate(int(f.Fd()), 0, 0, 20<<20), unix.ENOSPC)
	_, err = f.WriteAt(make([]byte, 8192), 4096)
	must(t, err) // what is there can be overwritten
	used.Store(total)
	wantErr(t, "mkdir when full", os.Mkdir(filepath.Join(w.mnt, "d"), 0o755), unix.ENOSPC)
	must(t, os.Remove(filepath.Join(w.mnt, "f")))
}

// TestFreeze_SnapshotHoldsWhatWasWritten snapshots under writers, with and without passthrough. Each writer counts up in
// a block; what it had counted before the freeze has to be in the snapshot.
func TestFreeze_SnapshotHoldsWhatWasWritten(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("passthrough=%t", !through), func(t *testing.T) {
			w := mountTest(t, newSubvolume(t), complete{}, Options{NoPassthrough: through})
			const writers = 4
			var done [writers]atomic.Uint64
			var stop atomic.Bool
			var wg sync.WaitGroup
			for i := range writers {
				f, err := os.Create(filepath.Join(w.mnt, fmt.Sprint(i)))
				must(t, err)
				defer f.Close()
				wg.Go(func() {
					for n := uint64(1); !stop.Load(); n++ {
						if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, n), 0); err != nil {
							t.Error(err)
							return
						}
						done[i].Store(n)
					}
				})
			}
			for round := range 10 {
				time.Sleep(20 * time.Millisecond)
				var before [writers]uint64
				for i := range before {
					before[i] = done[i].Load()
				}
				snap := fmt.Sprintf("%s-%d", w.src, round)
				must(t, w.Freeze(func() error {
					inside := make([]uint64, writers)
					for i := range inside {
						inside[i] = done[i].Load()
					}
					out, err := exec.Command("btrfs", "-q", "subvolume", "snapshot", "-r", w.src, snap).CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					for i := range inside {
						// One write may have returned just before the gate closed and be counted only now.
						if now := done[i].Load(); through && now > inside[i]+1 {
							t.Errorf("writer %d went on from %d to %d", i, inside[i], now)
						}
					}
					return nil
				}))
				for i := range before {
					b, err := os.ReadFile(filepath.Join(snap, fmt.Sprint(i)))
					must(t, err)
					if got := binary.NativeEndian.Uint64(append(b, make([]byte, 8)...)); got < before[i] {
						t.Errorf("round %d: the snapshot holds %d, %d was written", round, got, before[i])
					}
				}
				run(t, "btrfs", "-q", "subvolume", "delete", snap)
			}
			stop.Store(true)
			wg.Wait()
		})
	}
}

func TestFreeze_ReturnsTheError(t *testing.T) {
	w := newWorld(t)
	wantErr(t, "freeze", w.Freeze(func() error { return unix.EBUSY }), unix.EBUSY)
	must(t, os.Mkdir(filepath.Join(w.mnt, "d"), 0o755))
}

// TestStress_ConcurrentUse lets many goroutines work on few names while files become local; no
// error but those of names that come and go, and no wrong byte.
func TestStress_ConcurrentUse(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	res.delay = 100 * time.Microsecond
	const files, size = 30, 10 * sector
	var remote []*remoteFile
	for i := range files {
		remote = append(remote, res.add(t, filepath.Join(src, fmt.Sprint("r", i)), pattern(uint64(i), size)))
	}
	var seen sync.Map
	w := mountTest(t, src, res, Options{Observe: func(op string, took time.Duration) { seen.Store(op, took) }})
	expected := []error{unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.EINVAL}
	ok := func(err error) {
		if err == nil {
			return
		}
		for _, e := range expected {
			if errors.Is(err, e) {
				return
			}
		}
		t.Error(err)
	}
	end := time.Now().Add(4 * time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, rf := range remote {
			time.Sleep(100 * time.Millisecond)
			if err := rf.becomeLocal(); err != nil {
				t.Error(err)
			}
		}
	})
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			own := filepath.Join(w.mnt, fmt.Sprint("own", g))
			name := func() string { return filepath.Join(w.mnt, fmt.Sprint("n", rnd.IntN(10))) }
			for time.Now().Before(end) {
				switch rnd.IntN(9) {
				case 0:
					i := rnd.IntN(files)
					got, err := os.ReadFile(filepath.Join(w.mnt, fmt.Sprint("r", i)))
					ok(err)
					if err == nil && !bytes.Equal(got, pattern(uint64(i), size)) {
						t.Errorf("file %d differs", i)
					}
				case 1:
					data := pattern(rnd.Uint64(), rnd.IntN(20000))
					ok(os.WriteFile(own, data, 0o644))
					got, err := os.ReadFile(own)
					ok(err)
					if !bytes.Equal(got, data) {
						t.Errorf("%s differs", own)
					}
				case 2:
					ok(os.WriteFile(name(), []byte("x"), 0o644))
				case 3:
					ok(os.Rename(name(), name()))
				case 4:
					ok(os.Remove(name()))
				case 5:
					ok(os.Mkdir(name(), 0o755))
				case 6:
					_, err := os.ReadDir(w.mnt)
					ok(err)
				case 7:
					if err := os.Link(name(), name()); !errors.Is(err, unix.EPERM) { // of a directory
						ok(err)
					}
				case 8:
					ok(os.Chmod(filepath.Join(w.mnt, fmt.Sprint("r", rnd.IntN(files))), 0o640))
				}
			}
		})
	}
	wg.Wait()
	for _, op := range []string{"lookup", "open", "create", "read", "rename", "release"} {
		if _, there := seen.Load(op); !there {
			t.Errorf("%s was not observed", op)
		}
	}
}

func init() {
	children["hold"] = func(args []string) error {
		f, err := os.OpenFile(filepath.Join(args[0], "f"), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("written"), 4096); err != nil {
			return err
		}
		copy(m, "stored")
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n')
		_, err = f.WriteAt([]byte("late"), 8192)
		fmt.Println(err)
		return nil
	}
}

// TestUnmount_EndsWhatAnotherNameSpaceHolds: a process in a mount name space of its own keeps a copy of the mount, with a file open and a mapping that it has stored to.
func TestUnmount_EndsWhatAnotherNameSpaceHolds(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("passthrough=%t", !through), func(t *testing.T) {
			src := newSubvolume(t)
			must(t, os.WriteFile(filepath.Join(src, "f"), make([]byte, 3*4096), 0o644))
			w := mountTest(t, src, complete{}, Options{NoPassthrough: through})
			cmd := child("hold", w.mnt)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
			in, err := cmd.StdinPipe()
			must(t, err)
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			lines := bufio.NewReader(out)
			if l, err := lines.ReadString('\n'); l != "ready\n" {
				t.Fatalf("%q, %v", l, err)
			}
			ended := make(chan error, 1)
			go func() { ended <- w.Unmount() }()
			select {
			case err := <-ended:
				must(t, err)
			case <-time.After(2 * time.Minute):
				cmd.Process.Kill()
				<-ended
				t.Fatal("waited for the other name space")
			}
			b, err := os.ReadFile(filepath.Join(src, "f"))
			must(t, err)
			if !bytes.HasPrefix(b, []byte("stored")) || !bytes.HasPrefix(b[4096:], []byte("written")) {
				t.Errorf("the file holds %q and %q", b[:8], b[4096:4104])
			}
			_, err = in.Write([]byte("\n"))
			must(t, err)
			if l, err := lines.ReadString('\n'); through && !strings.Contains(l, "endpoint is not connected") && !strings.Contains(l, "connection abort") {
				t.Errorf("a write after the end says %q, %v", l, err)
			}
		})
	}
}
