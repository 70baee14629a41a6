package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// PoolSize is the size of the pools that Pool makes: sparse, so that only
// what is written counts.
const PoolSize = 8 << 30

// Pool makes a BTRFS in a file and returns the folder it is mounted on. The
// test's end takes it away, and fails the test where something still holds it.
func Pool(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	p, err := NewPool(t.TempDir(), PoolSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p.Dir
}

// NeedRoot fails a test that does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root")
	}
}

// Must fails the test at once where err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// LoopPool is a mounted BTRFS in a file.
type LoopPool struct {
	Dir  string // where it is mounted
	File string
}

// NewPool makes the file dir/pool.img of size bytes, sparse, and mounts it on
// dir/pool. dir must be there.
func NewPool(dir string, size uint64) (*LoopPool, error) {
	dir, err := filepath.EvalSymlinks(dir) // the kernel's tables have real paths
	if err != nil {
		return nil, fmt.Errorf("make pool: %w", err)
	}
	p := &LoopPool{Dir: filepath.Join(dir, "pool"), File: filepath.Join(dir, "pool.img")}
	return p, backing.CreateLoopPool(context.Background(), p.File, p.Dir, size)
}

// closePatience is how long Close waits for those who are just about to let go.
const closePatience = 30 * time.Second

// Close unmounts the pool, detaches its loop device and deletes its file.
// Whatever was mounted below it or held it open is taken away by force, and
// named in the error.
func (p *LoopPool) Close() error {
	var errs []error
	mounts, err := mountsUnder(p.Dir)
	if err != nil {
		return err
	}
	sort.Sort(sort.Reverse(sort.StringSlice(mounts))) // the deepest first
	for _, m := range mounts {
		if m != p.Dir {
			errs = append(errs, fmt.Errorf("still mounted in the pool: %s", m))
		}
		errs = append(errs, unmount(m))
	}
	errs = append(errs, p.detach())
	if err := os.Remove(p.File); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := os.Remove(p.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close pool %s: %w", p.Dir, err)
	}
	return nil
}

// unmount unmounts dir, lazily where it stays busy, which is an error all the same.
func unmount(dir string) error {
	end := time.Now().Add(closePatience)
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if err == nil || err == unix.EINVAL { // EINVAL: no longer mounted
			return nil
		}
		if err != unix.EBUSY || time.Now().After(end) {
			held := strings.Join(holders(dir), ", ")
			lazy := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			return errors.Join(fmt.Errorf("unmount %s: %w (held by %s)", dir, err, held), lazy)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// detach makes sure that no loop device is left on the pool's file. The
// kernel frees it by itself, a moment after the last unmount.
func (p *LoopPool) detach() error {
	end := time.Now().Add(closePatience)
	for {
		devs, err := loopsUnder(p.File)
		if err != nil || len(devs) == 0 {
			return err
		}
		if time.Now().After(end) {
			err := fmt.Errorf("loop devices are left: %v", devs)
			for dev := range devs {
				if who := mounters(dev); len(who) > 0 {
					err = fmt.Errorf("%w; %s is mounted in the mount name spaces of %s", err, dev, strings.Join(who, ", "))
				}
				err = errors.Join(err, clearLoop(dev))
			}
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func clearLoop(dev string) error {
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dev, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0); err != nil && err != unix.ENXIO {
		return fmt.Errorf("detach %s: %w", dev, err)
	}
	return nil
}
