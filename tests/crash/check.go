package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/mark"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// found is a name on the volume after a crash.
type found struct {
	ino  uint64
	id   int // 0: the number was not yet there
	dir  bool
	size uint64
}

// checker looks at one image.
type checker struct {
	w        *world
	m        *model
	at       int
	path     string
	problems []string
	stale    int // names that BTRFS's log contradicts itself about, see treeLog
	readLog  func() (*treeLog, error)
	log      *treeLog // nil: not yet read

	tree *lazy.Tree
	bt   *backing.Tree
	all  map[key]found
	dirs map[int]uint64 // inode numbers of directories
}

func (c *checker) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// check opens the volume at path as the driver does when it starts after a
// crash, and compares it with the model: as it is, and when everything has
// been fetched. What it finds is in problems; an error means that the check itself failed.
func (c *checker) check() (err error) {
	if c.bt, err = backing.OpenTree(c.path); err != nil {
		c.problem("the volume does not open: %v", err)
		return nil
	}
	defer func() { err = errors.Join(err, c.bt.Close()) }()
	var log bytes.Buffer
	c.tree, err = lazy.Open(context.Background(), c.bt, c.w.blocks, c.w.key.Sealer(), lazy.Options{
		Prefetch: lazy.PrefetchAll, Volume: volumeName, Log: zerolog.New(&log).Level(zerolog.WarnLevel),
	})
	if err != nil {
		c.problem("the volume does not open: %v", err)
		return nil
	}
	defer func() { err = errors.Join(err, c.tree.Close()) }()
	c.look("before hydration")
	if len(c.problems) > 0 {
		return nil // it does not get better, and may never be complete
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.tree.Run(ctx); err != nil || !c.tree.Complete() {
		c.problem("hydration: %v: %s", err, log.String())
		return nil
	}
	c.look("when complete")
	c.attributes()
	return nil
}

// look compares all names and all sectors with the model.
func (c *checker) look(when string) {
	c.all, c.dirs = map[key]found{}, map[int]uint64{}
	c.walk(rootID, backing.RootIno)
	before := len(c.problems)
	c.names()
	inodes := map[uint64]bool{}
	for k, f := range c.all {
		if f.dir || inodes[f.ino] {
			continue
		}
		inodes[f.ino] = true
		c.file(k, f)
	}
	for i := before; i < len(c.problems); i++ {
		c.problems[i] = when + ": " + c.problems[i]
	}
}

func (c *checker) walk(id int, ino uint64) {
	c.dirs[id] = ino
	if err := c.tree.Fill(context.Background(), ino); err != nil {
		c.problem("directory %d does not fill: %v", id, err)
		return
	}
	fd, err := c.bt.Open(ino, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		c.problem("directory %d: %v", id, err)
		return
	}
	defer unix.Close(fd)
	names := map[string]bool{}
	err = backing.ReadDir(fd, func(name string, _ uint64, _ uint8) error {
		if id == rootID && name == fusefs.HiddenName {
			return nil
		}
		names[name] = true
		return nil
	})
	if err != nil {
		c.problem("directory %d: %v", id, err)
	}
	for name := range names {
		c.entry(fd, key{id, name})
	}
}

func (c *checker) entry(dir int, k key) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, k.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		c.problem("%v: %v", k, err)
		return
	}
	f := found{ino: st.Ino, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, size: uint64(st.Size)}
	if b, err := getxattr(mark.At(dir, k.name), idName); err == nil {
		f.id, _ = strconv.Atoi(string(b)) // 0: never set
	}
	if f.id == 0 { // a crash came between the making and the numbering
		for _, id := range c.m.meanings(k, c.at) {
			if n := c.m.nodes[id]; n != nil && !n.first && (len(n.synced) == 0 || n.synced[0].at > c.at) {
				f.id = id
			}
		}
	}
	c.all[k] = f
	if f.dir && f.id != 0 {
		c.walk(f.id, st.Ino)
	}
}

