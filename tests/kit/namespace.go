package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DropForeignMounts is called first thing in a mount name space of one's own. The name space got copies of all mounts: those of other
// tests would keep their loop devices busy, and their FUSE connections alive, for as long as it lasts. It takes away FUSE mounts and file systems on loop
// devices, but for those that hold the working folder, this program, or the folder of temporary files.
func DropForeignMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	keep, err := ownPaths()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		front, back, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(front), strings.Fields(back)
		if !ok || len(f) < 5 || len(g) < 2 || !strings.HasPrefix(g[0], "fuse") && !strings.HasPrefix(g[1], "/dev/loop") {
			continue
		}
		dir := unescape(f[4])
		if dir == "/" || holdsOne(dir, keep) {
			continue
		}
		// EINVAL, ENOENT: it went with one above it, or outside.
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("leave %s: %w", dir, err)
		}
	}
	return nil
}

func ownPaths() ([]string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	return []string{wd, self, tmp}, err
}

func holdsOne(dir string, paths []string) bool {
	for _, p := range paths {
		if under(p, dir) {
			return true
		}
	}
	return false
}

// mounters names a process of each mount name space in which the device is mounted. One that was made while the device was mounted here has it still.
func mounters(device string) (who []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	seen := map[string]bool{}
	for _, dir := range dirs { // one that has ended meanwhile has nothing mounted
		space, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		b, err := os.ReadFile(dir + "/mountinfo")
		if err != nil {
			continue
		}
		seen[space] = true
		for line := range strings.Lines(string(b)) {
			_, back, _ := strings.Cut(line, " - ")
			if f := strings.Fields(back); len(f) > 1 && f[1] == device {
				name, _ := os.ReadFile(dir + "/comm")
				who = append(who, fmt.Sprintf("process %s (%s)", filepath.Base(dir), strings.TrimSpace(string(name))))
				break
			}
		}
	}
	return who
}
