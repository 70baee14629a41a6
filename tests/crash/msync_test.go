package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"
)

// An application that maps a file in passthrough mode makes it durable without asking the driver. What BTRFS logs then must not hold a part of
// a directory that was filled a moment ago, and whose filling is not committed: after a crash the directory is filled anew, and what the
// log brought would be taken for what the filling before had made.
func TestCrash_MsyncBesideAFilling(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	w, err := newWorld(dir, 3)
	kit.Must(t, err)
	v := variant{state: "remote", through: true, demand: true, options: "commit=300"}
	rec, err := w.recordWork(v, 1, func(pool string, _ *driver, k *work) error { return k.replaceInFilled(pool) })
	kit.Must(t, err)
	if len(rec.moments) < 5 {
		t.Fatalf("%d files were replaced, should be 5 at least", len(rec.moments))
	}
	play := &replay{base: append(disk{}, rec.fresh...), log: rec.log}
	for _, at := range rec.moments {
		c := &checker{w: w, m: rec.model, at: at}
		kit.Must(t, w.examine(play.disk(image{at: at}), v, c))
		for _, p := range c.problems {
			t.Errorf("after request %d: %s", at, p)
		}
	}
	kit.NoLeaks(t, dir)
}

// replaceInFilled puts new files in the place of ones in directories that nobody has looked at before, as a database does that is made anew: removed,
// made, made longer, mapped, stored to, msync. The commit of the directory's filling has to write much that is not of the volume first.
func (w *work) replaceInFilled(pool string) (err error) {
	u := &user{w: w, r: rand.New(rand.NewPCG(1, 1)), open: map[int]bool{}}
	if u.app, err = startApp(w.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.app.close()) }()
	other, err := os.Create(filepath.Join(pool, "other"))
	if err != nil {
		return err
	}
	defer other.Close()
	if err := setNocow(other.Name()); err != nil {
		return err
	}
	old := w.oneOfEach()
	for _, n := range old { // what is above is filled, and that is committed
		if err := u.plain(request{Op: "list", Path: filepath.Dir(filepath.Dir(u.path(n.id)))}); err != nil {
			return err
		}
	}
	for _, n := range old {
		// Room for the data of others is there, or BTRFS makes some, and a transaction that does so has no log.
		if _, err := other.WriteAt(make([]byte, 32<<20), 0); err != nil {
			return err
		}
		if n == old[0] {
			if err := backing.SyncFS(pool); err != nil {
				return err
			}
		}
		if err := u.replaceMapped(n); err != nil {
			return err
		}
	}
	return nil
}

// oneOfEach returns a file with one name of each directory of the second level, with some data.
func (w *work) oneOfEach() (files []*node) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	dirs := map[int]bool{}
	for id := rootID; id < w.m.next; id++ {
		n := w.m.nodes[id]
		if n == nil || n.dir || len(n.names) != 1 || n.now().size < 3*page {
			continue
		}
		d := n.names[0].dir
		if d == rootID || w.m.nodes[d].names[0].dir == rootID || dirs[d] {
			continue
		}
		dirs[d] = true
		files = append(files, n)
	}
	return slices.Clip(files)
}

// replaceMapped removes old, and makes a file of its name and size, with data in the second page only.
func (u *user) replaceMapped(old *node) error {
	m := u.w.m
	m.mu.Lock()
	k, size := old.names[0], old.now().size
	m.mu.Unlock()
	if err := u.unlinkName(k); err != nil {
		return err
	}
	m.mu.Lock()
	n := m.addLocked(false, false)
	n.states = []state{{}}
	path := m.pathOfLocked(k)
	m.mu.Unlock()
	r := request{Op: "create", ID: n.id, Path: path, Keep: true}
	if err := u.mutate(r, func(begin int) func() { return m.bindLocked(k, n.id, begin) }); err != nil {
		return err
	}
	r = request{Op: "truncate", ID: n.id, Path: path, Keep: true, Off: size}
	if err := u.to(n, r, n.now().resized(size)); err != nil {
		return err
	}
	r = request{Op: "msync", ID: n.id, Path: path, Off: page, N: page, Seed: 7, Keep: true}
	promise := u.promise(n, 1)
	if err := u.to(n, r, n.now().written(page, content(7, page, page))); err != nil {
		return err
	}
	promise()
	return nil
}

// to does r, which makes next of n.
func (u *user) to(n *node, r request, next state) error {
	return u.mutate(r, func(begin int) func() {
		next.begin, next.what = begin, r.Op
		n.states = append(n.states, next)
		return nil
	})
}
