package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// operation is one kind of what may happen. do returns false where it makes no sense now.
type operation struct {
	name   string
	weight int
	do     func(h *history) (bool, error)
}

// on makes an operation on a volume of a machine that runs.
func on(do func(h *history, m *machine, v *vol, c *instance) (bool, error)) func(h *history) (bool, error) {
	return func(h *history) (bool, error) {
		m := pick(h.r, h.machines)
		if m.down || len(h.vols) == 0 {
			return false, nil
		}
		v := h.vols[h.r.IntN(len(h.vols))]
		c := v.copies[m]
		if c == nil {
			return false, nil
		}
		return do(h, m, v, c)
	}
}

var operations []operation

func init() {
	operations = []operation{
		{"create", 3, (*history).create},
		{"adopt", 10, (*history).adopt},
		{"mount", 30, on((*history).mount)},
		{"unmount", 14, on((*history).unmount)},
		{"edit", 120, on((*history).edit)},
		{"peek", 8, on((*history).peek)},
		{"snapshot", 16, on((*history).snapshot)},
		{"flush", 16, on((*history).flush)},
		{"hydrate", 4, on((*history).hydrate)},
		{"restore", 14, on((*history).restore)},
		{"clone", 7, on((*history).clone)},
		{"remove", 6, on((*history).remove)},
		{"purge", 8, on((*history).purge)},
		{"rm", 12, on((*history).drop)},
		{"synchronize", 8, on((*history).synchronize)},
		{"replicate", 6, on((*history).replicate)},
		{"verify", 4, on((*history).verify)},
		{"damage", 3, on((*history).damage)},
		{"export", 6, on((*history).export)},
		{"import", 8, (*history).importFile},
		{"diff", 8, on((*history).diff)},
		{"browse", 6, on((*history).browseHere)},
		{"crash", 3, (*history).crash},
		{"stop", 1, (*history).stop},
		{"pull", 2, (*history).pull},
		{"collect", 5, (*history).collect},
		{"read", 10, on((*history).read)},
		{"readlocal", 5, on((*history).readLocal)},
	}
}

func (h *history) choose() operation {
	sum := 0
	for _, o := range operations {
		sum += o.weight
	}
	n := h.r.IntN(sum)
	for _, o := range operations {
		if n -= o.weight; n < 0 {
			return o
		}
	}
	panic("weights")
}

// maxVolumes is how many volumes are in use at most.
const maxVolumes = 4

func (h *history) inUse() (n int) {
	for _, v := range h.vols {
		if len(v.copies) > 0 {
			n++
		}
	}
	return n
}

// options of a volume: reads of what is not here fail rather than wait for ever.
func (h *history) options() map[string]string {
	return map[string]string{
		"takeover": "always", "fetch-timeout": "30s",
		"prefetch":   pick(h.r, []string{"none", "none", "metadata", "all", "200KiB"}),
		"chunk-size": pick(h.r, []string{"64KiB", "128KiB", "256KiB"}),
	}
}

func (h *history) create() (bool, error) {
	m := pick(h.r, h.machines)
	if m.down || h.inUse() >= maxVolumes {
		return false, nil
	}
	h.made++
	name := fmt.Sprintf("v%d", h.made)
	h.note("create %s on %s", name, m.name)
	opts := h.options()
	crashed, err := h.do(m, func(ctx context.Context, c *control.Client) error {
		_, err := c.Create(ctx, name, opts)
		return err
	})
	if err != nil {
		return true, err
	}
	return true, h.register(m, name, crashed, nil)
}

// register takes a volume into the model that was just made, or, after a crash, may have been.
func (h *history) register(m *machine, name string, crashed bool, state *guess) error {
	if m.down {
		if err := m.start(); err != nil {
			return err
		}
	}
	return m.call(func(ctx context.Context, c *control.Client) error {
		i, err := c.Get(ctx, name)
		if errors.Is(err, volume.ErrUnknown) && crashed {
			return nil
		}
		if err != nil {
			return err
		}
		v := &vol{name: name, order: len(h.vols), copies: map[*machine]*instance{}, remote: map[string]*published{}, past: map[string]*published{},
			mayGo: map[string]string{}, mayCome: map[string]*guess{}}
		if v.key, err = c.KeyExport(ctx, name); err != nil {
			return err
		}
		if v.pub, err = parsePub(i.Pubkey); err != nil {
			return err
		}
		h.vols = append(h.vols, v)
		r := newInstance()
		if state != nil {
			r.becomes(state)
		}
		v.copies[m] = r
		return nil
	})
}

