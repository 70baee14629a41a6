package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// story changes a volume at random.
type story struct {
	v     *volume
	rnd   *rand.Rand
	files []string // some are gone, or are directories by now
	dirs  []string
	n     int
}

func (s *story) path(list []string) string {
	if len(list) == 0 || s.rnd.IntN(8) == 0 {
		return s.v.at(fmt.Sprintf("top-%d", s.rnd.IntN(40)))
	}
	return s.v.at(list[s.rnd.IntN(len(list))])
}

// fresh is a path that is likely to be free.
func (s *story) fresh() string {
	s.n++
	name := fmt.Sprintf("n%d", s.rnd.IntN(s.n+50))
	if s.rnd.IntN(10) == 0 {
		name += strings.Repeat("x", s.rnd.IntN(200))
	}
	if len(s.dirs) > 0 && s.rnd.IntN(5) > 0 {
		name = filepath.Join(s.dirs[s.rnd.IntN(len(s.dirs))], name)
	}
	return name
}

// step does one thing; what cannot be done is left undone, as by any application.
func (s *story) step() string {
	r := s.rnd
	file, dir := s.path(s.files), s.path(s.dirs)
	off, n := r.Int64N(900_000), r.IntN(300_000)
	if r.IntN(2) == 0 {
		off, n = off&^4095, n&^4095
	}
	open := func(do func(f *os.File)) {
		if st, err := os.Lstat(file); err != nil || !st.Mode().IsRegular() {
			return
		}
		if f, err := os.OpenFile(file, os.O_RDWR, 0); err == nil {
			do(f)
			f.Close()
		}
	}
	switch k := r.IntN(27); k {
	case 0, 1, 2:
		name := s.fresh()
		s.files = append(s.files, name)
		size := r.IntN(5000)
		if r.IntN(4) == 0 {
			size = r.IntN(1_500_000)
		}
		_ = os.WriteFile(s.v.at(name), noise(uint64(s.n), size), os.FileMode(0o600+r.IntN(64)))
		return "write " + name
	case 3, 4:
		name := s.fresh()
		s.dirs = append(s.dirs, name)
		_ = os.Mkdir(s.v.at(name), 0o755)
		return "mkdir " + name
	case 5, 6:
		open(func(f *os.File) { _, _ = f.WriteAt(noise(uint64(s.n+r.IntN(1000)), n), off) })
	case 7:
		open(func(f *os.File) { _ = f.Truncate(off) })
	case 8:
		open(func(f *os.File) { _ = f.Truncate(off); _ = f.Truncate(off + int64(n)) })
	case 9:
		open(func(f *os.File) {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(n))
		})
	case 10:
		open(func(f *os.File) { _ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, off, int64(n)) })
	case 11: // reflinks, within a file and between files
		open(func(f *os.File) {
			from, err := os.Open(s.path(s.files))
			if err != nil {
				return
			}
			defer from.Close()
			_ = unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{Src_fd: int64(from.Fd()),
				Src_offset: uint64(r.IntN(100)) << 12, Src_length: uint64(1+r.IntN(30)) << 12, Dest_offset: uint64(off) &^ 4095})
		})
	case 12:
		_ = unix.Fchmodat(unix.AT_FDCWD, file, uint32(r.IntN(0o7777)), 0)
	case 13:
		_ = os.Lchown(file, r.IntN(3), r.IntN(3))
	case 14:
		_ = unix.Lsetxattr(file, fmt.Sprintf("user.x%d", r.IntN(3)), noise(uint64(n), r.IntN(200)), 0)
	case 15:
		_ = unix.Lremovexattr(file, fmt.Sprintf("user.x%d", r.IntN(3)))
	case 16:
		_ = unix.Lsetxattr(dir, "user.d", noise(uint64(n), r.IntN(20)), 0)
		_ = os.Chmod(dir, os.FileMode(0o700+r.IntN(64)))
	case 17: // inode flags, which the kernel's stream does not tell
		open(func(f *os.File) {
			if flags, err := backing.GetFlags(int(f.Fd())); err == nil {
				_ = backing.SetFlags(int(f.Fd()), flags^wire.FlagNodump)
			}
		})
	case 18, 19:
		to := s.fresh()
		s.files = append(s.files, to)
		_ = os.Rename(file, s.v.at(to))
		return "rename " + file + " " + to
	case 20, 21:
		to := s.fresh()
		s.dirs = append(s.dirs, to)
		_ = os.Rename(dir, s.v.at(to))
		return "rename " + dir + " " + to
	case 22:
		a, b := file, s.path(s.files)
		if r.IntN(3) == 0 {
			a, b = dir, s.path(s.dirs)
		}
		_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		return "swap " + a + " " + b
	case 23:
		to := s.fresh()
		s.files = append(s.files, to)
		_ = os.Link(file, s.v.at(to))
		return "link " + file + " " + to
	case 24:
		_ = os.Remove(file)
	case 25:
		if r.IntN(4) == 0 {
			_ = os.RemoveAll(dir)
		} else {
			_ = os.Rename(file, s.path(s.files))
		}
	case 26:
		name := s.fresh()
		s.files = append(s.files, name)
		switch r.IntN(3) {
		case 0:
			_ = os.Symlink(name+"-target", s.v.at(name))
		case 1:
			_ = unix.Mkfifo(s.v.at(name), 0o600)
		case 2: // in the place of what was there, as editors save
			_ = os.WriteFile(file+"~", noise(uint64(n), n), 0o644)
			_ = os.Rename(file+"~", file)
		}
	}
	return fmt.Sprintf("%s %s %d %d", file, dir, off, n)
}

// publishWhole publishes with the same references, but by listing every directory, and returns the root.
func (w *world) publishWhole(path string, base Base) Result {
	w.t.Helper()
	other := *w
	other.hive = nil
	p := w.publisher()
	p.whole = true
	b, err := p.build(context.Background(), &Job{Key: w.key, Snapshot: path, Base: base}, &reporter{})
	check(w.t, err)
	if b.way != WayChanges {
		w.t.Fatalf("the way was %q", b.way)
	}
	return Result{Base: Base{Root: b.root}, Stats: b.stats}
}

func TestPublish_ChangesGiveTheRootThatListingEverythingGives(t *testing.T) {
	histories, steps := 6, 12
	if n, err := strconv.Atoi(os.Getenv("HISTORIES")); err == nil {
		histories = n // for a long run
	}
	if testing.Short() {
		histories = 2
	}
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w, v := newWorld(t), newVolume(t)
			s := &story{v: v, rnd: rand.New(rand.NewPCG(seed, 9))}
			t.Cleanup(func() { _ = exec.Command("chattr", "-R", "-f", "-i", v.path).Run() })
			if seed%2 == 1 {
				names(1500, func(i int, name string) { v.write(name, noise(uint64(i), i)) })
			}
			for range 150 {
				s.step()
			}
			base := w.publish(v.snapshot(), Base{}).Base
			for range steps {
				var told []string
				for range 1 + s.rnd.IntN(60) {
					told = append(told, s.step())
				}
				path := v.snapshot()
				whole := w.publishWhole(path, base)
				r := w.publish(path, base)
				if r.Way != WayChanges || r.Base.Root != whole.Base.Root {
					t.Errorf("way %q, root %s, with every directory listed %s", r.Way, r.Base.Root, whole.Base.Root)
				}
				w.wantTree(r, path)
				if t.Failed() {
					t.Fatalf("after\n%s", strings.Join(told, "\n"))
				}
				base = r.Base
			}
		})
	}
}
