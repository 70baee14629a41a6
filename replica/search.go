package replica

import (
	"context"
	"fmt"
	"sync"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// searchedNames is how many names of a directory are looked up at once. With backing's own bound on attributes and inline content it bounds the memory.
const searchedNames = 256

// searched looks the regular files of a directory up in the subvolume's tree, some names ahead, in the order of names. Beyond the next directory it does
// not look: while that is walked, nothing is kept.
//
// A first snapshot asks for each file, and there this takes a third of the time of asking the kernel one by one, less where the tree has the
// content too (docs/SNAPSHOTS.md). With a base nearly all files are the same, which a statx in both snapshots says.
type searched struct {
	w     *walker
	path  string
	names []named
	until int // names before this one were looked up
	found map[uint64]*backing.Inode
}

// node returns the node of the name i, and false where it has to be asked for in the ordinary way.
func (s *searched) node(i int) (n snapshot.Node, ok bool, err error) {
	if i >= s.until {
		s.found = nil
	}
	if !s.w.search || s.names[i].typ != unix.DT_REG {
		return n, false, nil
	}
	if i >= s.until && !s.look(i) {
		return n, false, nil
	}
	it := s.found[s.names[i].ino]
	if it == nil {
		return n, false, nil
	}
	in, err := newInode(&it.Stat, it.Flags, it.Xattrs)
	if err != nil {
		return n, false, err
	}
	if in, err = s.w.own(in, &it.Stat); err != nil {
		return n, false, err
	}
	n.Entry = wire.Entry{Name: s.names[i].name, Attr: in.attr}
	n.Nlink, n.Link = in.names(&it.Stat)
	if in.file != nil || it.Layout == backing.LayoutUnknown {
		s.w.setContent(&n, &it.Stat, in, nil)
		return n, true, nil
	}
	name := s.names[i].name
	n.Open = func(context.Context) (snapshot.File, error) {
		var f snapshot.File = &inlineFile{data: it.Inline}
		if it.Layout == backing.LayoutWhole {
			f = &wholeFile{w: s.w, path: s.path, name: name, ino: it.Stat.Ino, size: it.Stat.Size}
		}
		return s.w.out.file(f, it.Stat.Ino, false), nil
	}
	return n, true, nil
}

// look looks names up from i on. Where no tree can be searched, nothing is from then on.
func (s *searched) look(i int) bool {
	var inos []uint64
	s.until = i
	for ; s.until < len(s.names) && s.until < i+searchedNames && s.names[s.until].typ != unix.DT_DIR; s.until++ {
		if n := s.names[s.until]; n.typ == unix.DT_REG {
			inos = append(inos, n.ino)
		}
	}
	var err error
	if s.found, err = s.w.tree.Inodes(inos); err != nil {
		s.w.search = false
		s.w.log.Info().Err(err).Msg("files are asked for one by one")
	}
	return err == nil
}

var (
	_ snapshot.File = (*inlineFile)(nil)
	_ snapshot.File = (*wholeFile)(nil)
)

// noBase is what files of a first snapshot have to say of an earlier one.
type noBase struct{}

// Known implements snapshot.File.
func (noBase) Known(context.Context, uint64, uint32) (wire.Window, bool, error) {
	return wire.Window{}, false, nil
}

// Previous implements snapshot.File.
func (noBase) Previous(context.Context, uint64, uint32) (wire.Window, bool, error) {
	return wire.Window{}, false, nil
}

// Before implements snapshot.File.
func (noBase) Before(context.Context, uint64, uint32) (*snapshot.Before, error) { return nil, nil }

// inlineFile is a file whose content was in the tree.
type inlineFile struct {
	noBase
	data []byte
}

// Size implements snapshot.File.
func (f *inlineFile) Size() uint64 { return uint64(len(f.data)) }

// Ranges implements snapshot.File.
func (f *inlineFile) Ranges(_ context.Context, off, end uint64) ([]wire.Range, error) {
	return whole(off, min(end, f.Size())), nil
}

// ReadAt implements snapshot.File.
func (f *inlineFile) ReadAt(_ context.Context, p []byte, off uint64) error {
	if off > f.Size() || uint64(len(p)) > f.Size()-off {
		return fmt.Errorf("read %d bytes at %d of %d", len(p), off, len(f.data))
	}
	copy(p, f.data[off:])
	return nil
}

// Close implements snapshot.File.
func (f *inlineFile) Close() error { return nil }

// wholeFile is a file that is all data. It is opened by whoever reads it first, and not by the walk, which is the one thing that there is one of.
type wholeFile struct {
	noBase
	w          *walker
	path, name string // for messages
	ino, size  uint64

	once sync.Once
	file localFile
	err  error // of opening
}

// Size implements snapshot.File.
func (f *wholeFile) Size() uint64 { return f.size }

// Ranges implements snapshot.File.
func (f *wholeFile) Ranges(_ context.Context, off, end uint64) ([]wire.Range, error) {
	return whole(off, min(end, f.size)), nil
}

// ReadAt implements snapshot.File.
func (f *wholeFile) ReadAt(ctx context.Context, p []byte, off uint64) error {
	f.once.Do(func() {
		f.file.size = f.size
		if f.file.fd, f.err = f.w.tree.Open(f.ino, unix.O_RDONLY|unix.O_NONBLOCK); f.err != nil {
			f.err = fmt.Errorf("open %s: %w", join(f.path, f.name), f.err)
		}
	})
	if f.err != nil {
		return f.err
	}
	return f.file.ReadAt(ctx, p, off)
}

// Close implements snapshot.File.
func (f *wholeFile) Close() error {
	opened := true
	f.once.Do(func() { opened = false })
	if !opened || f.err != nil {
		return nil
	}
	return f.file.Close()
}

// whole is the one range from off to end, none where that is nothing.
func whole(off, end uint64) []wire.Range {
	if off >= end {
		return nil
	}
	return []wire.Range{{Off: off, Len: end - off}}
}
