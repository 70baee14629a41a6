package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/memory"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// pool is the loop-mounted BTRFS that the tests of this package share.
var pool string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root: they mount a BTRFS")
		return 1
	}
	dir, err := os.MkdirTemp("", "lazy-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	p := backing.LoopPool{File: filepath.Join(dir, "image"), Dir: filepath.Join(dir, "pool"), Size: 8 << 30}
	if err := p.Create(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pool = p.Dir
	defer func() {
		if out, err := exec.Command("umount", pool).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "umount: %v: %s\n", err, out)
		}
	}()
	return m.Run()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world has two machines, a Hive and a block store with faults between.
type world struct {
	t      testing.TB
	blocks *memory.Store
	store  *faulty.Store
	hive   *hive.Client
	key    seal.Privkey
	dir    string
	n      int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db, err := hive.NewServer(filepath.Join(t.TempDir(), "hive.db"), nil, nil)
	check(t, err)
	server := httptest.NewServer(db.Handler())
	t.Cleanup(func() { server.Close(); check(t, db.Close()) })
	client, err := hive.NewClient(server.URL, uuid.NewString(), nil)
	check(t, err)
	key, err := seal.GeneratePrivkey()
	check(t, err)
	check(t, client.Create(context.Background(), key.Public()))
	dir, err := os.MkdirTemp(pool, "w")
	check(t, err)
	w := &world{t: t, blocks: memory.New(), hive: client, key: key, dir: dir}
	w.store = faulty.New(w.blocks)
	t.Cleanup(func() {
		subs, err := os.ReadDir(dir)
		check(t, err)
		for _, s := range subs {
			check(t, backing.DeleteSubvolume(filepath.Join(dir, s.Name())))
		}
		check(t, os.Remove(dir))
	})
	return w
}

// subvolume makes an empty one.
func (w *world) subvolume() string {
	w.t.Helper()
	w.n++
	path := filepath.Join(w.dir, fmt.Sprintf("v%d", w.n))
	check(w.t, backing.CreateSubvolume(path))
	return path
}

// publish snapshots the subvolume at path and uploads it on top of base.
func (w *world) publish(path string, base replica.Base) replica.Result {
	w.t.Helper()
	w.n++
	snap := filepath.Join(w.dir, fmt.Sprintf("s%d", w.n))
	check(w.t, backing.SyncFS(path))
	check(w.t, backing.Snapshot(path, snap, true))
	p := replica.New(replica.Deps{Store: w.store, Hive: w.hive, Log: w.log()})
	r, err := p.Publish(context.Background(), replica.Job{
		Volume: "test", Key: w.key, Machine: uuid.UUID{1}, Snapshot: snap, Created: time.Unix(1_700_000_000, 0), Base: base,
	})
	check(w.t, err)
	return r
}

func (w *world) log() zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(w.t)).Level(zerolog.WarnLevel)
}

// lazy makes a subvolume that shows r's snapshot.
func (w *world) lazy(r replica.Result) string {
	w.t.Helper()
	path := w.subvolume()
	_, err := lazy.Create(context.Background(), path, w.store, w.key.Sealer(), r.Base.Root)
	check(w.t, err)
	return path
}

// volume is an open lazy tree.
type volume struct {
	*lazy.Tree
	t    testing.TB
	bt   *backing.Tree
	path string
}

func (w *world) open(path string, opt lazy.Options) *volume {
	w.t.Helper()
	bt, err := backing.OpenTree(path)
	check(w.t, err)
	opt.Volume, opt.Log = "test", w.log()
	tree, err := lazy.Open(context.Background(), bt, w.store, w.key.Sealer(), opt)
	check(w.t, err)
	v := &volume{Tree: tree, t: w.t, bt: bt, path: path}
	w.t.Cleanup(v.close)
	return v
}

func (v *volume) close() {
	if v.bt == nil {
		return
	}
	check(v.t, v.Tree.Close())
	check(v.t, v.bt.Close())
	v.bt = nil
}

// hydrate brings everything.
func (v *volume) hydrate() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(v.t, v.Run(ctx))
	if !v.Complete() {
		v.t.Fatal("not complete after Run")
	}
}

// ino returns the number of the inode at rel, filling what leads there.
func (v *volume) ino(rel string) uint64 {
	v.t.Helper()
	ino := uint64(backing.RootIno)
	path := v.path
	for _, name := range bytes.Split([]byte(rel), []byte("/")) {
		check(v.t, v.Fill(context.Background(), ino))
		path = filepath.Join(path, string(name))
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			v.t.Fatalf("%s: %v", path, err)
		}
		ino = st.Ino
	}
	return ino
}

// handle is an open file as fusefs would have it.
type handle struct {
	v   *volume
	ino uint64
	fd  int
}

func (v *volume) openFile(rel string) *handle {
	v.t.Helper()
	ino := v.ino(rel)
	fd, err := v.bt.Open(ino, unix.O_RDWR)
	check(v.t, err)
	return &handle{v: v, ino: ino, fd: fd}
}

