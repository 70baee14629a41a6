package lazy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/pace"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Options of a Tree. The zero value waits for blocks for ever and brings
// everything, as fast as it comes.
type Options struct {
	FetchTimeout time.Duration   // a reader gets EIO after this long without its block; 0: waits
	Prefetch     Prefetch        // empty: PrefetchAll
	Rate         uint64          // bytes a second of background fetching; 0: no limit
	Line         *pace.User      // what background fetching shares with that of other volumes; nil: nothing
	Nodes        snapshot.Getter // nodes of trees that are on this machine; asked before the store; nil: none
	Sources      []Source        // older states of the volume on this machine, the best first
	Volume       string          // its name, for logs and errors
	Log          zerolog.Logger
	// Observe is told of each event that has to do with fetching, and must not block; nil: nobody.
	Observe func(e Event, took time.Duration)
	// Used is told of each range of a file with something remote that an application reads, before it is brought, and must not wait; nil: nobody.
	Used func(ino, off, n uint64)
}

var (
	_ fusefs.Residency = (*Tree)(nil)
	_ fusefs.Still     = (*Tree)(nil)
	_ fusefs.Names     = (*Tree)(nil)
	_ fusefs.Flags     = (*Tree)(nil)
	_ fusefs.Fillings  = (*Tree)(nil)
	_ fusefs.Caps      = (*Tree)(nil)
)

// Tree is the lazy tree of one volume. It implements fusefs.Residency.
type Tree struct {
	bt     *backing.Tree
	opt    Options
	fetch  *fetcher
	reader *snapshot.Reader
	commit *committer
	finish *finisher
	hidden int     // descriptor of the hidden folder; -1: there is none
	root   cid.Cid // of the snapshot that content is taken from; undefined: complete
	fresh  bool    // nobody has looked into its root directory

	sources []*source     // set by Open
	taken   atomic.Uint64 // bytes of content that came from them

	complete atomic.Bool // nothing is remote; set once
	filled   atomic.Bool // every directory is filled; set once
	count    counters
	wake     chan struct{} // buffered: something for Run to look at
	done     chan struct{} // closed when complete is set
	doneOnce sync.Once

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // fillings and read-ahead

	links sync.RWMutex // exclusively: a name of an inode with several comes, or a hidden one goes

	// looks are held shared by who reads attributes of a file that is not in
	// files. Who puts one there waits for them before it changes anything.
	looks [lookShards]sync.RWMutex

	// still is held shared where an inode is for a moment not what it has to be: between a write and the times and
	// capabilities that it spoilt, and while protecting flags are lifted. Freeze holds it alone.
	still sync.RWMutex

	// flags is held alone while the protecting flags of an inode are lifted, or set by us; shared by who looks at such flags, or does what they may forbid.
	flags sync.RWMutex

	mu    sync.Mutex
	files map[uint64]*file    // open, or being fetched
	fills map[uint64]*filling // under way
	want  Prefetch            // what Run brings; Hydrate raises it
}

// Open opens the lazy tree of the subvolume bt, which stays the caller's and
// has to outlive the Tree. A subvolume without the mark of a tree is complete,
// and needs no store.
func Open(ctx context.Context, bt *backing.Tree, st store.Store, s *seal.Sealer, opt Options) (*Tree, error) {
	if opt.Prefetch == "" {
		opt.Prefetch = PrefetchAll
	}
	t := &Tree{
		bt: bt, opt: opt, hidden: -1, want: opt.Prefetch,
		files: map[uint64]*file{}, fills: map[uint64]*filling{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	m, err := mark.GetTree(mark.FD(bt.RootFD()))
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", opt.Volume, err)
	}
	if m == nil {
		t.setComplete()
	} else if err := t.putBack(); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", opt.Volume, err)
	} else if t.hidden, err = openHidden(bt.RootFD()); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", opt.Volume, err)
	}
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	t.fetch = newFetcher(st, s, opt.Volume, opt.Rate, opt.Log)
	t.fetch.told = opt.Observe
	t.fetch.nodes, t.fetch.line = opt.Nodes, opt.Line
	t.reader = snapshot.NewReader(t.fetch, s)
	t.reader.Observe = t.fetch.observeIndex
	t.commit = newCommitter(bt.RootFD(), m != nil)
	t.finish = newFinisher(t)
	if m != nil {
		t.root = m.Root
		d, err := mark.GetDir(mark.FD(bt.RootFD()))
		t.fresh = err == nil && d != nil // a damaged one is met by who looks into it
		t.count.open(m)
		t.openSources()
	}
	return t, nil
}

// openSources opens what can be used of the sources; what cannot is fetched.
func (t *Tree) openSources() {
	for _, s := range t.opt.Sources {
		o, err := t.openSource(s)
		if err != nil {
			t.opt.Log.Warn().Err(err).Str("volume", t.opt.Volume).Str("op", "open").Msg("an old snapshot here is not used")
			continue
		}
		t.sources = append(t.sources, o)
	}
}