func newInstance() *instance {
	return &instance{locals: map[string]*local{}, went: map[string]*local{}, line: 1}
}

// adopt makes a volume from its key on a machine that does not have it.
func (h *history) adopt() (bool, error) {
	m := pick(h.r, h.machines)
	if m.down || len(h.vols) == 0 {
		return false, nil
	}
	v := pick(h.r, h.vols)
	if v.copies[m] != nil || len(v.copies) == 0 && h.inUse() >= maxVolumes {
		return false, nil
	}
	h.note("create %s on %s from its key", v.name, m.name)
	opts := h.options()
	opts["privkey"] = v.key
	crashed, err := h.do(m, func(ctx context.Context, c *control.Client) error {
		_, err := c.Create(ctx, v.name, opts)
		return err
	})
	if err != nil {
		return true, err
	}
	if crashed {
		there, err := h.exists(m, v.name)
		if err != nil || !there {
			return true, err
		}
	}
	v.copies[m] = newInstance()
	return true, nil
}

func (h *history) exists(m *machine, name string) (there bool, err error) {
	if m.down {
		if err := m.start(); err != nil {
			return false, err
		}
	}
	err = m.call(func(ctx context.Context, c *control.Client) error {
		_, err := c.Get(ctx, name)
		if errors.Is(err, volume.ErrUnknown) {
			return nil
		}
		there = err == nil
		return err
	})
	return there, err
}

// cut tells whether the machine reaches nothing, and has to: what it holds is not all here.
func (h *history) cut(m *machine, c *instance) bool { return m.cable.pulled.Load() && !c.whole }

// mount is also the failover: takeover=always takes the volume from whoever has it.
func (h *history) mount(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount != "" || c.tainted && m.cable.pulled.Load() {
		return false, nil
	}
	h.note("mount %s on %s", v.name, m.name)
	before := v.newest()
	var path string
	wasUnsure := c.unsure
	c.unsure = true
	if before != nil && (wasUnsure || c.base != before.hash) && !m.cable.pulled.Load() { // a machine that dies when it has taken the newest state takes a snapshot of that
		c.recent = append(c.recent, before.state)
	}
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		path, err = cl.Mount(ctx, v.name, "", nil)
		return err
	})
	if crashed || err != nil {
		// Its data may have made room for what is newest already.
		var g *guess
		if lerr := h.look(); lerr != nil {
			return true, lerr
		}
		if before != nil {
			g = either(c.state, before.state, v.newest().state)
		} else if n := v.newest(); n != nil {
			g = either(c.state, n.state)
		} else if g = c.state; g == nil && (crashed || m.cable.pulled.Load()) {
			return true, h.refusedMount(m, c, err)
		}
		c.becomes(g)
		return true, h.refusedMount(m, c, err)
	}
	if c.mount = path; m.down { // it answered, then it died
		c.mount = ""
		if err := m.start(); err != nil {
			return true, err
		}
	}
	return true, h.mounted(m, v, c, before, wasUnsure)
}

func (h *history) refusedMount(m *machine, c *instance, err error) error {
	if err == nil {
		return nil
	}
	return h.refused(m, err, held(c))
}

// held is what who takes a volume from nobody may meet.
func held(c *instance) error {
	if c.polite {
		return volume.ErrHeld
	}
	return errNever
}

var errNever = errors.New("nothing is this")

// mounted finds out what a mount shows, which is never a matter of taste.
func (h *history) mounted(m *machine, v *vol, c *instance, before *published, unsure bool) error {
	offline := m.cable.pulled.Load()
	if err := h.look(); err != nil {
		return err
	}
	n := v.newest()
	var g *guess
	switch {
	case offline && c.state != nil:
		g = c.state
	case n == nil && c.state != nil:
		g = c.state
	case n == nil || offline:
		if c.mount == "" {
			return nil // the machine died; it has to be looked at again
		}
		t, err := h.emptyTree(c.mount)
		if err != nil {
			return err
		}
		g = is(t)
	case !unsure && c.base == n.hash:
		g = c.state
	case !unsure && n == before:
		g = n.state
	default:
		g = either(c.state, n.state)
		if before != nil {
			g = either(g, before.state)
		}
	}
	if c.mount != "" && !h.cut(m, c) && !c.tainted && (!g.sure() || h.chance(0.4)) {
		list, err := h.describe(c.mount)
		if err == nil {
			err = g.read(list)
		}
		if err != nil {
			return fmt.Errorf("%w: what is mounted: %w", errWrong, err)
		}
	}
	if !offline {
		c.unsure = false
		if c.base = ""; n != nil {
			c.base = n.hash
		}
	} else {
		c.unsure = unsure
	}
	if g == c.state {
		return nil
	}
	return h.replaced(v, c, g)
}

