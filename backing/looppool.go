package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MinPoolSize is the least that a loop pool may have: below it BTRFS has no room for its own.
const MinPoolSize = 256 << 20

// poolOptions are the mount options of a loop pool.
//
// noatime: otherwise a mere read would count as a change (see Generation) and
// make a snapshot; access times are in no snapshot anyway. nodev and nosuid:
// what containers leave in their volumes must not work on the host; the
// volumes' own mounts decide for the containers. Not user_subvol_rm_allowed: only root may
// delete a subvolume.
const poolOptions = "loop,noatime,nodev,nosuid"

// LoopPool describes a BTRFS in a file, for hosts whose disk has another file system.
type LoopPool struct {
	File string // made, sparse; it must not be there yet
	Dir  string // where it is mounted; made where it is missing, else it must be empty
	Size uint64 // bytes, at least MinPoolSize; the disk gives them as they are used
	// Persist adds a line to Fstab, so that the pool comes back after a reboot.
	Persist bool
	Fstab   string // "" is /etc/fstab
}

// CreateLoopPool is LoopPool.Create without Persist.
func CreateLoopPool(ctx context.Context, file, dir string, size uint64) error {
	return LoopPool{File: file, Dir: dir, Size: size}.Create(ctx)
}

// Create makes the file, a BTRFS in it, and mounts it. What an error leaves
// unfinished is taken back. It runs mkfs.btrfs and mount(8).
//
// Order: 1 the file, 2 its BTRFS, 3 the mount, 4 the line in fstab. A crash
// before 3 leaves a file that can be deleted; before 4 a pool that `mount -o
// loop` brings back. The line is last so that a boot never waits for half a pool.
func (p LoopPool) Create(ctx context.Context) (err error) {
	if p.Fstab == "" {
		p.Fstab = "/etc/fstab"
	}
	if p.File, err = filepath.Abs(p.File); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	if p.Dir, err = filepath.Abs(p.Dir); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	if p.Size < MinPoolSize {
		return fmt.Errorf("create pool %s: %d bytes are too few: give at least %d", p.File, p.Size, MinPoolSize)
	}
	if err := p.checkDir(); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	if p.Persist {
		if err := p.checkFstab(); err != nil {
			return fmt.Errorf("create pool: %w", err)
		}
	}
	if err := p.makeFile(); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(p.File)
		}
	}()
	if err := run(ctx, "btrfs-progs", "mkfs.btrfs", "--quiet", "--sectorsize", "4096", p.File); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	if err := run(ctx, "mount", "mount", "-t", "btrfs", "-o", poolOptions, p.File, p.Dir); err != nil {
		return fmt.Errorf("create pool: %w", err)
	}
	if p.Persist {
		if err := p.addFstab(); err != nil {
			return errors.Join(fmt.Errorf("create pool: %w", err), wrap("unmount "+p.Dir, unix.Unmount(p.Dir, 0)))
		}
	}
	return nil
}

func (p LoopPool) checkDir() error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return err
	}
	names, err := os.ReadDir(p.Dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("%s is not empty (%q): the pool would hide what is in it; move that away or name another folder", p.Dir, names[0].Name())
	}
	return nil
}

func (p LoopPool) makeFile() error {
	f, err := os.OpenFile(p.File, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already and is left alone: name another file", p.File)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(int64(p.Size)), f.Close()); err != nil {
		os.Remove(p.File)
		return err
	}
	return nil
}

// fstabLine is the pool's line. nofail: a boot goes on without the pool.
// before docker: a plugin that starts first would see an empty folder.
func (p LoopPool) fstabLine() string {
	return fmt.Sprintf("%s %s btrfs %s,nofail,x-systemd.requires-mounts-for=%s,x-systemd.before=docker.service 0 0\n",
		fstabEscape(p.File), fstabEscape(p.Dir), poolOptions, fstabEscape(filepath.Dir(p.File)))
}

// fstabEscape writes s as fstab(5) wants it.
func fstabEscape(s string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`, "#", `\043`).Replace(s)
}

func (p LoopPool) checkFstab() error {
	b, err := os.ReadFile(p.Fstab)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 2 && !strings.HasPrefix(f[0], "#") && f[1] == fstabEscape(p.Dir) {
			return fmt.Errorf("%s has a line for %s already: take it out or name another folder", p.Fstab, p.Dir)
		}
	}
	return nil
}

// addFstab appends the line by one write, since the file may be a mount of
// its own that cannot be renamed over.
func (p LoopPool) addFstab() error {
	f, err := os.OpenFile(p.Fstab, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	line := p.fstabLine()
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], st.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return fmt.Errorf("add to %s: %w", p.Fstab, err)
	}
	return wrap("add to "+p.Fstab, f.Sync())
}

// run runs a command of a Debian package; an error has what it said.
func run(ctx context.Context, pkg, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil { // a daemon's PATH may lack the folders of root's commands
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, e := os.Stat(dir + name); e == nil {
				path, err = dir+name, nil
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%s is not installed: apt-get install %s: %w", name, pkg, err)
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
