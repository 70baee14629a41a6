package main

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
)

const applications = 3

// work has the applications do random operations on a mounted volume, and
// notes in the model what each of them means.
type work struct {
	m   *model
	rec *recorder
	dir string
	// plain: the applications work on BTRFS itself, and do what the driver
	// makes of some of their fsyncs: a syncfs.
	plain bool
	names bool // see variant

	// tree is held shared by every operation, and exclusively while a
	// directory moves or goes: paths are the applications' only handles.
	tree sync.RWMutex

	mu       sync.Mutex
	problems []string // what a reader got that it should not have got
	moments  []int    // after an fsync was acknowledged: the most has to be there
	ops      int
}

// run does ops operations in each application.
func (w *work) run(seed uint64, ops int) error {
	var wg sync.WaitGroup
	errs := make([]error, applications)
	for i := range applications {
		wg.Go(func() {
			u := &user{w: w, r: rand.New(rand.NewPCG(seed, uint64(i))), n: i, open: map[int]bool{}}
			errs[i] = u.run(ops)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// user is one application. Each changes files of its own, so that the order
// of the operations on a file is known.
type user struct {
	w    *work
	r    *rand.Rand
	n    int
	app  *app
	hot  []int // files it works on at the moment
	made int
	open map[int]bool
}

func (u *user) run(ops int) (err error) {
	if u.app, err = startApp(u.w.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.app.close()) }()
	for range ops {
		if err := u.step(); err != nil {
			return err
		}
	}
	return nil
}

func (u *user) step() error {
	n := u.r.IntN(100)
	if u.w.names {
		return u.nameStep(n)
	}
	switch {
	case u.n == 0 && n < 8:
		return u.exclusive(u.onTrees())
	case n < 4:
		return u.shared(func() error { return u.cutAndExtend(u.any()) })
	case n < 47:
		return u.shared(func() error { return u.change(u.pick()) })
	case n < 48:
		return u.shared(func() error { return u.hold(u.pick()) })
	case n < 65:
		return u.shared(func() error { return u.fsync(u.pick()) })
	case n < 74:
		return u.shared(func() error { return u.read(u.any()) })
	case n < 78:
		return u.shared(u.create)
	case n < 84:
		return u.shared(func() error { return u.rename(u.any()) })
	case n < 89:
		return u.shared(func() error { return u.replace(u.any()) })
	case n < 91:
		return u.shared(func() error { return u.unlink(u.any()) })
	case n < 93:
		return u.shared(func() error { return u.link(u.any()) })
	case n < 99:
		return u.shared(func() error { return u.fsyncDir(u.folder()) })
	}
	return u.shared(func() error { return u.plain(request{Op: "list", Path: u.path(u.folder())}) })
}

// onTrees is something that no other application may be at work beside.
func (u *user) onTrees() func() error {
	switch u.r.IntN(8) {
	case 0, 1, 2:
		return u.mkdir
	case 3, 4:
		return u.moveDir
	case 5:
		return u.removeTree
	case 6:
		return func() error { return u.syncForgotten("fsync") }
	}
	return func() error { return u.syncForgotten("dsync") }
}

// nameStep is step with hardly anything but names.
func (u *user) nameStep(n int) error {
	switch {
	case u.n == 0 && n < 6:
		return u.exclusive(u.onTrees())
	case n < 10:
		return u.shared(func() error { return u.change(u.pick()) })
	case n < 25:
		return u.shared(func() error { return u.fsync(u.pick()) })
	case n < 35:
		return u.shared(u.create)
	case n < 55:
		return u.shared(func() error { return u.rename(u.any()) })
	case n < 75:
		return u.shared(func() error { return u.replace(u.any()) })
	case n < 82:
		return u.shared(func() error { return u.unlink(u.any()) })
	case n < 84:
		return u.shared(func() error { return u.link(u.any()) })
	case n < 88:
		return u.shared(func() error { return u.hold(u.pick()) })
	}
	return u.shared(func() error { return u.fsyncDir(u.folder()) })
}

func (u *user) shared(do func() error) error {
	u.w.tree.RLock()
	defer u.w.tree.RUnlock()
	return do()
}

func (u *user) exclusive(do func() error) error {
	u.w.tree.Lock()
	defer u.w.tree.Unlock()
	return do()
}

// any returns one of the user's files, nil where none is left.
func (u *user) any() *node {
	m := u.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 1000 {
		n := m.nodes[rootID+u.r.IntN(m.next-rootID)]
		if u.ownsLocked(n) {
			return n
		}
	}
	return nil
}

func (u *user) ownsLocked(n *node) bool {
	return n != nil && !n.dir && n.id%applications == u.n && len(n.names) > 0 && n.removed < 0
}

// pick returns one of the few files that the user works on for a while.
func (u *user) pick() *node {
	if len(u.hot) < 4 || u.r.IntN(12) == 0 {
		if n := u.any(); n != nil {
			u.hot = append(u.hot, n.id)
		}
		if len(u.hot) > 4 {
			u.hot = u.hot[1:]
		}
	}
	m := u.w.m
	m.mu.Lock()
	n := m.nodes[u.hot[u.r.IntN(len(u.hot))]]
	owned := u.ownsLocked(n)
	m.mu.Unlock()
	if !owned {
		return u.any()
	}
	return n
}

// folder returns a directory.
func (u *user) folder() int {
	m := u.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 1000 {
		n := m.nodes[rootID+u.r.IntN(m.next-rootID)]
		if n != nil && n.dir && (n.id == rootID || len(n.names) > 0) {
			return n.id
		}
	}
	return rootID
}

func (u *user) path(id int) string {
	u.w.m.mu.Lock()
	defer u.w.m.mu.Unlock()
	return u.w.m.pathLocked(id)
}

// plain does what changes nothing.
func (u *user) plain(r request) error {
	_, err := u.app.do(r)
	u.w.count()
	return err
}

func (w *work) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops++
}

// mutate does an operation whose meaning is noted before it begins; what note returns is called when it is done.
func (u *user) mutate(r request, note func(begin int) func()) error {
	m := u.w.m
	m.mu.Lock()
	done := note(u.w.rec.at())
	m.mu.Unlock()
	_, err := u.app.do(r)
	if err == nil && done != nil {
		m.mu.Lock()
		done()
		m.mu.Unlock()
	}
	u.w.count()
	return err
}

// request for an operation on a file, which may stay open afterwards.
func (u *user) on(n *node, op string) request {
	return request{Op: op, ID: n.id, Path: u.path(n.id), Keep: u.r.IntN(3) == 0}
}

// hold has the application open a file by what it has of it already, and not by name, until it lets go of it.
func (u *user) hold(n *node) error {
	if n == nil {
		return nil
	}
	return u.plain(request{Op: "hold", ID: n.id, Path: u.path(n.id)})
}

// syncForgotten makes a file in a new directory, has the kernel forget its name, and makes it durable.
func (u *user) syncForgotten(op string) error {
	if err := u.mkdir(); err != nil {
		return err
	}
	m := u.w.m
	m.mu.Lock()
	dir := m.next - 1
	for m.next%applications != u.n {
		m.next++
	}
	n := m.addLocked(false, false)
	n.states = []state{{}}
	k := u.freshLocked(dir)
	path := m.pathOfLocked(k)
	m.mu.Unlock()
	err := u.mutate(request{Op: "create", ID: n.id, Path: path}, func(begin int) func() { return m.bindLocked(k, n.id, begin) })
	if err != nil {
		return err
	}
	if err := errors.Join(u.hold(n), forgetNames()); err != nil {
		return err
	}
	r := request{Op: op, ID: n.id, Path: "held"}
	if op == "fsync" {
		promise := u.promise(n, 0)
		if err := u.plain(r); err != nil {
			return err
		}
		promise()
		return nil
	}
	r.N, r.Seed = 5000, 7
	next := n.now().written(0, content(r.Seed, 0, r.N))
	promise := u.promise(n, 1)
	err = u.mutate(r, func(begin int) func() {
		next.begin = begin
		n.states = append(n.states, next)
		return nil
	})
	if err == nil {
		promise()
	}
	return err
}

// letGo closes a file that is kept open or held.
func (u *user) letGo(n *node) error { return u.plain(request{Op: "close", ID: n.id}) }

// change writes to a file, cuts it, extends it or makes a hole in it.
func (u *user) change(n *node) error {
	if n == nil {
		return nil
	}
	if u.r.IntN(8) == 0 {
		if err := u.letGo(n); err != nil {
			return err
		}
	}
	old := n.now()
	r := u.on(n, "write")
	var next state
	switch u.r.IntN(16) {
	case 14: // through a handle that makes each write durable
		r.Op, r.Off, r.N = "dsync", u.offset(old.size+1), u.length()
	case 12, 15: // through a mapping, which cannot make the file longer
		if r.Off, r.N = u.offset(old.size+1), u.length(); r.Off+1 >= old.size {
			return nil
		}
		r.Op, r.N = []string{"mmap", "msync"}[u.r.IntN(2)], min(r.N, old.size-r.Off)
	case 13:
		r.Op, r.Off, r.N = "direct", u.offset(old.size+1)&^(page-1), (u.length()+page-1)&^(page-1)
	case 0, 1, 2, 3: // somewhere
		r.Off, r.N = u.offset(old.size+1), u.length()
	case 4, 5: // at the end, or behind it
		r.Off, r.N = old.size, u.length()
		if u.r.IntN(2) == 0 {
			r.Off += uint64(u.r.IntN(20_000))
		}
	case 6, 7:
		r.Op, r.Off = "truncate", u.offset(old.size+1)
	case 8:
		r.Op, r.Off = "truncate", old.size+uint64(u.r.IntN(30_000))
	case 9, 10:
		r.Op, r.Off, r.N = "punch", u.offset(old.size+1), u.length()
	default:
		r.Op, r.Off, r.N = "zero", u.offset(old.size+1), u.length()
	}
	switch r.Op {
	case "write", "mmap", "msync", "direct", "dsync":
		r.Seed = u.r.Uint64()
		next = old.written(r.Off, content(r.Seed, r.Off, r.N))
	case "truncate":
		next = old.resized(r.Off)
	case "punch":
		next = old.zeroed(r.Off, r.N, true)
	case "zero":
		r.Seed = uint64(u.r.IntN(2))
		next = old.zeroed(r.Off, r.N, r.Seed == 0)
	}
	promise := u.promise(n, 1)
	err := u.mutate(r, func(begin int) func() {
		next.begin, next.what = begin, fmt.Sprintf("%s %d+%d", r.Op, r.Off, r.N)
		n.states = append(n.states, next)
		return nil
	})
	if err == nil && (r.Op == "dsync" || r.Op == "msync") {
		promise()
	}
	return err
}

// cutAndExtend makes a file shorter and longer again, of which much has
// probably never been fetched: what was behind the cut must not come back.
func (u *user) cutAndExtend(n *node) error {
	if n == nil || n.now().size < 2*page {
		return nil
	}
	size := n.now().size
	r := u.on(n, "truncate")
	r.Off = u.offset(size)
	cut := n.now().resized(r.Off)
	err := u.mutate(r, func(begin int) func() {
		cut.begin, cut.what = begin, fmt.Sprintf("truncate %d", r.Off)
		n.states = append(n.states, cut)
		return nil
	})
	if err != nil {
		return err
	}
	if u.r.IntN(2) == 0 {
		if err := u.fsync(n); err != nil {
			return err
		}
	}
	r = u.on(n, "truncate")
	r.Off = size
	long := cut.resized(size)
	if u.r.IntN(2) == 0 {
		r.Op, r.N, r.Seed = "write", 1+uint64(u.r.IntN(page)), u.r.Uint64()
		long = cut.written(r.Off, content(r.Seed, r.Off, r.N))
	}
	err = u.mutate(r, func(begin int) func() {
		long.begin, long.what = begin, fmt.Sprintf("%s %d+%d", r.Op, r.Off, r.N)
		n.states = append(n.states, long)
		return nil
	})
	if err != nil || u.r.IntN(2) == 0 {
		return err
	}
	return u.fsync(n)
}

func (u *user) offset(limit uint64) uint64 {
	off := u.r.Uint64N(limit)
	if u.r.IntN(3) == 0 {
		off &^= page - 1
	}
	return off
}

func (u *user) length() uint64 {
	switch u.r.IntN(4) {
	case 0:
		return uint64(1 + u.r.IntN(200))
	case 1:
		return page
	case 2:
		return uint64(1 + u.r.IntN(3*page))
	}
	return uint64(1 + u.r.IntN(100_000))
}

// fsync makes the content and the present name of a file durable.
func (u *user) fsync(n *node) error {
	if n == nil {
		return nil
	}
	op := "fsync"
	if u.r.IntN(4) == 0 {
		op = "fdatasync"
	}
	if u.w.plain && u.r.IntN(2) == 0 {
		op = "syncfs"
	}
	promise := u.promise(n, 0)
	if err := u.plain(u.on(n, op)); err != nil {
		return err
	}
	promise()
	return nil
}

// promise is called before n is made durable, with its content after so many states more; what it returns is called when that was acknowledged.
func (u *user) promise(n *node, more int) func() {
	m := u.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	state := len(n.states) - 1 + more
	names := append([]key{}, n.names...)
	var at []int
	for _, k := range names {
		at = append(at, m.settledLocked(k))
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		moment := u.w.rec.at()
		n.synced = append(n.synced, ack{moment, state})
		if len(names) == 1 && n.links == 1 {
			m.nameSyncedLocked(names[0], at[0], moment)
		}
		u.w.moment(moment)
	}
}

func (w *work) moment(at int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moments = append(w.moments, at)
}

// fsyncDir makes all names of a directory durable.
func (u *user) fsyncDir(dir int) error {
	m := u.w.m
	m.mu.Lock()
	at := map[key]int{}
	for k := range m.names {
		if k.dir == dir {
			at[k] = m.settledLocked(k)
		}
	}
	m.mu.Unlock()
	if err := u.plain(request{Op: "fsyncdir", Path: u.path(dir)}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	moment := u.w.rec.at()
	for k, i := range at {
		m.nameSyncedLocked(k, i, moment)
	}
	u.w.moment(moment)
	return nil
}

// read compares what a reader gets with the model.
func (u *user) read(n *node) error {
	if n == nil {
		return nil
	}
	now := n.now()
	r := u.on(n, "read")
	r.Off, r.N = u.offset(now.size+1), uint64(1+u.r.IntN(200_000))
	got, err := u.app.do(r)
	u.w.count()
	if err != nil {
		return err
	}
	if want := now.bytes(r.Off, r.N); got.Size != uint64(len(want)) || got.Sum != crc32.ChecksumIEEE(want) {
		u.w.mu.Lock()
		u.w.problems = append(u.w.problems, fmt.Sprintf("live: %s (file %d): %d bytes at %d are not what was written", r.Path, n.id, r.N, r.Off))
		u.w.mu.Unlock()
	}
	return nil
}

// freshLocked is a name in dir that was never there.
func (u *user) freshLocked(dir int) key {
	u.made++
	return key{dir, fmt.Sprintf("n%d-%d", u.n, u.made)}
}

func (u *user) create() error {
	dir := u.folder()
	m := u.w.m
	m.mu.Lock()
	for id := range m.nodes { // what is new in a new directory has most to lose
		if n := m.nodes[id]; n.dir && !n.first && len(n.names) > 0 && u.r.IntN(3) == 0 {
			dir = id
			break
		}
	}
	m.mu.Unlock()
	_, err := u.createIn(dir)
	return err
}

func (u *user) createIn(dir int) (*node, error) {
	m := u.w.m
	m.mu.Lock()
	for m.next%applications != u.n { // numbers say whose a file is
		m.next++
	}
	n := m.addLocked(false, false)
	n.states = []state{{}}
	k := u.freshLocked(dir)
	path := m.pathOfLocked(k)
	m.mu.Unlock()
	err := u.mutate(request{Op: "create", ID: n.id, Path: path, Keep: u.r.IntN(2) == 0}, func(begin int) func() {
		return m.bindLocked(k, n.id, begin)
	})
	if err != nil {
		return nil, err
	}
	if err := u.change(n); err != nil {
		return nil, err
	}
	if u.r.IntN(8) == 0 {
		if err := u.hold(n); err != nil {
			return nil, err
		}
	}
	if u.r.IntN(2) == 0 {
		return n, u.fsync(n)
	}
	return n, nil
}

func (u *user) rename(n *node) error {
	if n == nil {
		return nil
	}
	dir := u.folder()
	m := u.w.m
	m.mu.Lock()
	from := n.names[u.r.IntN(len(n.names))]
	to := u.freshLocked(dir)
	r := request{Op: "rename", Path: m.pathOfLocked(from), To: m.pathOfLocked(to)}
	m.mu.Unlock()
	if err := u.mutate(r, u.move(from, to, n.id)); err != nil {
		return err
	}
	switch u.r.IntN(3) {
	case 0:
		return u.fsync(n)
	case 1:
		return u.fsyncDir(dir)
	}
	return nil
}

// move notes a rename.
func (u *user) move(from, to key, id int) func(begin int) func() {
	m := u.w.m
	return func(begin int) func() {
		if old := m.names[to]; len(old) > 0 {
			if x := m.nodes[old[len(old)-1].id]; x != nil && len(x.names) == 1 {
				x.removed = begin
			}
		}
		a, b := m.bindLocked(from, 0, begin), m.bindLocked(to, id, begin)
		return func() { a(); b() }
	}
}

// replace puts a new file in the place of n, as careful programs do.
func (u *user) replace(n *node) error {
	if n == nil {
		return nil
	}
	m := u.w.m
	m.mu.Lock()
	to := n.names[0]
	m.mu.Unlock()
	fresh, err := u.createIn(to.dir)
	if err != nil {
		return err
	}
	if err := u.fsync(fresh); err != nil {
		return err
	}
	m.mu.Lock()
	from := fresh.names[0]
	r := request{Op: "rename", Path: m.pathOfLocked(from), To: m.pathOfLocked(to)}
	m.mu.Unlock()
	if err := u.letGo(n); err != nil {
		return err
	}
	if err := u.mutate(r, u.move(from, to, fresh.id)); err != nil {
		return err
	}
	return u.fsyncDir(to.dir)
}

func (u *user) unlink(n *node) error {
	if n == nil {
		return nil
	}
	if err := u.letGo(n); err != nil {
		return err
	}
	m := u.w.m
	m.mu.Lock()
	k := n.names[u.r.IntN(len(n.names))]
	m.mu.Unlock()
	return u.unlinkName(k)
}

func (u *user) unlinkName(k key) error {
	m := u.w.m
	m.mu.Lock()
	r := request{Op: "unlink", Path: m.pathOfLocked(k)}
	m.mu.Unlock()
	return u.mutate(r, func(begin int) func() {
		b := m.names[k]
		if n := m.nodes[b[len(b)-1].id]; len(n.names) == 1 {
			n.removed = begin
		}
		return m.bindLocked(k, 0, begin)
	})
}

func (u *user) link(n *node) error {
	if n == nil {
		return nil
	}
	dir := u.folder()
	m := u.w.m
	m.mu.Lock()
	k := u.freshLocked(dir)
	r := request{Op: "link", Path: m.pathLocked(n.id), To: m.pathOfLocked(k)}
	m.mu.Unlock()
	return u.mutate(r, func(begin int) func() { return m.bindLocked(k, n.id, begin) })
}

func (u *user) mkdir() error {
	m := u.w.m
	dir := u.folder()
	m.mu.Lock()
	n := m.addLocked(true, false)
	k := u.freshLocked(dir)
	r := request{Op: "mkdir", ID: n.id, Path: m.pathOfLocked(k)}
	m.mu.Unlock()
	return u.mutate(r, func(begin int) func() { return m.bindLocked(k, n.id, begin) })
}

func (u *user) moveDir() error {
	dir, to := u.folder(), u.folder()
	m := u.w.m
	m.mu.Lock()
	if dir == rootID || m.descendsLocked(to, dir) {
		m.mu.Unlock()
		return nil
	}
	k, old := u.freshLocked(to), m.nodes[dir].names[0]
	r := request{Op: "rename", Path: m.pathLocked(dir), To: m.pathOfLocked(k)}
	m.mu.Unlock()
	return u.mutate(r, u.move(old, k, dir))
}

// removeTree removes a directory and all that is in it, mostly never looked at before.
func (u *user) removeTree() error {
	dir := u.folder()
	m := u.w.m
	m.mu.Lock()
	small := dir != rootID
	for _, k := range m.childrenLocked(dir) {
		b := m.names[k]
		small = small && !m.nodes[b[len(b)-1].id].dir
	}
	keys := m.childrenLocked(dir)
	m.mu.Unlock()
	if !small {
		return nil
	}
	for _, k := range keys {
		if err := u.unlinkName(k); err != nil {
			return err
		}
	}
	m.mu.Lock()
	own := m.nodes[dir].names[0]
	r := request{Op: "rmdir", Path: m.pathLocked(dir)}
	m.mu.Unlock()
	return u.mutate(r, func(begin int) func() {
		m.nodes[dir].removed = begin
		return m.bindLocked(own, 0, begin)
	})
}