// emptyTree is what a new volume holds, which is shown at path.
func (h *history) emptyTree(path string) (*tree, error) {
	dir, err := h.forest.work(nil)
	if err == nil {
		err = mirrorRoot(path, dir)
	}
	if err != nil {
		return nil, err
	}
	list, err := h.describe(path)
	if err != nil {
		return nil, err
	}
	t, err := h.forest.freeze(dir)
	if err != nil {
		return nil, err
	}
	return t, is(t).read(list)
}

func (h *history) unmount(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount == "" {
		return false, nil
	}
	wait := h.chance(0.5)
	h.note("unmount %s on %s, wait %v", v.name, m.name, wait)
	_, err := h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.Unmount(ctx, v.name, control.UnmountRequest{Wait: wait, WaitSeconds: 5}, nil)
		return err
	})
	c.mount = ""
	if err != nil {
		return true, h.refused(m, err, volume.ErrFenced, volume.ErrBusy)
	}
	return true, nil
}

// edit changes files on the mount and in the model alike.
func (h *history) edit(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount == "" || c.tainted || h.cut(m, c) {
		return false, nil
	}
	if !c.state.sure() {
		list, err := h.describe(c.mount)
		if err == nil {
			err = c.state.read(list)
		}
		if err != nil {
			return true, err
		}
	}
	dir, err := h.forest.work(c.state.of[0])
	if err != nil {
		return true, err
	}
	n := 1 + h.r.IntN(6)
	h.note("edit %s on %s, %d times", v.name, m.name, n)
	h.editing = c
	dies := -1
	if h.chance(h.c.crashes) {
		dies = h.r.IntN(n)
	}
	for i := range n {
		e, err := randomEdit(h.r, dir)
		if err != nil {
			return true, err
		}
		here, there := e.apply(dir), e.apply(c.mount)
		if h.c.trace != nil {
			fmt.Fprintf(h.c.trace, "             %v: %v\n", e, here)
		}
		if !errors.Is(there, here) && here != there {
			return true, fmt.Errorf("%w: %v ends with %v, on BTRFS with %v", errWrong, e, there, here)
		}
		if i == dies {
			if err := m.kill(); err != nil {
				return true, err
			}
			h.crashed(m)
			h.result("machine %s crashes", m.name)
			break
		}
	}
	t, err := h.forest.freeze(dir)
	if err != nil {
		return true, err
	}
	c.becomes(is(t))
	return true, nil
}

// peek reads one file.
func (h *history) peek(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount == "" || c.tainted || h.cut(m, c) || !c.state.sure() {
		return false, nil
	}
	files, _, err := paths(c.state.of[0].dir)
	if err != nil || len(files) == 0 {
		return false, err
	}
	name := pick(h.r, files)
	h.note("peek at %q of %s on %s", name, v.name, m.name)
	want, err := content(filepath.Join(c.state.of[0].dir, name))
	if err != nil {
		return true, err
	}
	got, err := content(filepath.Join(c.mount, name))
	if err != nil {
		return true, fmt.Errorf("%w: read %q: %w", errWrong, name, err)
	}
	if got != want {
		return true, fmt.Errorf("%w: %q holds %d other bytes than it should", errWrong, name, len(got))
	}
	return true, nil
}

// content of a regular file; nothing of others.
func content(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, st.Size+1)
	n := 0
	for n < len(b) {
		k, err := unix.Pread(fd, b[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if k == 0 {
			break
		}
		n += k
	}
	return string(b[:n]), nil
}

func (h *history) snapshot(m *machine, v *vol, c *instance) (bool, error) {
	if c.state == nil || c.tainted {
		return false, nil
	}
	h.note("snapshot of %s on %s", v.name, m.name)
	var i volume.SnapshotInfo
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		i, err = cl.Snapshot(ctx, v.name, false, nil)
		return err
	})
	if err != nil {
		return true, h.refused(m, err, volume.ErrNotReady) // a clone that is not all here
	}
	if crashed {
		return true, nil
	}
	h.result("generation %d, local %.8s", i.Generation, i.Local)
	return true, nil
}

