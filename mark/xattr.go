package mark

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// FD is the path under which the inode behind a descriptor, O_PATH or not,
// can be reached. Extended attributes of an O_PATH descriptor have no call of
// their own before Linux 6.13.
func FD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// At is the path of one name in the directory behind dirfd.
func At(dirfd int, name string) string { return FD(dirfd) + "/" + name }

// GetFile returns the mark of the regular file at path; nil where it has
// none. The last component is not followed if it is a symbolic link, except
// for a path made by FD, which stands for the inode itself.
func GetFile(path string) (*File, error) { return get(path, FileName, DecodeFile) }

// GetDir returns the mark of the directory at path; nil where it is filled.
func GetDir(path string) (*Dir, error) { return get(path, DirName, DecodeDir) }

// GetLink returns the link mark of the inode at path; nil where it has none.
func GetLink(path string) (*Link, error) { return get(path, LinkName, DecodeLink) }

// GetTree returns the mark of the root directory at path; nil where the
// volume is complete.
func GetTree(path string) (*Tree, error) { return get(path, TreeName, DecodeTree) }

// GetSource returns the source mark of the root directory at path; nil where
// the marks of the volume are its own.
func GetSource(path string) (*Source, error) { return get(path, SourceName, DecodeSource) }

// GetLifted returns the mark of the root directory at path that says whose flags are lifted; nil where no inode's are.
func GetLifted(path string) (*Lifted, error) { return get(path, LiftedName, DecodeLifted) }

// Set writes the mark m, a *File, *Dir, *Link, *Tree, *Source or *Lifted, to the inode at path.
func Set(path string, m interface{ Encode() ([]byte, error) }) error {
	var name string
	switch m.(type) {
	case *File:
		name = FileName
	case *Dir:
		name = DirName
	case *Link:
		name = LinkName
	case *Tree:
		name = TreeName
	case *Source:
		name = SourceName
	case *Lifted:
		name = LiftedName
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if err := setxattr(path, name, b); err != nil {
		return fmt.Errorf("set mark %s: %w", name, err)
	}
	return nil
}

// Remove removes the named mark; one that is not there is no error.
func Remove(path, name string) error {
	err := removexattr(path, name)
	if err != nil && !errors.Is(err, unix.ENODATA) {
		return fmt.Errorf("remove mark %s: %w", name, err)
	}
	return nil
}

func get[T any](path, name string, decode func([]byte) (*T, error)) (*T, error) {
	var small [1024]byte
	buf := small[:]
	n, err := getxattr(path, name, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, MaxSize+1)
		n, err = getxattr(path, name, buf)
	}
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case errors.Is(err, unix.ERANGE):
		return nil, fmt.Errorf("%w: %s of more than %d bytes", ErrFormat, name, MaxSize)
	case err != nil:
		return nil, fmt.Errorf("read mark %s: %w", name, err)
	}
	return decode(buf[:n])
}

// isFD tells paths made by FD from those made by At: the former is a magic
// link that has to be followed, the latter must not be.
func isFD(path string) bool {
	const prefix = "/proc/self/fd/"
	if len(path) <= len(prefix) || path[:len(prefix)] != prefix {
		return false
	}
	for _, c := range path[len(prefix):] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func getxattr(path, name string, buf []byte) (int, error) {
	if isFD(path) {
		return unix.Getxattr(path, name, buf)
	}
	return unix.Lgetxattr(path, name, buf)
}

func setxattr(path, name string, b []byte) error {
	if isFD(path) {
		return unix.Setxattr(path, name, b, 0)
	}
	return unix.Lsetxattr(path, name, b, 0)
}

func removexattr(path, name string) error {
	if isFD(path) {
		return unix.Removexattr(path, name)
	}
	return unix.Lremovexattr(path, name)
}