// Close ends all fetching and waits for it. Files of the Tree may still be
// closed afterwards; their other methods fail.
func (t *Tree) Close() error {
	t.mu.Lock()
	t.cancel()
	t.mu.Unlock()
	t.fetch.close()
	t.wg.Wait()
	t.finish.close()
	err := t.commit.close()
	t.mu.Lock()
	for _, f := range t.files {
		f.closeFD()
	}
	t.files = map[uint64]*file{}
	t.mu.Unlock()
	for _, s := range t.sources {
		err = errors.Join(err, s.tree.Close())
	}
	if t.hidden >= 0 {
		err = errors.Join(err, unix.Close(t.hidden))
		t.hidden = -1
	}
	return err
}

// Complete implements fusefs.Residency.
func (t *Tree) Complete() bool { return t.complete.Load() }

func (t *Tree) setComplete() {
	t.complete.Store(true)
	t.filled.Store(true)
	t.doneOnce.Do(func() { close(t.done) })
}

// Pause holds background fetching; readers go on.
func (t *Tree) Pause() { t.fetch.setPaused(true) }

// Resume ends Pause.
func (t *Tree) Resume() { t.fetch.setPaused(false) }

// SetRate limits background fetching, in bytes a second; 0: no limit.
func (t *Tree) SetRate(bytesPerSecond uint64) { t.fetch.setRate(bytesPerSecond) }

// Hydrate asks Run to bring everything, whatever Options.Prefetch says.
func (t *Tree) Hydrate() {
	t.mu.Lock()
	t.want = PrefetchAll
	t.mu.Unlock()
	t.kick()
}

// Wait returns when nothing is remote any more, or with the error of ctx.
func (t *Tree) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.ctx.Done():
		return fmt.Errorf("volume %s was closed before it was complete", t.opt.Volume)
	}
}

// spawnLocked runs do in a goroutine that Close waits for; false: the Tree is
// closed. mu is held.
func (t *Tree) spawnLocked(do func()) bool {
	if t.ctx.Err() != nil {
		return false
	}
	t.wg.Go(do)
	return true
}

func (t *Tree) closed() error {
	return fmt.Errorf("%w: volume %s is closed", fusefs.ErrRemote, t.opt.Volume)
}

// kick makes Run look again.
func (t *Tree) kick() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// lookShards is over how many locks those are spread who read attributes.
const lookShards = 64

// Look implements fusefs.Residency.
func (t *Tree) Look(ino uint64, do func() error) error {
	t.links.RLock()
	defer t.links.RUnlock()
	look := &t.looks[ino%lookShards]
	look.RLock()
	t.mu.Lock()
	f := t.files[ino]
	if f != nil {
		f.refs++ // or else another one might take its place
	}
	t.mu.Unlock()
	if f == nil {
		defer look.RUnlock()
		return do()
	}
	look.RUnlock()
	defer f.Close()
	f.mu.RLock()
	defer f.mu.RUnlock()
	return do()
}

// Freeze implements fusefs.Still: do, which takes a snapshot, sees no inode with another
// time, another flag or without capabilities, because something is being fetched into it.
func (t *Tree) Freeze(do func() error) error {
	t.still.Lock()
	defer t.still.Unlock()
	return do()
}

// Overlay implements fusefs.Residency.
func (t *Tree) Overlay(path string, st *unix.Statx_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return overlayDir(path, st)
	}
	if t.complete.Load() {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		if err := overlayFile(path, st); err != nil {
			return err
		}
	}
	// One whose other names are gone may have its hidden name left; then it is reached by its number, not by a name.
	if st.Nlink == 0 || st.Nlink == 1 && !isMagic(path) {
		return nil
	}
	return overlayLinks(path, st)
}

// overlayDir shows the time that the directory will have when it is filled:
// filling it moves the one on disk. Nothing keeps the filling from ending
// between the reading of st and here; then the disk has the right time by now.
func overlayDir(path string, st *unix.Statx_t) error {
	d, err := mark.GetDir(path)
	if err != nil {
		return err
	}
	if d != nil {
		st.Mtime = statxTime(d.Mtime)
		return nil
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if isMagic(path) {
		flags = 0
	}
	var now unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_INO|unix.STATX_MTIME, &now); err != nil {
		return err
	}
	if now.Ino == st.Ino {
		st.Mtime = now.Mtime
	}
	return nil
}

// overlayFile hides what fetching does to times and blocks.
func overlayFile(path string, st *unix.Statx_t) error {
	m, err := mark.GetFile(path)
	if err != nil || m == nil {
		return err
	}
	switch {
	case m.State == mark.Clean:
		if m.Unchanged(wireTime(st.Ctime)) {
			st.Ctime = statxTime(m.Ctime)
		}
	case m.Kept:
		st.Mtime, st.Ctime = statxTime(m.Mtime), statxTime(m.Ctime)
		st.Blocks = blocks(m.Content.Data)
	default:
		if m.Held {
			st.Mtime = statxTime(m.Mtime)
		}
		st.Blocks = max(st.Blocks, blocks(min(m.Content.Data, m.Valid, st.Size)))
	}
	return nil
}

// overlayLinks counts the names that are not filled yet, and leaves out the
// hidden one.
func overlayLinks(path string, st *unix.Statx_t) error {
	l, err := mark.GetLink(path)
	if err != nil || l == nil {
		return err
	}
	if l.Hidden {
		st.Nlink--
	}
	st.Nlink += l.Pending
	return nil
}

// blocks is n bytes in the unit of st_blocks, whole sectors.
func blocks(n uint64) uint64 { return (n + sector - 1) / sector * (sector / 512) }
