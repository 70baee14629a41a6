package volume

import (
	"slices"
	"sync"
	"sync/atomic"

	"fractal-lazy/backing"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// usedWhole is the size up to which a file counts as used whole, and the unit of what is used of larger ones.
const usedWhole = wire.DefChunk

// recorder notes what is used of a volume, until it is told that this is enough. Its methods may be called at once.
type recorder struct {
	over  atomic.Bool
	first chan struct{} // closed with the first file

	mu    sync.Mutex
	order []uint64 // inode numbers, in the order of their first use
	reads map[uint64][]wire.Range
}

func newRecorder() *recorder {
	return &recorder{first: make(chan struct{}), reads: map[uint64][]wire.Range{}}
}

// opened notes a file.
func (r *recorder) opened(ino uint64) {
	if !r.over.Load() {
		r.note(ino, wire.Range{})
	}
}

// read notes a part of one.
func (r *recorder) read(ino, off, n uint64) {
	if !r.over.Load() {
		r.note(ino, wire.Range{Off: off, Len: n})
	}
}

func (r *recorder) note(ino uint64, part wire.Range) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts, ok := r.reads[ino]
	if !ok {
		if len(r.order) >= maxUsedFiles {
			return
		}
		if len(r.order) == 0 {
			close(r.first)
		}
		r.order = append(r.order, ino)
	}
	if part.Len > 0 {
		parts = mergeUsed(append(parts, widen(part)))
	}
	r.reads[ino] = parts
}

// widen makes whole windows of a part: fewer parts, and no byte more to fetch.
func widen(r wire.Range) wire.Range {
	end := min(r.Off+min(r.Len, wire.MaxFileSize), wire.MaxFileSize)
	off := min(r.Off, end) / usedWhole * usedWhole
	return wire.Range{Off: off, Len: (end - off + usedWhole - 1) / usedWhole * usedWhole}
}

// mergeUsed orders parts and joins those that touch; too many become one.
func mergeUsed(parts []wire.Range) []wire.Range {
	slices.SortFunc(parts, func(a, b wire.Range) int { return int(a.Off/usedWhole) - int(b.Off/usedWhole) })
	out := parts[:0]
	for _, p := range parts {
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len >= p.Off {
			out[n-1].Len = max(out[n-1].Len, p.Off+p.Len-out[n-1].Off)
			continue
		}
		out = append(out, p)
	}
	if n := len(out); n > maxUsedParts {
		return []wire.Range{{Off: out[0].Off, Len: out[n-1].Off + out[n-1].Len - out[0].Off}}
	}
	return out
}

// end ends the recording and returns what is known of the files of tree by then. One that is gone, or is no regular file, is left out.
func (r *recorder) end(tree *backing.Tree) []replica.Used {
	r.over.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []replica.Used
	for _, ino := range r.order {
		if u, ok := used(tree, ino, r.reads[ino]); ok {
			all = append(all, u)
		}
	}
	return all
}

func used(tree *backing.Tree, ino uint64, read []wire.Range) (u replica.Used, ok bool) {
	u.Ino = ino
	fd, err := tree.Open(ino, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return u, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
		return u, false
	}
	if st.Size <= usedWhole {
		return u, true
	}
	u.Data = read // what the kernel reads by itself nobody tells us, and the page cache holds what was written as well
	return u, len(u.Data) > 0
}
