package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { children["seekstore"] = seekStoreChild }

// seekStoreChild stores into a hole of the file args[0] through a mapping, and asks where data is while the mapping is there and nothing is synced.
func seekStoreChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	const size, at = 16 * sector, 8 * sector
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for round := range 2 {
		mem[at+5] = byte('x' + round)
		other, err := unix.Open(args[0], unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if off, err := unix.Seek(other, 0, unix.SEEK_DATA); err != nil || off != at {
			return fmt.Errorf("SEEK_DATA: %d, %w", off, err)
		}
		if off, err := unix.Seek(other, at, unix.SEEK_HOLE); err != nil || off != at+sector {
			return fmt.Errorf("SEEK_HOLE: %d, %w", off, err)
		}
		b := make([]byte, 1)
		if _, err := unix.Pread(other, b, at+5); err != nil || b[0] != byte('x'+round) || mem[at+5] != b[0] {
			return fmt.Errorf("read %q: %w", b, err)
		}
		if err := unix.Close(other); err != nil {
			return err
		}
	}
	return unix.Munmap(mem)
}

// TestSeek_FindsWhatAMappingStored: who copies a file in use, by where its data is, must not miss any.
func TestSeek_FindsWhatAMappingStored(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		must(t, os.Truncate(p, 16*sector))
		runInChild(t, "seekstore", p)
	})
	t.Run("remote", func(t *testing.T) {
		src := newSubvolume(t)
		res := newPartial(t, src)
		res.add(t, filepath.Join(src, "f"), nil)
		must(t, os.Truncate(filepath.Join(src, "f"), 16*sector)) // all of it a hole, and not local
		runInChild(t, "seekstore", filepath.Join(mountTest(t, src, res, Options{}).mnt, "f"))
	})
}

func TestSeek_WhileAReadWaitsForTheNetwork(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	res.stall = make(chan struct{})
	rf := res.add(t, filepath.Join(src, "f"), make([]byte, 4*sector))
	w := mountTest(t, src, res, Options{})
	f, err := os.OpenFile(filepath.Join(w.mnt, "f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 10), 0)
		read <- err
	}()
	n := w.held(rf.ino)
	defer w.drop(n)
	waitFor(t, func() bool { return n.fetching.Load() > 0 })
	if off, err := f.Seek(100, unix.SEEK_DATA); err != nil || off != 100 {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	if off, err := f.Seek(100, unix.SEEK_HOLE); err != nil || off != 4*sector {
		t.Errorf("SEEK_HOLE: %d, %v", off, err)
	}
	_, err = f.Seek(4*sector, unix.SEEK_DATA)
	wantErr(t, "SEEK_DATA at the end", err, unix.ENXIO)
	close(res.stall)
	must(t, <-read)
}
