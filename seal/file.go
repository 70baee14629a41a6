package seal

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxSecretFile bounds the file of a key or of a passphrase, in bytes.
const maxSecretFile = 2048

// ErrSecretFile: a file that no secret is read from. What is in the file is never in the message.
var ErrSecretFile = errors.New("not a file that a secret is read from")

// ReadPrivkeyFile reads a key from a file whose path came from outside: see readSecret for which files it takes.
func ReadPrivkeyFile(path string) (Privkey, error) {
	b, err := readSecret(path)
	if err != nil {
		return Privkey{}, err
	}
	defer clear(b)
	k, err := ParsePrivkey(string(b))
	if err != nil {
		if IsSealedKey(string(b)) {
			return Privkey{}, fmt.Errorf("%w: %s holds a sealed key, which wants a passphrase", ErrKey, path)
		}
		return Privkey{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ReadPassphraseFile reads a passphrase from a file whose path came from outside: see readSecret.
func ReadPassphraseFile(path string) (*Passphrase, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	p, err := NewPassphrase(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// readSecret reads a file of at most maxSecretFile bytes for who may name any path, although this process is root.
//
// It takes regular files alone, that belong to root or to who this process runs as, and that nobody else may touch: a file that its
// owner keeps as a secret, and no file that another user put there. It opens nothing before it has looked at it, since opening a device or a pipe has effects of its own, and nothing
// on FUSE, where this process might wait for itself. It uses no os.File, which would enter the file into the runtime's poller.
func readSecret(path string) (b []byte, err error) {
	refuse := func(why string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w: %s %s", ErrSecretFile, path, fmt.Sprintf(why, args...))
	}
	if !filepath.IsAbs(path) {
		return refuse("is not an absolute path")
	}
	look, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(look)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(look, &fs); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if uint32(fs.Type) == unix.FUSE_SUPER_MAGIC {
		return refuse("lies on a FUSE mount")
	}
	var st unix.Stat_t
	if err := unix.Fstat(look, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse("is not a regular file")
	case st.Uid != 0 && st.Uid != uint32(unix.Geteuid()):
		return refuse("belongs to user %d: chown root it", st.Uid)
	case st.Mode&0o077 != 0:
		return refuse("can be reached by others: chmod 600 it")
	case st.Size > maxSecretFile:
		return refuse("has more than %d bytes", maxSecretFile)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(look), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, maxSecretFile+1)
	defer clear(buf)
	n := 0
	for n < len(buf) {
		k, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if k == 0 {
			break
		}
		n += k
	}
	if n > maxSecretFile {
		return refuse("has more than %d bytes", maxSecretFile)
	}
	return append([]byte(nil), buf[:n]...), nil
}
