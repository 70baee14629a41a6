package fusefs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const sector = 4096

// partial is the Residency of a volume of which some files are remote: it knows their content and which sectors are not here.
type partial struct {
	tree  Tree
	full  atomic.Bool
	delay time.Duration
	stall chan struct{} // while not nil and not closed, fetches wait

	filling atomic.Bool // until the next Sync

	fills, syncs, closed, opened atomic.Int64
	ended                        atomic.Int64 // waits that ended with their context

	mu    sync.Mutex
	files map[uint64]*remoteFile
	dirs  map[uint64]func() error // still to be filled
}

// remoteFile is the truth about a file, in memory.
type remoteFile struct {
	r     *partial
	ino   uint64
	local atomic.Bool
	stamp unix.StatxTimestamp // the mtime it had

	mu      sync.Mutex
	content []byte
	missing map[uint64]bool
}

func newPartial(t testing.TB, src string) *partial {
	return &partial{tree: openTree(t, src), files: map[uint64]*remoteFile{}, dirs: map[uint64]func() error{}}
}

// add makes the file name under dir, all of its content remote.
func (p *partial) add(t testing.TB, path string, content []byte) *remoteFile {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o666))
	must(t, os.Chmod(path, 0o666))
	must(t, os.Truncate(path, int64(len(content))))
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st))
	rf := &remoteFile{r: p, ino: st.Ino, stamp: st.Mtime, content: bytes.Clone(content), missing: map[uint64]bool{}}
	for s := uint64(0); s*sector < uint64(len(content)); s++ {
		rf.missing[s] = true
	}
	p.mu.Lock()
	p.files[st.Ino] = rf
	p.mu.Unlock()
	return rf
}

func (p *partial) Complete() bool { return p.full.Load() }

func (p *partial) Fill(ctx context.Context, ino uint64) error {
	p.mu.Lock()
	fill := p.dirs[ino]
	delete(p.dirs, ino)
	p.mu.Unlock()
	if fill == nil {
		return nil
	}
	p.fills.Add(1)
	return fill()
}

func (p *partial) file(ino uint64) *remoteFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files[ino]
}

func (p *partial) Look(ino uint64, do func() error) error {
	if rf := p.file(ino); rf != nil {
		rf.mu.Lock()
		defer rf.mu.Unlock()
	}
	return do()
}

func (p *partial) Overlay(path string, st *unix.Statx_t) error {
	if rf := p.file(st.Ino); rf != nil && !rf.local.Load() {
		st.Blocks = (uint64(len(rf.content)) + 511) / 512
		st.Mtime = rf.stamp
	}
	return nil
}

func (p *partial) File(ctx context.Context, ino uint64) (File, error) {
	rf := p.file(ino)
	if rf == nil || rf.local.Load() {
		return nil, nil
	}
	p.opened.Add(1)
	return rf, nil
}

func (p *partial) Sync(ctx context.Context, fd int, do func() error) error {
	p.syncs.Add(1)
	p.filling.Store(false)
	return do()
}

func (p *partial) Filling() bool { return p.filling.Load() }

func (p *partial) Steady(do func() error) error { return do() }

func (p *partial) Protected(path string) (bool, error) {
	return filepath.Base(path) == "protected", nil
}

func (rf *remoteFile) Local() bool { return rf.local.Load() }
func (rf *remoteFile) Close()      { rf.r.closed.Add(1) }

// fetch makes [off, off+n) present.
func (rf *remoteFile) fetch(ctx context.Context, off, n uint64) error {
	rf.mu.Lock()
	defer rf.mu.Unlock()
	return rf.fetchLocked(ctx, off, n)
}

