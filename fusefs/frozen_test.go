package fusefs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var someCaps = []byte{1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// TestCaps_OfAFrozenOpenFile: an open file is made immutable or append-only, and has capabilities. Who has it open goes on, and takes the
// capabilities away by it; nobody else may.
func TestCaps_OfAFrozenOpenFile(t *testing.T) {
	chattr := func(t *testing.T, p, how string) { run(t, "chattr", how, p) }
	onEach(t, func(t *testing.T, dir string) {
		for _, frozen := range []string{"i", "a"} {
			for _, c := range []struct {
				name string
				do   func(f *os.File, p string) error
				want error
				stay bool // the capabilities
			}{
				{"write", func(f *os.File, _ string) error { _, err := f.WriteAt([]byte("new"), 1); return err }, nil, false},
				{"write by another thread", func(f *os.File, _ string) error {
					done := make(chan error)
					go func() { _, err := f.WriteAt([]byte("new"), 1); done <- err }()
					return <-done
				}, nil, false},
				{"ftruncate", func(f *os.File, _ string) error { return unix.Ftruncate(int(f.Fd()), 20) }, map[string]error{"a": unix.EPERM}[frozen], frozen == "a"},
				{"removexattr", func(_ *os.File, p string) error { return unix.Removexattr(p, capsXattr) }, unix.EPERM, true},
				{"getxattr, removexattr", func(_ *os.File, p string) error {
					var b [64]byte
					if n, err := unix.Getxattr(p, capsXattr, b[:]); err != nil || !bytes.Equal(b[:n], someCaps) {
						t.Errorf("capabilities %x, %v", b[:max(n, 0)], err)
					}
					return unix.Removexattr(p, capsXattr)
				}, unix.EPERM, true},
				{"the size, removexattr", func(_ *os.File, p string) error {
					if n, err := unix.Getxattr(p, capsXattr, nil); err != nil || n != len(someCaps) {
						t.Errorf("%d, %v", n, err)
					}
					return unix.Removexattr(p, capsXattr)
				}, unix.EPERM, true},
				{"write, removexattr", func(f *os.File, p string) error {
					if _, err := f.WriteAt([]byte("new"), 1); err != nil {
						return err
					}
					return unix.Removexattr(p, capsXattr)
				}, unix.EPERM, false},
				{"chown", func(_ *os.File, p string) error { return unix.Chown(p, 1, 1) }, unix.EPERM, true},
				{"truncate", func(_ *os.File, p string) error { return unix.Truncate(p, 1) }, unix.EPERM, true},
			} {
				t.Run(frozen+" "+c.name, func(t *testing.T) {
					p := filepath.Join(dir, frozen+" "+c.name)
					must(t, os.WriteFile(p, make([]byte, 10), 0o644))
					must(t, unix.Setxattr(p, capsXattr, someCaps, 0))
					f, err := os.OpenFile(p, os.O_RDWR, 0)
					must(t, err)
					defer f.Close()
					chattr(t, p, "+"+frozen)
					defer chattr(t, p, "-"+frozen)
					if err := c.do(f, p); err != c.want {
						if perr, ok := err.(*os.PathError); !ok || perr.Err != c.want {
							t.Errorf("%v, want %v", err, c.want)
						}
					}
					if _, err := unix.Getxattr(p, capsXattr, nil); (err == nil) != c.stay {
						t.Errorf("capabilities afterwards: %v", err)
					}
				})
			}
		}
	})
}
