package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { children["madestore"] = madeStoreChild }

// madeStoreChild makes the file args[0], which the kernel may keep attributes of, and stores through a mapping of it.
func madeStoreChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, 4096); err != nil {
		return err
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	var before, after unix.Stat_t
	if err := unix.Stat(args[0], &before); err != nil {
		return err
	}
	time.Sleep(clockStep)
	mem[7] = 'x'
	if err := unix.Munmap(mem); err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if err := unix.Stat(args[0], &after); err != nil {
		return err
	}
	if before.Mtim == after.Mtim || before.Ctim == after.Ctim || after.Size != 4096 {
		return fmt.Errorf("mtime %v became %v, ctime %v became %v, size %d", before.Mtim, after.Mtim, before.Ctim, after.Ctim, after.Size)
	}
	return nil
}

func TestMade_StoreThroughAMappingIsSeen(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for i := range 5 {
			runInChild(t, "madestore", filepath.Join(dir, fmt.Sprint("f", i)))
		}
	})
}

func TestMade_CapabilitiesSetWhileItIsOpenAreSeen(t *testing.T) {
	caps := []byte{1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o755)
		must(t, err)
		defer f.Close()
		got := make([]byte, 64)
		_, err = unix.Getxattr(p, capsXattr, got)
		wantErr(t, "of a new file", err, unix.ENODATA)
		must(t, unix.Setxattr(p, capsXattr, caps, 0))
		n, err := unix.Getxattr(p, capsXattr, got)
		must(t, err)
		if string(got[:n]) != string(caps) {
			t.Errorf("capabilities %x, want %x", got[:n], caps)
		}
		_, err = f.WriteString("x") // takes them
		must(t, err)
		_, err = unix.Getxattr(p, capsXattr, got)
		wantErr(t, "after a write", err, unix.ENODATA)
	})
}

// What each kind of request comes how often for a file that is made, written and given its owner, mode and times, as by tar.
func TestMade_RequestsOfAFile(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	w := mountTest(t, newSubvolume(t), complete{}, Options{Observe: func(op string, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		seen[op]++
	}})
	count := func(op string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[op]
	}
	const files = 20
	for i := range files {
		f, err := os.OpenFile(filepath.Join(w.mnt, fmt.Sprint("f", i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		must(t, err)
		_, err = f.WriteString("content")
		must(t, err)
		must(t, f.Chmod(0o644))
		must(t, f.Close())
	}
	// One of the directory for each new name; none of the file.
	if n := count("getattr"); n > files+files/2 {
		t.Errorf("%d getattr for %d files", n, files)
	}
	if n := count("create"); n != files {
		t.Errorf("%d create for %d files", n, files)
	}
}

func TestBehind_AttributesReadBeforeItWasForgottenAreNotKept(t *testing.T) {
	b := &behind{seen: map[uint64]uint64{}, mapped: map[uint64]uint64{}}
	forget := func(ino uint64) {
		b.add(ino)
		b.look(ino, b.adds, false)
	}
	before := b.forgotten.Load()
	b.add(7)
	if !b.had(7, before) || b.had(8, before) {
		t.Error("while it is open for writing")
	}
	b.look(7, b.adds, false)
	if !b.had(7, before) || b.had(8, before) || b.had(7, b.forgotten.Load()) {
		t.Error("after it was forgotten")
	}
	for i := range len(b.last) - 1 {
		forget(uint64(100 + i))
	}
	if !b.had(7, before) || b.had(8, before) {
		t.Error("when the ring is full")
	}
	forget(99)
	if !b.had(7, before) || !b.had(8, before) || b.had(7, b.forgotten.Load()) {
		t.Error("when more were forgotten than the ring holds")
	}
}
