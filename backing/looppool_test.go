package backing

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLoopPool_MakesAWorkingPoolAndTellsItsStatus(t *testing.T) {
	base := t.TempDir()
	file, dir := filepath.Join(base, "a pool.img"), filepath.Join(base, "a dir", "pool")
	must(t, CreateLoopPool(context.Background(), file, dir, 512<<20))
	t.Cleanup(func() { unmount(t, dir) })
	must(t, CheckPool(dir))
	s, err := PoolStatus(dir)
	must(t, err)
	must(t, s.Check())
	if s.FSType != "btrfs" || s.Size != 512<<20 || s.Free == 0 || s.Free > s.Size || s.SectorSize != 4096 ||
		len(s.Devices) != 1 || !strings.HasPrefix(s.Devices[0], "/dev/loop") || s.LoopFile != file || s.Quota != "off" || len(s.UUID) != 36 {
		t.Errorf("status: %+v", s)
	}
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	if st.Blocks*512 > 64<<20 || st.Mode&0o777 != 0o600 {
		t.Errorf("the file takes %d bytes, mode %o", st.Blocks*512, st.Mode)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == fstabEscape(dir) && !strings.Contains(f[3], "nosuid,nodev,noatime") {
			t.Errorf("mount options: %s", f[3])
		}
	}
}

func TestLoopPool_RefusesWithoutLeavingAnything(t *testing.T) {
	base := t.TempDir()
	ctx := context.Background()
	full := filepath.Join(base, "full")
	must(t, os.Mkdir(full, 0o755))
	write(t, full+"/x", 1)
	write(t, base+"/there.img", 3)
	fstab := base + "/fstab"
	must(t, os.WriteFile(fstab, []byte("/dev/sda1 "+base+"/taken ext4 defaults 0 0"), 0o644))
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	for want, err := range map[string]error{
		"exists already":     CreateLoopPool(ctx, base+"/there.img", base+"/d1", 1<<30),
		"is not empty":       CreateLoopPool(ctx, base+"/new.img", full, 1<<30),
		"too few":            CreateLoopPool(ctx, base+"/new.img", base+"/d2", 1<<20),
		"has a line for":     LoopPool{File: base + "/new.img", Dir: base + "/taken", Size: 1 << 30, Persist: true, Fstab: fstab}.Create(ctx),
		"context canceled":   CreateLoopPool(stopped, base+"/new.img", base+"/d3", 1<<30),
		"apt-get install no": run(ctx, "nothing", "mkfs.nothing"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := os.Lstat(base + "/new.img"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused pool left its file: %v", err)
	}
	if b, _ := os.ReadFile(base + "/there.img"); len(b) != 3 {
		t.Error("a file that was there is changed")
	}
}

func TestLoopPool_PersistComesBackFromFstab(t *testing.T) {
	base := t.TempDir()
	p := LoopPool{File: base + "/p #1.img", Dir: base + "/po ol", Size: 512 << 20, Persist: true, Fstab: base + "/fstab"}
	must(t, os.WriteFile(p.Fstab, []byte("# no newline at the end"), 0o644))
	must(t, p.Create(context.Background()))
	write(t, p.Dir+"/x", 5)
	unmount(t, p.Dir)
	// What the boot does: the line alone has to be enough.
	out, err := exec.Command("mount", "--fstab", p.Fstab, p.Dir).CombinedOutput()
	if err != nil {
		t.Fatalf("mount from fstab: %v: %s", err, out)
	}
	t.Cleanup(func() { unmount(t, p.Dir) })
	if b, err := os.ReadFile(p.Dir + "/x"); len(b) != 5 || err != nil {
		t.Errorf("after the remount: %d bytes, %v", len(b), err)
	}
	out, err = exec.Command("findmnt", "--verify", "--tab-file", p.Fstab).CombinedOutput()
	if err != nil || strings.Contains(string(out), "[E]") {
		t.Errorf("findmnt does not like the line: %v: %s", err, out)
	}
}

func TestPoolStatus_OfAnotherFileSystemSaysSo(t *testing.T) {
	s, err := PoolStatus("/proc")
	must(t, err)
	if s.FSType == "btrfs" || !errors.Is(s.Check(), ErrNotBtrfs) || !strings.Contains(s.Check().Error(), "pool create") {
		t.Errorf("status %+v, %v", s, s.Check())
	}
	if _, err := PoolStatus("/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
}
