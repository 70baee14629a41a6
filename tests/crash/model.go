package main

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// rootID is the number of the root directory.
const rootID = 1

// state is the content of a file after one operation. Sectors are shared
// between states and never changed; nil is zeros, and what lies behind size is zero.
type state struct {
	begin   int    // moment before the operation, see recorder.at
	what    string // the operation, for reports
	size    uint64
	sectors []*[page]byte
}

// ack says that from the moment at on, the entry idx of a history is durable.
type ack struct{ at, idx int }

// durable returns the last entry of a history that is surely on the disk at a moment.
func durable(acks []ack, at int) int {
	idx := 0
	for _, a := range acks {
		if a.at <= at {
			idx = max(idx, a.idx)
		}
	}
	return idx
}

// node is a file or a directory, whatever its names are.
type node struct {
	id      int
	dir     bool
	first   bool          // came with the snapshot
	states  []state       // of a file
	synced  []ack         // of states
	removed int           // moment before its last name was to go; -1: it has one
	names   []key         // as of now
	links   int           // the most names it ever had
	mtime   unix.Timespec // of a file that came with the snapshot
}

func (n *node) now() *state { return &n.states[len(n.states)-1] }

// allowed returns the states that the file may be a mix of after a crash at a moment.
func (n *node) allowed(at int) []state {
	from := durable(n.synced, at)
	to := from + 1
	for to < len(n.states) && n.states[to].begin <= at {
		to++
	}
	return n.states[from:to]
}

// key is a name in a directory.
type key struct {
	dir  int
	name string
}

// binding says what a name stood for after one operation.
type binding struct {
	begin int
	done  bool
	id    int // 0: nothing
}

// model knows what has to be on a volume after a crash at any moment of a run.
type model struct {
	mu    sync.Mutex
	nodes map[int]*node
	names map[key][]binding
	acks  map[key][]ack
	next  int
}

func newModel() *model {
	m := &model{nodes: map[int]*node{}, names: map[key][]binding{}, acks: map[key][]ack{}, next: rootID}
	m.addLocked(true, true)
	return m
}

// clone returns a model that may go its own way.
func (m *model) clone() *model {
	c := newModel()
	c.next = m.next
	for id, n := range m.nodes {
		x := *n
		x.states = append([]state{}, n.states...)
		x.names = append([]key{}, n.names...)
		c.nodes[id] = &x
	}
	for k, b := range m.names {
		c.names[k] = append([]binding{}, b...)
	}
	return c
}

func (m *model) addLocked(dir, first bool) *node {
	n := &node{id: m.next, dir: dir, first: first, removed: -1}
	m.next++
	m.nodes[n.id] = n
	return n
}

// pathLocked is where a node is now, below the root.
func (m *model) pathLocked(id int) string {
	if id == rootID {
		return "."
	}
	n := m.nodes[id]
	if len(n.names) == 0 {
		return "(removed)"
	}
	return m.pathOfLocked(n.names[0])
}

func (m *model) pathOfLocked(k key) string {
	if k.dir == rootID {
		return k.name
	}
	return m.pathLocked(k.dir) + "/" + k.name
}

// bindLocked has name k stand for id, from an operation on that begins now.
// The function it returns is called when the operation is done.
func (m *model) bindLocked(k key, id, begin int) func() {
	if len(m.names[k]) == 0 {
		m.names[k] = []binding{{done: true}}
	}
	i := len(m.names[k])
	if old := m.names[k][i-1].id; old != 0 {
		n := m.nodes[old]
		for j := range n.names {
			if n.names[j] == k {
				n.names = append(n.names[:j:j], n.names[j+1:]...)
				break
			}
		}
	}
	m.names[k] = append(m.names[k], binding{begin: begin, id: id})
	if id != 0 {
		n := m.nodes[id]
		n.names = append(n.names, k)
		n.links = max(n.links, len(n.names))
	}
	return func() { m.names[k][i].done = true }
}

// nameSyncedLocked notes that the present meaning of a name is durable.
func (m *model) nameSyncedLocked(k key, idx, at int) { m.acks[k] = append(m.acks[k], ack{at, idx}) }

// settledLocked is the last entry of a name's history whose operation is done.
func (m *model) settledLocked(k key) int {
	b := m.names[k]
	for i := len(b) - 1; i > 0; i-- {
		if b[i].done {
			return i
		}
	}
	return 0
}

// meanings returns what a name may stand for after a crash at a moment.
func (m *model) meanings(k key, at int) []int {
	b := m.names[k]
	if len(b) == 0 { // never heard of
		return nil
	}
	from := durable(m.acks[k], at)
	ids := []int{b[from].id}
	for _, x := range b[from+1:] {
		if x.begin > at {
			break
		}
		ids = append(ids, x.id)
	}
	return ids
}

// descendsLocked reports whether directory id is dir or below it.
func (m *model) descendsLocked(id, dir int) bool {
	for id != rootID {
		if id == dir {
			return true
		}
		id = m.nodes[id].names[0].dir
	}
	return id == dir
}

// childrenLocked lists the names in a directory that stand for something.
func (m *model) childrenLocked(dir int) []key {
	var out []key
	for k, b := range m.names {
		if k.dir == dir && b[len(b)-1].id != 0 {
			out = append(out, k)
		}
	}
	sortKeys(out)
	return out
}

func compareKeys(a, b key) int {
	if a.dir != b.dir {
		return a.dir - b.dir
	}
	return strings.Compare(a.name, b.name)
}

// The operations on content return the state that they lead to.

func (s *state) resized(size uint64) state {
	out := state{size: size, sectors: make([]*[page]byte, (size+page-1)/page)}
	copy(out.sectors, s.sectors)
	if at := size % page; size < s.size && at != 0 {
		out.edit(size/page, func(p *[page]byte) { clear(p[at:]) })
	}
	return out
}

// edit replaces a sector by a changed copy.
func (s *state) edit(i uint64, change func(p *[page]byte)) {
	p := new([page]byte)
	if s.sectors[i] != nil {
		*p = *s.sectors[i]
	}
	change(p)
	s.sectors[i] = p
}

func (s *state) written(off uint64, data []byte) state {
	out := s.resized(max(s.size, off+uint64(len(data))))
	for len(data) > 0 {
		at := off % page
		n := min(len(data), int(page-at))
		out.edit(off/page, func(p *[page]byte) { copy(p[at:], data[:n]) })
		data, off = data[n:], off+uint64(n)
	}
	return out
}

func (s *state) zeroed(off, n uint64, keep bool) state {
	end := off + n
	size := s.size
	if !keep {
		size = max(size, end)
	}
	out := s.resized(size)
	for end = min(end, size); off < end; {
		at := off % page
		k := min(end-off, page-at)
		if k == page {
			out.sectors[off/page] = nil
		} else {
			out.edit(off/page, func(p *[page]byte) { clear(p[at : at+k]) })
		}
		off += k
	}
	return out
}

func (s *state) bytes(off, n uint64) []byte {
	off = min(off, s.size)
	out := make([]byte, min(n, s.size-off))
	disk(s.sectors).read(off, out)
	return out
}
