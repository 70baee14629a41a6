package backing

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestXattr_OfAnyDescriptorAndAnySize(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	write(t, dir+"/f", 1)
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	for what, fd := range map[string]int{
		"file":         openFile(t, dir+"/f", unix.O_RDONLY),
		"folder":       openFile(t, dir, unix.O_RDONLY|unix.O_DIRECTORY),
		"O_PATH FIFO":  openFile(t, dir+"/fifo", unix.O_PATH),
		"O_PATH again": openFile(t, dir+"/fifo", unix.O_PATH),
	} {
		for _, size := range []int{0, 1, 512, 513, 8000, 8050} {
			value := bytes.Repeat([]byte{1}, size)
			must(t, Setxattr(fd, "trusted.v", value, 0))
			if got, err := Getxattr(fd, "trusted.v"); err != nil || got == nil || !bytes.Equal(got, value) {
				t.Errorf("%s: %d bytes come back as %d, %v", what, size, len(got), err)
			}
		}
		var want []string
		for i := range 40 {
			name := "trusted.a rather long name " + string(rune('A'+i))
			must(t, Setxattr(fd, name, nil, 0))
			want = append(want, name)
		}
		names, err := Listxattr(fd)
		must(t, err)
		slices.Sort(names)
		if !slices.Equal(names, append(want, "trusted.v")) {
			t.Errorf("%s: names %q", what, names)
		}
		for _, name := range names {
			must(t, Removexattr(fd, name))
		}
		if names, err := Listxattr(fd); len(names) != 0 || err != nil {
			t.Errorf("%s: left: %q, %v", what, names, err)
		}
		if _, err := Getxattr(fd, "trusted.v"); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s: missing: %v", what, err)
		}
	}
	fd := openFile(t, dir+"/f", unix.O_RDONLY)
	must(t, Setxattr(fd, "user.x", nil, unix.XATTR_CREATE))
	if err := Setxattr(fd, "user.x", nil, unix.XATTR_CREATE); !errors.Is(err, unix.EEXIST) {
		t.Errorf("made twice: %v", err)
	}
}

// TestXattr_GrowsInPlaceOnlyWithinALeaf holds what Setxattr says of its limits:
// whoever keeps a growing value must stay below half of MaxXattr.
func TestXattr_GrowsInPlaceOnlyWithinALeaf(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	const name = "trusted.fractal.file"
	room := MaxXattr - len(name)
	for i, c := range []struct {
		first, then int
		want        error
	}{
		{room, room, nil},
		{room, 1, nil},
		{room + 1, 0, unix.ENOSPC},
		{10, 8000, nil},
		{room/2 - 50, room / 2, nil},
		{1000, 16000, unix.ENOSPC},
	} {
		fd := openFile(t, dir+"/"+string(rune('a'+i)), unix.O_RDWR|unix.O_CREAT)
		err := Setxattr(fd, name, make([]byte, c.first), 0)
		if err == nil {
			err = Setxattr(fd, name, make([]byte, c.then), 0)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%d then %d: %v, want %v", c.first, c.then, err, c.want)
		}
	}
}

func TestFlags_SetAndGet(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	fd := openFile(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	for _, flags := range []uint32{FlagNoCow, FlagNoCow | FlagImmutable, FlagAppend, 0} {
		must(t, SetFlags(fd, flags))
		if got, err := GetFlags(fd); err != nil || got != flags {
			t.Errorf("flags %#x, %v, want %#x", got, err, flags)
		}
	}
	must(t, SetFlags(fd, FlagImmutable))
	if err := os.Remove(dir + "/f"); !errors.Is(err, unix.EPERM) {
		t.Errorf("remove of an immutable file: %v", err)
	}
	must(t, SetFlags(fd, 0))
	if _, err := GetFlags(openFile(t, dir+"/f", unix.O_PATH)); !errors.Is(err, unix.EBADF) {
		t.Errorf("O_PATH: %v", err)
	}
}

func TestStatx_OfLinksItself(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	must(t, os.Symlink("nowhere", dir+"/link"))
	at, err := StatxAt(openFile(t, dir, unix.O_PATH), "link")
	must(t, err)
	st, err := Statx(openFile(t, dir+"/link", unix.O_PATH|unix.O_NOFOLLOW))
	must(t, err)
	if st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Ino != at.Ino || st.Size != 7 || st.Mask&unix.STATX_BTIME == 0 {
		t.Errorf("statx %+v, by name %+v", st, at)
	}
}