func (h *handle) close() { unix.Close(h.fd) }

// with calls do with the file's residency, or without one where it is local.
func (h *handle) with(do func(f fileOps) error) error {
	f, err := h.v.File(context.Background(), h.ino)
	if err != nil {
		return err
	}
	if f == nil {
		return do(localOps{})
	}
	defer f.Close()
	return do(f)
}

type fileOps interface {
	Read(ctx context.Context, off, n uint64) error
	Write(ctx context.Context, off, n uint64, do func() error) error
	Truncate(ctx context.Context, size uint64, do func() error) error
	Punch(ctx context.Context, off, n uint64, do func() error) error
	Modify(ctx context.Context, do func() error) error
}

type localOps struct{}

func (localOps) Read(context.Context, uint64, uint64) error { return nil }
func (localOps) Write(_ context.Context, _, _ uint64, do func() error) error {
	return do()
}
func (localOps) Truncate(_ context.Context, _ uint64, do func() error) error { return do() }
func (localOps) Punch(_ context.Context, _, _ uint64, do func() error) error { return do() }
func (localOps) Modify(_ context.Context, do func() error) error             { return do() }

func (h *handle) read(off, n uint64) ([]byte, error) {
	p := make([]byte, n)
	err := h.with(func(f fileOps) error {
		if err := f.Read(context.Background(), off, n); err != nil {
			return err
		}
		k, err := unix.Pread(h.fd, p, int64(off))
		p = p[:max(k, 0)]
		return err
	})
	return p, err
}

func (h *handle) write(off uint64, p []byte) error {
	return h.with(func(f fileOps) error {
		return f.Write(context.Background(), off, uint64(len(p)), func() error {
			_, err := unix.Pwrite(h.fd, p, int64(off))
			return err
		})
	})
}

func (h *handle) truncate(size uint64) error {
	return h.with(func(f fileOps) error {
		return f.Truncate(context.Background(), size, func() error { return unix.Ftruncate(h.fd, int64(size)) })
	})
}

func (h *handle) punch(off, n uint64, mode uint32) error {
	return h.with(func(f fileOps) error {
		return f.Punch(context.Background(), off, n, func() error { return unix.Fallocate(h.fd, mode, int64(off), int64(n)) })
	})
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

// equal compares two trees as far as a snapshot carries them.
func equal(t testing.TB, want, got string) {
	t.Helper()
	names := func(root string) map[string]unix.Stat_t {
		out := map[string]unix.Stat_t{}
		check(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			rel, _ := filepath.Rel(root, path)
			err = unix.Lstat(path, &st)
			out[rel] = st
			return err
		}))
		return out
	}
	a, b := names(want), names(got)
	for rel, x := range a {
		y, ok := b[rel]
		if !ok {
			t.Errorf("%q is missing", rel)
			continue
		}
		if x.Mode != y.Mode || x.Uid != y.Uid || x.Gid != y.Gid || x.Rdev != y.Rdev || x.Nlink != y.Nlink || x.Mtim != y.Mtim ||
			(x.Mode&unix.S_IFMT != unix.S_IFDIR && x.Size != y.Size) {
			t.Errorf("%q differs:\n%+v\n%+v", rel, x, y)
		}
		p, q := filepath.Join(want, rel), filepath.Join(got, rel)
		if x, y := xattrs(t, p), xattrs(t, q); fmt.Sprint(x) != fmt.Sprint(y) {
			t.Errorf("%q: xattrs %v, want %v", rel, y, x)
		}
		switch x.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			c, err := os.ReadFile(p)
			check(t, err)
			d, err := os.ReadFile(q)
			check(t, err)
			if !bytes.Equal(c, d) {
				t.Errorf("%q: content differs", rel)
			}
			if x, y := ranges(t, p), ranges(t, q); fmt.Sprint(x) != fmt.Sprint(y) {
				t.Errorf("%q: data at %v, want %v", rel, y, x)
			}
		case unix.S_IFLNK:
			c, _ := os.Readlink(p)
			d, _ := os.Readlink(q)
			if c != d {
				t.Errorf("%q: target %q, want %q", rel, d, c)
			}
		}
	}
	for rel := range b {
		if _, ok := a[rel]; !ok {
			t.Errorf("%q should not be there", rel)
		}
	}
}

func xattrs(t testing.TB, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 8192)
	n, err := unix.Llistxattr(path, buf)
	check(t, err)
	out := map[string]string{}
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(name) == 0 || bytes.HasPrefix(name, []byte("trusted.fractal.")) {
			continue
		}
		v := make([]byte, 8192)
		n, err := unix.Lgetxattr(path, string(name), v)
		check(t, err)
		out[string(name)] = string(v[:n])
	}
	return out
}

func ranges(t testing.TB, path string) []backing.Range {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	st, err := f.Stat()
	check(t, err)
	r, err := backing.DataRanges(int(f.Fd()), 0, uint64(st.Size()))
	check(t, err)
	return r
}

var errCut = fmt.Errorf("%w: the cable is out", store.ErrUnavailable)

func isErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}
