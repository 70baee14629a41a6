package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// bench is a BTRFS of its own over a recorder, with nothing of the driver in between.
type bench struct {
	*testing.T
	dir, volume string
	rec         *recorder
}

func newBench(t *testing.T) *bench {
	kit.NeedRoot(t)
	b := &bench{T: t, dir: t.TempDir()}
	file, pool := filepath.Join(b.dir, "fresh"), filepath.Join(b.dir, "pool")
	kit.Must(t, os.Mkdir(pool, 0o700))
	kit.Must(t, format(file, deviceSize))
	fresh, err := load(file)
	kit.Must(t, err)
	kit.Must(t, os.Remove(file))
	b.rec, err = newRecorder(filepath.Join(b.dir, "recorder"), fresh)
	kit.Must(t, err)
	t.Cleanup(func() { kit.Must(t, b.rec.close()) })
	dev, err := attach(b.rec.path())
	kit.Must(t, err)
	kit.Must(t, dev.mount(pool, "commit=300"))
	t.Cleanup(func() { kit.Must(t, unmount(pool)) })
	b.volume = filepath.Join(pool, volumeName)
	kit.Must(t, backing.CreateSubvolume(b.volume))
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.volume, name) }

func (b *bench) make(names ...string) {
	for _, name := range names {
		kit.Must(b, os.WriteFile(b.path(name), nil, 0o644))
	}
}

func (b *bench) fsync(name string) {
	f, err := os.Open(b.path(name))
	kit.Must(b, err)
	defer f.Close()
	kit.Must(b, f.Sync())
}

// crash cuts the power, and tells which inode name is afterwards, 0 where there is none, and what the log was.
func (b *bench) crash(name string) (uint64, *treeLog) {
	b.rec.mu.Lock()
	d := append(disk{}, b.rec.now...)
	b.rec.mu.Unlock()
	log, err := readLog(b.dir, d)
	kit.Must(b, err)
	file, mnt := filepath.Join(b.dir, "after.img"), filepath.Join(b.dir, "after")
	kit.Must(b, os.MkdirAll(mnt, 0o700))
	kit.Must(b, d.store(file))
	dev, err := attach(file)
	kit.Must(b, err)
	kit.Must(b, dev.mount(mnt, ""))
	defer func() { kit.Must(b, unmount(mnt)) }()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(mnt, volumeName, name), &st); err != nil {
		return 0, log
	}
	return st.Ino, log
}

// What BTRFS alone does to a name, which the checker therefore does not call wrong: docs/CRASH.md. A kernel that is mended ends this
// test early, and takenBack can go then.
func TestBtrfs_ARemovedEntryIsLoggedWithItsDirectory(t *testing.T) {
	b := newBench(t)
	kit.Must(t, os.Mkdir(b.path("D"), 0o755))
	kit.Must(t, os.Mkdir(b.path("W"), 0o755))
	kit.Must(t, backing.SyncFS(b.volume))
	b.make("D/A")
	b.fsync("D/A")
	var st unix.Stat_t
	kit.Must(t, unix.Lstat(b.path("D/A"), &st))
	entry := dirEntry{dirIno(t, b.path("D")), "A"}
	if ino, log := b.crash("D/A"); ino != st.Ino || log.contradicts(entry, ino) {
		t.Fatalf("after the fsync of a file its name is inode %d, should be %d, without a contradiction in the log", ino, st.Ino)
	}
	// So much work elsewhere that BTRFS puts the entry into the tree, which it does late and by the hundred.
	for i := range 1000 {
		b.make(fmt.Sprint("W/", i))
	}
	kit.Must(t, os.Rename(b.path("D/A"), b.path("W/A")))
	b.fsync("D")
	ino, log := b.crash("D/A")
	if ino == 0 {
		t.Skip("BTRFS of this kernel keeps the directory without the name that was taken from it")
	}
	if ino != st.Ino || !log.contradicts(entry, ino) {
		t.Errorf("D/A is inode %d, was %d, and the log of BTRFS does not contradict itself: it is back for another reason than the known one", ino, st.Ino)
	}
	other, _ := b.crash("W/A")
	if other != st.Ino {
		t.Errorf("W/A is inode %d, should be %d", other, st.Ino)
	}
}

func dirIno(t *testing.T, path string) uint64 {
	var st unix.Stat_t
	kit.Must(t, unix.Lstat(path, &st))
	return st.Ino
}

// A file that is open by its number, since the kernel has forgotten its name, must be there after its fsync, and so must the directory that it is in.
func TestCrash_FsyncOfAFileWhoseNameTheKernelForgotKeepsIt(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	w, err := newWorld(dir, 3)
	kit.Must(t, err)
	for _, op := range []string{"fsync", "dsync"} {
		for _, through := range []bool{true, false} {
			v := variant{state: "complete", through: through, options: "commit=300"}
			t.Run(fmt.Sprintf("%s, %v", op, v), func(t *testing.T) {
				rec, err := w.recordWork(v, 1, func(_ string, _ *driver, k *work) error {
					u := &user{w: k, n: 1, open: map[int]bool{}, r: rand.New(rand.NewPCG(1, 1))}
					var err error
					if u.app, err = startApp(k.dir); err != nil {
						return err
					}
					return errors.Join(u.syncForgotten(op), u.app.close())
				})
				kit.Must(t, err)
				c := &checker{w: w, m: rec.model, at: rec.moments[0]}
				play := &replay{base: append(disk{}, rec.fresh...), log: rec.log}
				kit.Must(t, w.examine(play.disk(image{at: c.at}), v, c))
				for _, p := range c.problems {
					t.Error(p)
				}
			})
		}
	}
	kit.NoLeaks(t, dir)
}