func (rf *remoteFile) fetchLocked(ctx context.Context, off, n uint64) error {
	if n == 0 {
		return nil
	}
	fd := -1
	for s := off / sector; s <= (off+n-1)/sector && s*sector < uint64(len(rf.content)); s++ {
		if !rf.missing[s] {
			continue
		}
		if rf.r.stall != nil {
			select {
			case <-rf.r.stall:
			case <-ctx.Done():
				rf.r.ended.Add(1)
				return ctx.Err()
			}
		}
		time.Sleep(rf.r.delay)
		if fd < 0 {
			var err error
			if fd, err = rf.r.tree.Open(rf.ino, unix.O_RDWR); err != nil {
				return err
			}
			defer unix.Close(fd)
		}
		end := min((s+1)*sector, uint64(len(rf.content)))
		if _, err := pwriteAll(fd, rf.content[s*sector:end], int64(s*sector)); err != nil {
			return err
		}
		delete(rf.missing, s)
	}
	return nil
}

func (rf *remoteFile) Read(ctx context.Context, off, n uint64) error { return rf.fetch(ctx, off, n) }

func (rf *remoteFile) Write(ctx context.Context, off, n uint64, do func() error) error {
	rf.mu.Lock()
	defer rf.mu.Unlock()
	for _, edge := range []uint64{off, off + n - 1} {
		if err := rf.fetchLocked(ctx, edge, 1); err != nil {
			return err
		}
	}
	if err := rf.growLocked(ctx, off+n); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	for s := off / sector; s <= (off+n-1)/sector; s++ {
		delete(rf.missing, s)
	}
	rf.touchLocked()
	return nil
}

// growLocked fetches the sector of the old end before the file gets longer (R1).
func (rf *remoteFile) growLocked(ctx context.Context, size uint64) error {
	if size > uint64(len(rf.content)) && len(rf.content) > 0 {
		return rf.fetchLocked(ctx, uint64(len(rf.content))-1, 1)
	}
	return nil
}

func (rf *remoteFile) touchLocked() {
	now := time.Now()
	rf.stamp = unix.StatxTimestamp{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
}

func (rf *remoteFile) Truncate(ctx context.Context, size uint64, do func() error) error {
	rf.mu.Lock()
	defer rf.mu.Unlock()
	if size > uint64(len(rf.content)) {
		if err := rf.growLocked(ctx, size); err != nil {
			return err
		}
	} else if size%sector != 0 {
		if err := rf.fetchLocked(ctx, size, 1); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if size < uint64(len(rf.content)) {
		rf.content = rf.content[:size]
		for s := range rf.missing {
			if s*sector >= size {
				delete(rf.missing, s)
			}
		}
	}
	rf.touchLocked()
	return nil
}

func (rf *remoteFile) Punch(ctx context.Context, off, n uint64, do func() error) error {
	return rf.Write(ctx, off, n, do)
}

func (rf *remoteFile) Modify(ctx context.Context, do func() error) error {
	rf.mu.Lock()
	defer rf.mu.Unlock()
	return do()
}

func (rf *remoteFile) Seek(ctx context.Context, off uint64, whence int) (uint64, error) {
	if err := rf.Whole(ctx); err != nil {
		return 0, err
	}
	fd, err := rf.r.tree.Open(rf.ino, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := unix.Seek(fd, int64(off), whence)
	return uint64(n), err
}

func (rf *remoteFile) Whole(ctx context.Context) error {
	return rf.fetch(ctx, 0, uint64(len(rf.content)))
}

// becomeLocal fetches the rest and marks the file.
func (rf *remoteFile) becomeLocal() error {
	if err := rf.Whole(context.Background()); err != nil {
		return err
	}
	rf.local.Store(true)
	return nil
}

func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	rnd.Read(b)
	return b
}

func TestPartial_ReadsWritesAndSizes(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	want := pattern(1, 3*sector+100)
	rf := res.add(t, filepath.Join(src, "f"), want)
	w := mountTest(t, src, res, Options{})
	p := filepath.Join(w.mnt, "f")
	st, err := os.Stat(p)
	must(t, err)
	if st.Size() != int64(len(want)) || st.Sys() == nil {
		t.Errorf("size %d before fetching, want %d", st.Size(), len(want))
	}
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	// Part of a missing sector: the rest of it has to come from the remote content.
	_, err = f.WriteAt([]byte("middle"), sector+10)
	must(t, err)
	copy(want[sector+10:], "middle")
	rf.mu.Lock()
	missing := len(rf.missing)
	rf.mu.Unlock()
	if missing != 3 {
		t.Errorf("%d sectors missing after the write, want 3", missing)
	}
	got := make([]byte, len(want)+10)
	n, err := f.ReadAt(got, 0)
	if err != io.EOF {
		must(t, err)
	}
	if !bytes.Equal(got[:n], want) {
		t.Error("content differs")
	}
	_, err = f.Seek(int64(len(want))+1, unix.SEEK_DATA)
	if !errors.Is(err, unix.ENXIO) {
		t.Errorf("SEEK_DATA past the end: %v", err)
	}
	must(t, f.Truncate(2*sector+5))
	must(t, f.Truncate(4*sector))
	want = append(want[:2*sector+5], make([]byte, 2*sector-5)...)
	must(t, f.Sync())
	if res.syncs.Load() == 0 {
		t.Error("fsync did not pass the residency")
	}
	b, err := os.ReadFile(p)
	must(t, err)
	if !bytes.Equal(b, want) {
		t.Error("content differs after truncation")
	}
}

func TestPartial_ClosesEveryFile(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	res.add(t, filepath.Join(src, "f"), pattern(2, 2*sector))
	w := mountTest(t, src, res, Options{})
	p := filepath.Join(w.mnt, "f")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				os.ReadFile(p)
				os.Chmod(p, 0o640)
			}
		})
	}
	wg.Wait()
	must(t, w.Unmount())
	if o, c := res.opened.Load(), res.closed.Load(); o == 0 || o != c {
		t.Errorf("%d opened, %d closed", o, c)
	}
}

