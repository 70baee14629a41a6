package fusefs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// free returns how many bytes the volume's limit leaves; limited is false where there is no limit.
func (f *FS) free() (free uint64, limited bool) {
	if f.opt.Limit == nil {
		return 0, false
	}
	total, used := f.opt.Limit()
	if total == 0 {
		return 0, false
	}
	if used >= total {
		return 0, true
	}
	return total - used, true
}

// room returns ErrNoSpace where n bytes at off of fd do not fit under the volume's limit. What overwrites
// data that is there needs no room.
func (f *FS) room(fd int, off, n uint64) error {
	free, limited := f.free()
	if !limited {
		return nil
	}
	if n > free && !f.overwrites(fd, off, n) {
		if f.opt.Measure == nil {
			return ErrNoSpace
		}
		f.opt.Measure()
		if free, _ = f.free(); n > free {
			return ErrNoSpace
		}
	}
	if f.opt.Grew != nil && !f.overwrites(fd, off, n) {
		f.opt.Grew(n)
	}
	return nil
}

// overwrites reports whether all of [off, off+n) of fd is data already.
func (f *FS) overwrites(fd int, off, n uint64) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || off+n > uint64(st.Size) {
		return false
	}
	hole, err := unix.Seek(fd, int64(off), unix.SEEK_HOLE)
	return err == nil && uint64(hole) >= off+n
}

// again runs do, the system call of an operation that takes room, and once more where the pool's quota refused it and a fresh
// measurement may have moved the quota.
func (f *FS) again(do func() error) error {
	err := do()
	if errors.Is(err, unix.EDQUOT) && f.opt.Measure != nil {
		f.opt.Measure()
		err = do()
	}
	return err
}

// roomForInode returns ErrNoSpace where the volume is full.
func (f *FS) roomForInode() error {
	free, limited := f.free()
	if limited && free == 0 && f.opt.Measure != nil {
		f.opt.Measure()
		free, _ = f.free()
	}
	if limited && free == 0 {
		return ErrNoSpace
	}
	return nil
}

// StatFs is FUSE_STATFS: the volume's own limit where it has one, within what the pool has left.
func (f *FS) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	c := f.begin("statfs", cancel, in)
	var st unix.Statfs_t
	err := unix.Fstatfs(f.tree.RootFD(), &st)
	if err == nil {
		*out = fuse.StatfsOut{
			Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
			Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namelen),
		}
		if free, limited := f.free(); limited {
			total, _ := f.opt.Limit()
			bs := uint64(st.Frsize)
			out.Blocks = total / bs
			out.Bfree = min(free/bs, st.Bfree)
			out.Bavail = min(free/bs, st.Bavail)
		}
	}
	return c.end(err)
}
