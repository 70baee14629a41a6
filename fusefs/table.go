package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// table is what of a mount must not be lost with the process that serves it: which handles are open, on which inode, in which
// mode; which backing ids the kernel was given; and of the few operations that must not be done twice, how far they came. It lies in
// a file in memory, which whoever holds the connection holds too. docs/FORMAT.md has its fields.
//
// A process may end between any two stores. So the word that makes an entry valid is stored last, and the one that makes it invalid first.
// It is not on disk: after a crash of the machine there is no mount whose handles it could describe.
//
// put and drop are called under handles.mu; the rest may be called by many at once.
type table struct {
	file *os.File
	mem  []byte
	free []uint32 // slots below used() that are free
}

const (
	tableMagic   = 0x544c_5a41_4c43_5246 // "FRCLAZLT"
	tableVersion = 1

	headMagic   = 0  // u64
	headVersion = 8  // u32
	headUsed    = 12 // u32: slots at or above were never used
	headDoubt   = 16 // u32: how many ids were noted in doubt
	headNotes   = 20 // u32: how many operations were noted
	headHighest = 24 // u32: the highest backing id seen

	doubtAt   = 1024
	doubtSize = 4
	doubts    = 512

	noteAt   = 4096
	noteSize = 32
	notes    = 2048

	slotAt   = noteAt + notes*noteSize
	slotSize = 32
	maxSlots = 1 << 20

	tableSize = slotAt + maxSlots*slotSize // sparse: only what is touched takes memory
)

// Flags of a slot.
const (
	slotUsed = 1 << iota
	slotPass
	slotWrite
	slotAppend
	slotMapped // no handle: what the kernel may be writing through a mapping that outlived its handle
)

// slot is one open handle, or one inode that is mapped without any.
type slot struct {
	flags   uint32
	ino     uint64
	unique  uint64 // of the request that opened it
	backing int32
}

var errTable = errors.New("the table of open handles is damaged, or of another version")

func newTable() (*table, error) {
	fd, err := unix.MemfdCreate("fractal-lazy", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("table of open handles: %w", err)
	}
	file := os.NewFile(uintptr(fd), "table")
	if err = unix.Ftruncate(fd, tableSize); err == nil {
		// Nobody can make it shorter under us, which would end this process by a signal.
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	var t *table
	if err == nil {
		t, err = mapTable(file)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("table of open handles: %w", err)
	}
	binary.NativeEndian.PutUint64(t.mem[headMagic:], tableMagic)
	binary.NativeEndian.PutUint32(t.mem[headVersion:], tableVersion)
	return t, nil
}

// openTable takes over the table that another process kept; file stays the caller's.
func openTable(file *os.File) (*table, error) {
	fd := int(file.Fd())
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || st.Size != tableSize {
		return nil, errTable
	}
	dup, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("table of open handles: %w", err)
	}
	t, err := mapTable(os.NewFile(uintptr(dup), "table"))
	if err != nil {
		unix.Close(dup)
		return nil, fmt.Errorf("table of open handles: %w", err)
	}
	if err := t.check(); err != nil {
		t.close()
		return nil, err
	}
	for i := range *t.word(headUsed) {
		if _, _, ok := t.at(i); !ok {
			t.free = append(t.free, i)
		}
	}
	return t, nil
}

func mapTable(file *os.File) (*table, error) {
	mem, err := unix.Mmap(int(file.Fd()), 0, tableSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &table{file: file, mem: mem}, nil
}

func (t *table) check() error {
	if binary.NativeEndian.Uint64(t.mem[headMagic:]) != tableMagic || binary.NativeEndian.Uint32(t.mem[headVersion:]) != tableVersion ||
		*t.word(headUsed) > maxSlots {
		return errTable
	}
	return nil
}

func (t *table) close() {
	unix.Munmap(t.mem)
	t.file.Close()
}

func (t *table) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&t.mem[at])) }
func (t *table) long(at int) *uint64 { return (*uint64)(unsafe.Pointer(&t.mem[at])) }

// A slot is: generation u32 and flags u32 in one word, inode u64, unique u64, backing id u32, unused u32.