// flush returns when what is here now is published: a snapshot that has to hold it.
func (h *history) flush(m *machine, v *vol, c *instance) (bool, error) {
	if c.state == nil || c.tainted || m.cable.pulled.Load() {
		return false, nil
	}
	h.note("flush %s on %s", v.name, m.name)
	var i volume.SnapshotInfo
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		i, err = cl.Flush(ctx, v.name, nil)
		return err
	})
	if err != nil {
		return true, h.refused(m, err, volume.ErrNotReady, volume.ErrFenced)
	}
	if crashed {
		return true, nil
	}
	h.result("generation %d", i.Generation)
	if err := h.look(); err != nil {
		return true, err
	}
	// Where nothing changed here since, that may be an older one than the newest, which another machine published.
	p := v.remote[i.Hash]
	if p == nil {
		p = v.past[i.Hash]
	}
	if p == nil || p.generation != i.Generation {
		return true, fmt.Errorf("%w: it says that generation %d holds all, which the Hive does not have", errWrong, i.Generation)
	}
	if p.state == c.state {
		return true, nil
	}
	return true, p.state.meet(c.state)
}

func (h *history) hydrate(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount == "" || c.tainted || m.cable.pulled.Load() {
		return false, nil
	}
	h.note("hydrate %s on %s", v.name, m.name)
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.Hydrate(ctx, v.name, control.HydrateRequest{Wait: true}, nil)
		return err
	})
	if err == nil && !crashed {
		c.whole = true
	}
	return true, err
}

func (h *history) crash() (bool, error) {
	m := pick(h.r, h.machines)
	if m.down {
		return false, nil
	}
	h.note("crash of %s", m.name)
	h.crashed(m)
	return true, m.kill()
}

// stop ends a driver kindly: it takes final snapshots and gives its volumes back.
func (h *history) stop() (bool, error) {
	m := pick(h.r, h.machines)
	if m.down {
		return false, nil
	}
	h.note("stop %s", m.name)
	for _, v := range h.vols {
		if c := v.copies[m]; c != nil {
			c.mount = ""
		}
	}
	if err := m.stop(); err != nil {
		return true, h.refused(m, err)
	}
	return true, nil
}

func (h *history) pull() (bool, error) {
	m := pick(h.r, h.machines)
	if m.cable.pulled.Load() {
		return false, nil
	}
	h.note("pull the cable of %s", m.name)
	m.cable.pulled.Store(true)
	return true, nil
}

// collect has the block stores delete all that no pin reaches, whatever goes on. What a snapshot reaches may never go.
func (h *history) collect() (bool, error) {
	h.note("collect")
	if err := h.near.collect(context.Background()); err != nil {
		return true, err
	}
	if err := h.far.collect(context.Background()); err != nil {
		return true, err
	}
	h.t.collections++
	if err := h.look(); err != nil {
		return true, err
	}
	needed, err := h.neededFar()
	if err == nil {
		err = h.reachable(h.far, needed, false)
	}
	return true, errors.Join(err, h.reachable(h.near, h.neededNear(), false))
}

func (h *history) read(_ *machine, v *vol, _ *instance) (bool, error) {
	all := v.list()
	if len(all) == 0 {
		return false, nil
	}
	p := pick(h.r, all)
	h.note("read generation %d of %s", p.generation, v.name)
	return true, h.readPublished(v, p)
}

func (h *history) readLocal(m *machine, v *vol, c *instance) (bool, error) {
	all := slices.DeleteFunc(sortedLocals(c), func(l *local) bool { return l.tainted })
	if len(all) == 0 || m.cable.pulled.Load() {
		return false, nil
	}
	l := pick(h.r, all)
	h.note("read local snapshot %.8s (%s) of %s on %s", l.id, l.note, v.name, m.name)
	err := h.browse(m, v, l.id, l.state)
	if errors.Is(err, volume.ErrNoSnapshot) { // an upload ended meanwhile, and did away with it
		if lerr := h.look(); lerr != nil {
			return true, lerr
		}
		if c.locals[l.id] == nil {
			_ = m.call(func(ctx context.Context, cl *control.Client) error {
				return cl.Remove(ctx, v.name+".at-"+l.id[:8], true)
			})
			return true, nil
		}
	}
	return true, err
}
