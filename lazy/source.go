package lazy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// Source is an older state of the same volume that this machine still has on its disk: what the tree of Root and the tree that is being
// fetched have in common is taken from there, and not fetched.
//
// A window of a file is taken where both trees name the same blocks for it, the same pieces of these, and the same ranges: then the bytes are
// the same, as the root was published from just these files. (Blocks are named by the hash of what was sealed with the volume's key, so this
// finds nothing between volumes of different keys, such as a clone and its origin.) BTRFS's checksums say that the disk still has what was written;
// where it has not, or the file keeps none (nocow), the block is fetched.
type Source struct {
	Path       string  // of a read-only snapshot in the same file system
	Generation uint64  // of BTRFS, when it was what Root says; another one now: it was changed since, and is not used
	Root       cid.Cid // that its files were published as
}

// source is an opened Source.
type source struct {
	tree *backing.Tree
	root cid.Cid
	near oldTree // asks for nodes on this machine only: a reader does not wait for what may save it nothing
	far  oldTree // asks the store as well, once
}

// oldTree looks names up in the tree of a source.
type oldTree struct {
	reader *snapshot.Reader

	mu    sync.Mutex // the finder is for one at a time
	find  *snapshot.Finder
	top   wire.DirRef
	known bool // top is set
}

// oldNodeTimeout bounds the question to the store for one node of an old tree, which may have been collected.
const oldNodeTimeout = 10 * time.Second

// openSource returns nil, and why, where s cannot be trusted or is not here.
func (t *Tree) openSource(s Source) (*source, error) {
	info, err := backing.Info(s.Path)
	if err != nil {
		return nil, err
	}
	if !info.Readonly || info.Generation != s.Generation {
		return nil, fmt.Errorf("%s was changed since it was published", s.Path)
	}
	tree, err := backing.OpenTree(s.Path)
	if err != nil {
		return nil, err
	}
	near := snapshot.NewReader(nearNodes{t}, t.fetch.seal)
	far := snapshot.NewReader(farNodes{t}, t.fetch.seal)
	return &source{tree: tree, root: s.Root,
		near: oldTree{reader: near, find: snapshot.NewFinder(near)}, far: oldTree{reader: far, find: snapshot.NewFinder(far)}}, nil
}

// nearNodes are those in the cache on this machine.
type nearNodes struct{ t *Tree }

// Get implements snapshot.Getter.
func (n nearNodes) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if n.t.opt.Nodes == nil {
		return nil, errNotNear
	}
	return n.t.opt.Nodes.Get(ctx, c)
}

var errNotNear = errors.New("the node is not on this machine")

// farNodes asks the store for what is not near, once: what it does not have is done without.
type farNodes struct{ t *Tree }

// Get implements snapshot.Getter.
func (n farNodes) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if b, err := (nearNodes{n.t}).Get(ctx, c); err == nil {
		return b, nil
	}
	ctx, cancel := context.WithTimeout(ctx, oldNodeTimeout)
	defer cancel()
	b, err := n.t.fetch.store.Get(ctx, c)
	if err == nil {
		n.t.fetch.mu.Lock()
		n.t.fetch.bytes += uint64(len(b))
		n.t.fetch.mu.Unlock()
	}
	return b, err
}

// entry returns what the old tree has at path, nil where that is no regular file with content.
func (o *oldTree) entry(ctx context.Context, root cid.Cid, path string) (*wire.Entry, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.known {
		r, err := o.reader.Root(ctx, root)
		if err != nil {
			return nil, err
		}
		o.top, o.known = r.Dir, true
	}
	dir := o.top
	for {
		name, rest, below := strings.Cut(path, "/")
		e, err := o.find.Find(ctx, dir, name)
		switch {
		case err != nil || e == nil:
			return nil, err
		case !below:
			if e.Content == nil {
				return nil, nil
			}
			return e, nil
		case e.Dir == nil:
			return nil, nil
		}
		dir, path = *e.Dir, rest
	}
}

// origin is the counterpart of a file in a source.
type origin struct {
	fd      int
	content *wire.Content // in the old tree
	old     *source
}

// originsOf finds the counterparts of an inode with the content c: by its names, in each source. More would be found with the network, where
// complete is false.
func (t *Tree) originsOf(ctx context.Context, ino uint64, c *wire.Content) (list []origin, complete bool) {
	paths, err := t.bt.Paths(ino)
	if err != nil {
		return nil, true
	}
	complete = true
	for _, s := range t.sources {
		tree := &s.far
		if urgencyOf(ctx).p == reader {
			tree = &s.near
		}
		for _, path := range paths {
			if path == fusefs.HiddenName || strings.HasPrefix(path, fusefs.HiddenName+"/") {
				continue
			}
			e, err := tree.entry(ctx, s.root, path)
			if err != nil {
				complete = false
				break
			}
			if e == nil || e.Content.ChunkSize != c.ChunkSize || e.Flags&wire.FlagNoCOW != 0 {
				continue
			}
			if fd, err := s.open(path); err == nil {
				list = append(list, origin{fd: fd, content: e.Content, old: s})
				break
			}
		}
	}
	return list, complete
}

// open opens a regular file of the source with checksums; by no symbolic link, and nothing outside.
func (s *source) open(path string) (int, error) {
	fd, err := unix.Openat2(s.tree.RootFD(), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.EINVAL
	}
	if err == nil {
		var flags uint32
		if flags, err = backing.GetFlags(fd); err == nil && flags&wire.FlagNoCOW != 0 {
			err = errNoSums
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

var errNoSums = errors.New("the file has no checksums")

// has tells whether the old file's bytes of the window w are those that c has there.
func (o *origin) has(ctx context.Context, c *wire.Content, w wire.Window) (bool, error) {
	if o.content.Span(w.Index) != c.Span(w.Index) {
		return false, nil
	}
	if c.Depth > 0 && o.content.Depth == c.Depth && o.content.Index == c.Index && o.content.Size == c.Size {
		return true, nil // all of it is the same
	}
	was, err := o.window(ctx, w.Index)
	return was != nil && was.Same(&w), err
}

// window returns the old file's window at index, nil where that is a hole.
func (o *origin) window(ctx context.Context, index uint64) (*wire.Window, error) {
	tree := &o.old.far
	if urgencyOf(ctx).p == reader {
		tree = &o.old.near
	}
	for was, err := range tree.reader.Windows(ctx, o.content, index, index+1) {
		if err != nil {
			return nil, err
		}
		return &was, nil
	}
	return nil, nil
}

// closeOrigins is called by the last user of a file.
func closeOrigins(list []origin) {
	for _, o := range list {
		unix.Close(o.fd)
	}
}
