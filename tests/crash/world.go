package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store/memory"
	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const (
	deviceSize = 512 << 20
	volumeName = "volume"
	chunkSize  = 64 << 10
)

// source is a published snapshot, what it holds, and a device with a volume
// that shows it and has nothing of it yet.
type source struct {
	root  cid.Cid
	model *model
	fresh disk
}

// world has the blocks of all snapshots.
type world struct {
	dir    string
	blocks *memory.Store
	key    seal.Privkey
	cow    *source
	nocow  *source
}

func newWorld(dir string, seed uint64) (*world, error) {
	key, err := seal.GeneratePrivkey()
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, blocks: memory.New(), key: key}
	if w.cow, err = w.source(seed, false); err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	if w.nocow, err = w.source(seed+1, true); err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	return w, nil
}

// source makes a tree, publishes it, and makes a volume of it on a new device.
func (w *world) source(seed uint64, nocow bool) (s *source, err error) {
	dir, err := os.MkdirTemp(w.dir, "source-")
	if err != nil {
		return nil, err
	}
	pool, err := kit.NewPool(dir, 1<<30)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pool.Close(), os.RemoveAll(dir)) }()
	s = &source{}
	path := filepath.Join(pool.Dir, volumeName)
	if err := backing.CreateSubvolume(path); err != nil {
		return nil, err
	}
	if nocow {
		if err := setNocow(path); err != nil {
			return nil, err
		}
	}
	if s.model, err = makeTree(path, rand.New(rand.NewPCG(seed, 0))); err != nil {
		return nil, err
	}
	if s.root, err = w.publish(dir, path); err != nil {
		return nil, err
	}
	s.fresh, err = w.volume(dir, s.root)
	return s, err
}

func setNocow(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const flNocow = 0x00800000 // FS_NOCOW_FL of linux/fs.h
	return backing.SetFlags(int(f.Fd()), flNocow)
}

