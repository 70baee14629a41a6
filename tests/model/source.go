package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeTree fills the folder with some of everything, and returns the paths that it made immutable or append-only.
func makeTree(root string, r *rand.Rand) (frozen []string, err error) {
	t := &maker{root: root, r: r}
	for _, d := range []string{"d0", "d1", "d2", "d3"} {
		t.dir(d, 2)
	}
	for i := range 3 {
		t.file(fmt.Sprintf("big%d", i), 200_000+r.IntN(700_000))
		t.punch(fmt.Sprintf("big%d", i))
	}
	for range 14 { // names of one inode in several directories
		from, to := t.made[r.IntN(len(t.made))], filepath.Join(t.dirs[r.IntN(len(t.dirs))], fmt.Sprintf("l%d", r.IntN(30)))
		if err := os.Link(t.at(from), t.at(to)); err == nil {
			t.made = append(t.made, to)
		}
	}
	for _, p := range t.made {
		t.note(unix.UtimesNanoAt(unix.AT_FDCWD, t.at(p), t.time(), unix.AT_SYMLINK_NOFOLLOW))
	}
	for i := len(t.dirs) - 1; i >= 0; i-- {
		t.note(unix.UtimesNanoAt(unix.AT_FDCWD, t.at(t.dirs[i]), t.time(), 0))
	}
	for _, flag := range []uint32{flImmutable, flAppend, flImmutable, flAppend, flNoDump} {
		t.flag(t.made[r.IntN(len(t.made))], flag)
	}
	t.flag(t.dirs[r.IntN(len(t.dirs))], flImmutable)
	return t.frozen, t.err
}

type maker struct {
	root string
	r    *rand.Rand
	made []string // all but directories
	dirs []string
	err  error

	frozen []string
}

func (t *maker) at(p string) string { return filepath.Join(t.root, p) }
func (t *maker) note(err error)     { t.err = errors.Join(t.err, err) }

func (t *maker) time() []unix.Timespec {
	ts := unix.Timespec{Sec: 1_400_000_000 + t.r.Int64N(100_000_000), Nsec: t.r.Int64N(1_000_000_000)}
	return []unix.Timespec{ts, ts}
}

func (t *maker) dir(name string, depth int) {
	t.note(os.Mkdir(t.at(name), 0o777))
	t.dirs = append(t.dirs, name)
	if t.r.IntN(4) == 0 {
		t.note(unix.Chmod(t.at(name), []uint32{0o777, 0o1777, 0o2775, 0o700}[t.r.IntN(4)]))
	}
	if t.r.IntN(3) == 0 {
		t.note(os.Lchown(t.at(name), 1000+t.r.IntN(2), 1000+t.r.IntN(2)))
	}
	if t.r.IntN(8) == 0 {
		t.note(unix.Lsetxattr(t.at(name), "system.posix_acl_default", acl(uint32(t.r.IntN(1<<18))|0o7), 0))
	}
	for i := range 3 + t.r.IntN(5) {
		t.file(fmt.Sprintf("%s/f%d", name, i), t.size())
	}
	if t.r.IntN(2) == 0 {
		p := name + "/special"
		t.note(unix.Mknod(t.at(p), []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFSOCK}[t.r.IntN(3)]|0o666, int(unix.Mkdev(1, 3))))
		t.made = append(t.made, p)
	}
	if t.r.IntN(2) == 0 {
		p := name + "/link"
		t.note(os.Symlink([]string{"f0", "special", "nowhere"}[t.r.IntN(3)], t.at(p)))
		t.made = append(t.made, p)
	}
	if depth == 0 {
		return
	}
	for i := range 2 + t.r.IntN(2) {
		t.dir(fmt.Sprintf("%s/s%d", name, i), depth-1)
	}
}

func (t *maker) size() int {
	switch t.r.IntN(10) {
	case 0:
		return 0
	case 1, 2:
		return 1 + t.r.IntN(300)
	case 3, 4, 5:
		return 4096 * (1 + t.r.IntN(4))
	case 6, 7, 8:
		return 1 + t.r.IntN(30_000)
	}
	return 60_000 + t.r.IntN(100_000)
}

func (t *maker) file(name string, size int) {
	b := make([]byte, size)
	noise(t.r.Uint64N(1<<30), b)
	t.note(os.WriteFile(t.at(name), b, 0o644))
	t.made = append(t.made, name)
	if t.r.IntN(3) == 0 {
		t.note(os.Lchown(t.at(name), 1000+t.r.IntN(2), 1000+t.r.IntN(2)))
	}
	if t.r.IntN(3) == 0 {
		t.note(unix.Chmod(t.at(name), []uint32{0o600, 0o666, 0o755, 0o444, 0o4755, 0o2755}[t.r.IntN(6)]))
	}
	switch t.r.IntN(12) {
	case 0:
		t.note(unix.Lsetxattr(t.at(name), "user.a", b[:min(len(b), 100)], 0))
	case 1:
		t.note(unix.Lsetxattr(t.at(name), "security.capability", (&op{To: "security.capability", Mode: 1024}).value(), 0))
	case 2:
		t.note(unix.Lsetxattr(t.at(name), "system.posix_acl_access", acl(uint32(t.r.IntN(1<<18))), 0))
	case 3:
		t.punch(name)
	}
}

// punch makes holes.
func (t *maker) punch(name string) {
	fd, err := unix.Open(t.at(name), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.note(err)
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	t.note(unix.Fstat(fd, &st))
	for off := int64(4096); off < st.Size; off += 4096 * (1 + t.r.Int64N(30)) {
		t.note(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 4096*(1+t.r.Int64N(6))))
	}
	if t.r.IntN(2) == 0 {
		t.note(unix.Ftruncate(fd, st.Size+t.r.Int64N(100_000)))
	}
}

func (t *maker) flag(name string, flag uint32) {
	fd, err := unix.Open(t.at(name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil { // a symbolic link, a socket
		return
	}
	defer unix.Close(fd)
	if err := setFlags(fd, flag, 1); !errors.Is(err, unix.ENOTTY) {
		t.note(err)
		t.frozen = append(t.frozen, name)
	}
}