func TestPartial_FillsBeforeNames(t *testing.T) {
	src := newSubvolume(t)
	for _, d := range []string{"looked", "listed", "made", "removed", "over", "from", "touched"} {
		must(t, os.Mkdir(filepath.Join(src, d), 0o755))
	}
	res := newPartial(t, src)
	fill := func(dir string) {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(src, dir), &st))
		res.dirs[st.Ino] = func() error { return os.WriteFile(filepath.Join(src, dir, "inside"), nil, 0o644) }
	}
	for _, d := range []string{"looked", "listed", "made", "removed", "over", "from", "touched"} {
		fill(d)
	}
	w := mountTest(t, src, res, Options{})
	in := func(s string) string { return filepath.Join(w.mnt, s) }
	_, err := os.Stat(in("looked/inside"))
	must(t, err)
	list, err := os.ReadDir(in("listed"))
	must(t, err)
	if len(list) != 1 {
		t.Errorf("listed %d names, want 1", len(list))
	}
	_, err = os.OpenFile(in("made/inside"), os.O_CREATE|os.O_EXCL, 0o644)
	wantErr(t, "create over a name not yet filled", err, unix.EEXIST)
	wantErr(t, "rmdir of a directory not yet filled", unix.Rmdir(in("removed")), unix.ENOTEMPTY)
	must(t, os.Mkdir(in("empty"), 0o755))
	wantErr(t, "rename over a directory not yet filled", unix.Rename(in("empty"), in("over")), unix.ENOTEMPTY)
	must(t, os.Rename(in("from/inside"), in("moved")))
	when := time.Unix(1_000_000_000, 5)
	must(t, os.Chtimes(in("touched"), when, when))
	_, err = os.Stat(in("touched/inside"))
	must(t, err)
	st, err := os.Stat(filepath.Join(src, "touched"))
	must(t, err)
	if !st.ModTime().Equal(when) {
		t.Errorf("time %v after a filling, want that of the caller", st.ModTime())
	}
	if n := res.fills.Load(); n != 7 {
		t.Errorf("%d directories filled, want 7", n)
	}
}