// publish seals and uploads the subvolume, with a Hive of its own.
func (w *world) publish(dir, path string) (root cid.Cid, err error) {
	ctx := context.Background()
	db, err := hive.NewServer(filepath.Join(dir, "hive.db"), nil, nil)
	if err != nil {
		return root, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return root, err
	}
	web := &http.Server{Handler: db.Handler(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(l) // always an error: that it was closed
	}()
	defer func() { err = errors.Join(err, web.Close()); <-done }()
	client, err := hive.NewClient("http://"+l.Addr().String(), uuid.NewString(), nil)
	if err != nil {
		return root, err
	}
	if err := client.Create(ctx, w.key.Public()); err != nil {
		return root, err
	}
	snap := path + "-snapshot"
	if err := errors.Join(backing.SyncFS(path), backing.Snapshot(path, snap, true)); err != nil {
		return root, err
	}
	p := replica.New(replica.Deps{Store: w.blocks, Hive: client, Log: zerolog.Nop()})
	r, err := p.Publish(ctx, replica.Job{
		Volume: volumeName, Key: w.key, Machine: uuid.New(), Snapshot: snap, Created: time.Now(), ChunkSize: chunkSize,
	})
	return r.Base.Root, err
}

// volume makes a device with an empty volume that shows the snapshot.
func (w *world) volume(dir string, root cid.Cid) (d disk, err error) {
	file, pool := filepath.Join(dir, "fresh.img"), filepath.Join(dir, "fresh")
	if err := errors.Join(os.Mkdir(pool, 0o700), format(file, deviceSize)); err != nil {
		return nil, err
	}
	dev, err := attach(file)
	if err != nil {
		return nil, err
	}
	if err := dev.mount(pool, ""); err != nil {
		return nil, err
	}
	path := filepath.Join(pool, volumeName)
	err = backing.CreateSubvolume(path)
	if err == nil {
		_, err = lazy.Create(context.Background(), path, w.blocks, w.key.Sealer(), root)
	}
	if err := errors.Join(err, unmount(pool)); err != nil {
		return nil, err
	}
	return load(file)
}

// makeTree fills the folder at path with files of all sizes, and returns their model.
func makeTree(path string, r *rand.Rand) (*model, error) {
	m := newModel()
	if err := setID(path, rootID); err != nil {
		return nil, err
	}
	t := &maker{m: m, root: path, r: r}
	dirs := []int{rootID}
	for i := range 12 {
		top := t.folder(rootID, fmt.Sprintf("d%02d", i))
		dirs = append(dirs, top, t.folder(top, "a"), t.folder(top, "b"))
	}
	for _, d := range dirs {
		for i := range 5 {
			t.file(d, fmt.Sprintf("f%d", i), t.size(), false)
		}
	}
	for i := range 6 {
		t.file(dirs[2+5*i], "large", uint64(200<<10+r.IntN(700<<10)), true)
	}
	for i := range 8 {
		t.link(dirs[3+2*i], "linked", dirs[20+2*i])
	}
	for _, n := range m.nodes {
		if !n.dir {
			var st unix.Stat_t
			t.note(unix.Lstat(t.at(n.names[0]), &st))
			n.mtime = st.Mtim
		}
	}
	return m, t.err
}

// maker makes the tree of a source.
type maker struct {
	m    *model
	root string
	r    *rand.Rand
	err  error
}

func (t *maker) size() uint64 {
	switch t.r.IntN(10) {
	case 0:
		return uint64(t.r.IntN(200))
	case 1, 2, 3:
		return uint64(2000 + t.r.IntN(4000))
	case 4, 5:
		return uint64(page * (1 + t.r.IntN(4)))
	case 6, 7, 8:
		return uint64(8000 + t.r.IntN(24_000))
	}
	return uint64(60_000 + t.r.IntN(60_000))
}

func (t *maker) at(k key) string { return filepath.Join(t.root, t.m.pathOfLocked(k)) }

func (t *maker) note(err error) { t.err = errors.Join(t.err, err) }

// add gives a node a name that was always there.
func (t *maker) add(k key, n *node) {
	t.m.names[k] = []binding{{done: true, id: n.id}}
	n.names = append(n.names, k)
	n.links = len(n.names)
}

func (t *maker) folder(dir int, name string) int {
	k := key{dir, name}
	n := t.m.addLocked(true, true)
	t.add(k, n)
	t.note(os.Mkdir(t.at(k), 0o755))
	t.note(setID(t.at(k), n.id))
	return n.id
}

func (t *maker) file(dir int, name string, size uint64, holes bool) {
	k := key{dir, name}
	n := t.m.addLocked(false, true)
	t.add(k, n)
	s := (&state{}).written(0, content(uint64(n.id), 0, size))
	t.note(os.WriteFile(t.at(k), s.bytes(0, size), 0o644))
	t.note(setID(t.at(k), n.id))
	for off := uint64(3 * page); holes && off+5*page < size; off += 30 * page {
		s = s.zeroed(off, 5*page, true)
		f, err := os.OpenFile(t.at(k), os.O_RDWR, 0)
		t.note(err)
		if err == nil {
			t.note(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), 5*page))
			t.note(f.Close())
		}
	}
	n.states = []state{s}
}

// link gives a file of one folder a second name in another.
func (t *maker) link(from int, name string, to int) {
	var old key
	for _, k := range t.m.childrenLocked(from) {
		if id := t.m.names[k][0].id; !t.m.nodes[id].dir && t.m.nodes[id].now().size > 0 {
			old = k
			break
		}
	}
	if old.dir == 0 {
		return
	}
	k := key{to, name}
	t.note(os.Link(t.at(old), t.at(k)))
	t.add(k, t.m.nodes[t.m.names[old][0].id])
}

func setID(path string, id int) error {
	return unix.Setxattr(path, idName, []byte(fmt.Sprint(id)), 0)
}

func sortKeys(k []key) { slices.SortFunc(k, compareKeys) }