// at reads slot i. ok is false where it is free.
func (t *table) at(i uint32) (s slot, fh uint64, ok bool) {
	at := slotAt + int(i)*slotSize
	state := atomic.LoadUint64(t.long(at))
	s = slot{flags: uint32(state), ino: *t.long(at + 8), unique: *t.long(at + 16), backing: int32(*t.word(at + 24))}
	return s, handleOf(i, uint32(state>>32)), s.flags&slotUsed != 0
}

// A handle's number is its slot, counted from one, below the slot's generation: no number comes twice.
func handleOf(i, generation uint32) uint64 { return uint64(generation)<<32 | uint64(i+1) }

// put keeps s and returns the number of its handle; ok is false where the table is full.
func (t *table) put(s slot) (fh uint64, ok bool) {
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else if i = *t.word(headUsed); i < maxSlots {
		atomic.StoreUint32(t.word(headUsed), i+1)
	} else {
		return 0, false
	}
	at := slotAt + int(i)*slotSize
	generation := uint32(*t.long(at)>>32) + 1
	*t.long(at + 8), *t.long(at + 16), *t.word(at + 24) = s.ino, s.unique, uint32(s.backing)
	atomic.StoreUint64(t.long(at), uint64(generation)<<32|uint64(s.flags|slotUsed))
	return handleOf(i, generation), true
}

// drop forgets handle fh.
func (t *table) drop(fh uint64) {
	i := uint32(fh) - 1
	if i >= *t.word(headUsed) {
		return
	}
	at := slotAt + int(i)*slotSize
	if atomic.LoadUint64(t.long(at))>>32 != fh>>32 {
		return
	}
	atomic.StoreUint64(t.long(at), fh>>32<<32)
	t.free = append(t.free, i)
}

// each calls do with every handle that is open.
func (t *table) each(do func(fh uint64, s slot)) {
	for i := range *t.word(headUsed) {
		if s, fh, ok := t.at(i); ok {
			do(fh, s)
		}
	}
}

// doubt notes a backing id that the kernel has and no slot may tell of: it was just registered, or its last handle is about to go.
func (t *table) doubt(id int32) {
	if id <= 0 {
		return
	}
	n := atomic.AddUint32(t.word(headDoubt), 1) - 1
	atomic.StoreUint32(t.word(doubtAt+int(n%doubts)*doubtSize), uint32(id))
	for {
		high := atomic.LoadUint32(t.word(headHighest))
		if high >= uint32(id) || atomic.CompareAndSwapUint32(t.word(headHighest), high, uint32(id)) {
			return
		}
	}
}

// unnoted is how many ids may have been registered and not yet noted: one for each request at work.
const unnoted = 64

// doubtful returns the ids that may be registered without any handle, and those that may come next.
func (t *table) doubtful() (ids []int32) {
	kept := map[int32]bool{}
	t.each(func(_ uint64, s slot) { kept[s.backing] = true })
	add := func(id int32) {
		if id > 0 && !kept[id] {
			kept[id] = true
			ids = append(ids, id)
		}
	}
	for i := range doubts {
		add(int32(*t.word(doubtAt + i*doubtSize)))
	}
	high := int32(*t.word(headHighest) & 0x3fff_ffff)
	for i := range int32(unnoted) {
		add(high + 1 + i)
	}
	return ids
}

// note remembers a and b for the request unique, until notes more of them were noted.
// An entry is: unique u64, a u64, b u64, unused u64.
func (t *table) note(unique, a, b uint64) {
	n := atomic.AddUint32(t.word(headNotes), 1) - 1
	at := noteAt + int(n%notes)*noteSize
	atomic.StoreUint64(t.long(at), 0)
	*t.long(at + 8), *t.long(at + 16) = a, b
	atomic.StoreUint64(t.long(at), unique)
}

// noted returns what note was given for unique.
func (t *table) noted(unique uint64) (a, b uint64, ok bool) {
	for i := range notes {
		at := noteAt + i*noteSize
		if atomic.LoadUint64(t.long(at)) == unique {
			return *t.long(at + 8), *t.long(at + 16), true
		}
	}
	return 0, 0, false
}