func getxattr(path, name string) ([]byte, error) {
	b := make([]byte, 64)
	n, err := unix.Lgetxattr(path, name, b)
	return b[:max(n, 0)], err
}

// names compares what every name stands for.
func (c *checker) names() {
	ids := map[int]bool{}
	for k, f := range c.all {
		ids[f.id] = true
		if len(c.m.names[k]) == 0 {
			c.problem("name %s in directory %d was never made", k.name, k.dir)
		}
	}
	for k := range c.m.names {
		if k.dir != rootID && !ids[k.dir] {
			continue // the directory tells
		}
		f, there := c.all[k]
		want := c.m.meanings(k, c.at)
		ok := false
		for _, id := range want {
			ok = ok || (id == f.id && there == (id != 0))
		}
		if !ok && c.takenBack(k, f) {
			c.stale++
			continue
		}
		if !ok {
			c.problem("name %s in directory %d is %d, should be one of %v (history %v, durable %v)%s", k.name, k.dir, f.id, want, c.m.names[k], c.m.acks[k], c.whereabouts(f))
		}
	}
	for id, n := range c.m.nodes {
		gone := n.removed >= 0 && n.removed <= c.at
		due := n.first || len(n.synced) > 0 && n.synced[0].at <= c.at
		if due && !gone && !ids[id] && id != rootID {
			c.problem("%d is lost", id)
		}
	}
}

// takenBack reports whether k is what f was called before, and is back because BTRFS's log says so and also that it is not.
func (c *checker) takenBack(k key, f found) bool {
	was := slices.ContainsFunc(c.m.names[k], func(b binding) bool { return b.id == f.id })
	if f.id == 0 || !was {
		return false
	}
	if c.log == nil {
		var err error
		if c.log, err = c.readLog(); err != nil {
			c.problem("the log of names: %v", err)
			return false
		}
	}
	return c.log.contradicts(dirEntry{c.dirs[k.dir], k.name}, f.ino)
}

// whereabouts tells what names a file has, on the volume and in the model.
func (c *checker) whereabouts(f found) string {
	n := c.m.nodes[f.id]
	if n == nil {
		return ""
	}
	out := fmt.Sprintf("; at the end %v, synced %v; found as", n.names, n.synced)
	for k, other := range c.all {
		if other.ino == f.ino {
			out += fmt.Sprint(" ", k)
		}
	}
	for k, b := range c.m.names {
		for _, x := range b {
			if x.id == f.id {
				out += fmt.Sprintf("; %v was %v, durable %v", k, b, c.m.acks[k])
				break
			}
		}
	}
	return out
}

// file compares all sectors of a file with what they may be.
func (c *checker) file(k key, f found) {
	n := c.m.nodes[f.id]
	if n == nil || n.dir {
		c.problem("%v has the number %d, which no file has", k, f.id)
		return
	}
	states := n.allowed(c.at)
	least, most := states[0].size, states[0].size
	for _, s := range states[1:] {
		least, most = min(least, s.size), max(most, s.size)
	}
	if f.size < least || f.size > most {
		c.problem("file %d has %d bytes, should have %d to %d", f.id, f.size, least, most)
		return
	}
	got, err := c.read(f)
	if err != nil {
		c.problem("file %d cannot be read: %v", f.id, err)
		return
	}
	for off := uint64(0); off < f.size; off += page {
		if what := c.sector(n, states, off, got[off:min(off+page, f.size)]); what != "" {
			c.problem("file %d, %d bytes: sector at %d %s", f.id, f.size, off, what)
			return
		}
	}
}

// sector returns what is wrong with a sector, "" where nothing is.
func (c *checker) sector(n *node, states []state, off uint64, got []byte) string {
	var zero [page]byte
	same := func(s *state) bool {
		want := &zero
		if i := off / page; i < uint64(len(s.sectors)) && s.sectors[i] != nil {
			want = s.sectors[i]
		}
		return bytes.Equal(got, want[:len(got)])
	}
	for i := range states {
		if same(&states[i]) {
			return ""
		}
	}
	if staleTail(n, states, off, got) {
		return ""
	}
	switch {
	case bytes.Equal(got, zero[:len(got)]):
		return "is zero"
	case n.first && same(&n.states[0]):
		return "is as in the snapshot again" + history(n, states, off, got)
	}
	return "is something else" + history(n, states, off, got)
}

// staleTail reports whether what is wrong with a sector is BTRFS's own doing,
// with our part in it or without (the flag -plain shows it): a truncation to
// the middle of a sector leaves the rest of it on the disk, and an extension zeroes that only in memory, so
// that a commit with the new size and without the zeros shows again what an
// earlier state had there. The bytes before the cut are right.
func staleTail(n *node, states []state, off uint64, got []byte) bool {
	cut := len(got)
	for _, s := range states {
		if s.size > off && s.size < off+uint64(cut) {
			cut = int(s.size - off)
		}
	}
	if cut == len(got) {
		return false
	}
	right := false
	for _, s := range states {
		right = right || bytes.Equal(pad(s.bytes(off, uint64(cut)), cut), got[:cut])
	}
	if !right {
		return false
	}
	older := make([][]byte, 0, len(n.states))
	for _, s := range n.states {
		older = append(older, pad(s.bytes(off, uint64(len(got))), len(got)))
		if s.begin == states[len(states)-1].begin {
			break
		}
	}
	for i := cut; i < len(got); i++ {
		if !slices.ContainsFunc(older, func(o []byte) bool { return o[i] == got[i] }) {
			return false
		}
	}
	return true
}

// pad makes b n bytes long.
func pad(b []byte, n int) []byte { return append(b, make([]byte, n-len(b))...) }

// history tells what was done to a file, and how a sector differs from what it may be.
func history(n *node, states []state, off uint64, got []byte) string {
	out := fmt.Sprintf("; synced %v", n.synced)
	for i, s := range n.states {
		want := pad(s.bytes(off, uint64(len(got))), len(got))
		first, last := 0, len(got)
		for first < last && got[first] == want[first] {
			first++
		}
		for first < last && got[last-1] == want[last-1] {
			last--
		}
		if s.what != "" {
			out += fmt.Sprintf("; %d: at %d %s to %d bytes", i, s.begin, s.what, s.size)
		}
		out += fmt.Sprintf(" differs in %d-%d", first, last)
	}
	zeros := 0
	for _, b := range got {
		if b == 0 {
			zeros++
		}
	}
	return out + fmt.Sprintf("; %d zeros; %d states allowed", zeros, len(states))
}

func (c *checker) read(f found) ([]byte, error) {
	fd, err := c.bt.Open(f.ino, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	r, err := c.tree.File(context.Background(), f.ino)
	if err != nil {
		return nil, err
	}
	if r != nil {
		defer r.Close()
		if err := r.Read(context.Background(), 0, f.size); err != nil {
			return nil, err
		}
	}
	b := make([]byte, f.size)
	_, err = io.ReadFull(file, b)
	return b, err
}

// attributes looks at what fetching must leave alone, on the complete volume.
func (c *checker) attributes() {
	count := map[uint64]uint64{}
	for _, f := range c.all {
		count[f.ino]++
	}
	for k, f := range c.all {
		fd, err := c.bt.Open(f.ino, unix.O_PATH)
		if err != nil {
			c.problem("%v: %v", k, err)
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil {
			c.problem("%v: %v", k, err)
			continue
		}
		if !f.dir && st.Nlink != count[f.ino] {
			c.problem("file %d has %d names, and says %d", f.id, count[f.ino], st.Nlink)
		}
		n := c.m.nodes[f.id]
		if n == nil || f.dir || !n.first || len(n.states) > 1 && n.states[1].begin <= c.at {
			continue
		}
		if st.Mode&0o7777 != 0o644 || st.Mtim != n.mtime {
			c.problem("file %d: mode %o and time %v, should be 644 and %v", f.id, st.Mode&0o7777, st.Mtim, n.mtime)
		}
	}
}
