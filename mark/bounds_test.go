package mark

import (
	"bytes"
	"errors"
	"testing"

	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

func zeros(n int, first uint64) (out []wire.Range) {
	for i := range uint64(n) {
		out = append(out, wire.Range{Off: first + i*2*wire.Sector, Len: wire.Sector})
	}
	return out
}

func TestFile_FieldsOutOfBoundsAreNotEncoded(t *testing.T) {
	for name, change := range map[string]func(*File){
		"no state":              func(f *File) { f.State = 0 },
		"unknown state":         func(f *File) { f.State = 4 },
		"a state of the disk":   func(f *File) { f.State = held },
		"kept and held":         func(f *File) { f.Held = true },
		"valid past the end":    func(f *File) { f.Valid = f.Content.Size + 1 },
		"long capabilities":     func(f *File) { f.Caps = make([]byte, MaxCaps+1) },
		"other flags":           func(f *File) { f.Flags = wire.FlagNoCOW },
		"mtime nanoseconds":     func(f *File) { f.Mtime.Nsec = 1e9 },
		"ctime nanoseconds":     func(f *File) { f.Ctime.Nsec = 1e9 },
		"done nanoseconds":      func(f *File) { f.Done.Nsec = 1e9 },
		"empty zero range":      func(f *File) { f.Zero = []wire.Range{{Off: 4096}} },
		"zero ranges touch":     func(f *File) { f.Zero = []wire.Range{{Len: 4096}, {Off: 4096, Len: 4096}} },
		"zero ranges descend":   func(f *File) { f.Zero = []wire.Range{{Off: 8192, Len: 4096}, {Len: 4096}} },
		"zero range in sectors": func(f *File) { f.Zero = []wire.Range{{Off: 1, Len: 4096}} },
		"zero range cut":        func(f *File) { f.Zero = []wire.Range{{Len: 4095}} },
		"zero range overflows":  func(f *File) { f.Zero = []wire.Range{{Off: 1<<63 - 4096, Len: 1<<64 - 4096}} },
		"zero range far out":    func(f *File) { f.Zero = []wire.Range{{Off: 1 << 63, Len: 4096}} },
		"no chunk size":         func(f *File) { f.Content.ChunkSize = 0 },
		"windows missing":       func(f *File) { f.Content.Windows = nil },
	} {
		f := &File{State: Pending, Content: small(), Valid: 5000, Kept: true}
		change(f)
		if b, err := f.Encode(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %x, %v, want ErrFormat", name, b, err)
		}
	}
}

func TestMark_FieldsOutOfBoundsAreNotEncoded(t *testing.T) {
	for name, m := range map[string]interface{ Encode() ([]byte, error) }{
		"directory without node":     &Dir{},
		"directory of raw node":      &Dir{Ref: wire.DirRef{Node: link(cid.Raw, 1)}},
		"directory, too deep":        &Dir{Ref: wire.DirRef{Node: link(cid.DagCBOR, 1), Depth: wire.MaxDepth + 1}},
		"directory, other flags":     &Dir{Ref: wire.DirRef{Node: link(cid.DagCBOR, 1)}, Flags: wire.FlagCompress},
		"directory, nanoseconds":     &Dir{Ref: wire.DirRef{Node: link(cid.DagCBOR, 1)}, Mtime: wire.Time{Nsec: 1e9}},
		"lifted, no inode":           &Lifted{Flags: wire.FlagAppend},
		"lifted, no flag":            &Lifted{Ino: 257},
		"lifted, other flags":        &Lifted{Ino: 257, Flags: wire.FlagAppend | wire.FlagCompress},
		"link without number":        &Link{Pending: 1},
		"tree without root":          &Tree{},
		"tree whose root is no node": &Tree{Root: link(cid.Raw, 1)},
	} {
		if b, err := m.Encode(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %x, %v, want ErrFormat", name, b, err)
		}
	}
}

func TestFile_LongestMarkFits(t *testing.T) {
	f := &File{State: Pending, Content: large(), Valid: 1 << 40, Zero: zeros(MaxZero, 1<<39)}
	b, err := f.Encode()
	check(t, err)
	if len(b) > MaxSize {
		t.Errorf("%d bytes", len(b))
	}
	f.Zero = zeros(MaxZero+1, 0)
	if _, err := f.Encode(); !errors.Is(err, ErrFull) {
		t.Errorf("a zero-list of %d ranges: %v, want ErrFull", len(f.Zero), err)
	}
	// Each range with a long offset and a long length: full before MaxZero.
	f = &File{State: Pending, Content: widest(t), Valid: 1 << 60}
	for i := range uint64(MaxZero) {
		f.Zero = append(f.Zero, wire.Range{Off: i << 50, Len: 1 << 49})
	}
	if _, err := f.Encode(); !errors.Is(err, ErrFull) {
		t.Errorf("a mark that is too long: %v, want ErrFull", err)
	}
}

func TestFile_UnusedFieldsAreNotWritten(t *testing.T) {
	full := File{Content: small(), Valid: 4096, Zero: zeros(1, 0), Kept: true, Mtime: then, Caps: []byte{1}, Flags: wire.FlagAppend, Ctime: then, Done: then}
	for name, c := range map[string]struct{ set, want File }{
		"clean":   {File{State: Clean}, File{State: Clean, Content: full.Content, Ctime: then, Done: then}},
		"changed": {File{State: Pending}, File{State: Pending, Content: full.Content, Valid: 4096, Zero: full.Zero}},
	} {
		f := full
		f.State = c.set.State
		f.Kept = f.State == Clean // says nothing there
		got, err := f.Encode()
		check(t, err)
		want, err := c.want.Encode()
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
}

func TestDecode_RefusesOtherFormsOfTheSame(t *testing.T) {
	for name := range marks(t) {
		b := golden(t, name)
		for what, other := range map[string][]byte{
			"nothing":          {},
			"cut":              b[:len(b)-1],
			"longer":           append(bytes.Clone(b), 0),
			"next version":     append([]byte{b[0], version + 1}, b[2:]...),
			"long version":     append([]byte{b[0], 0x18, version}, b[2:]...),
			"indefinite array": append(append([]byte{0x9f}, b[1:]...), 0xff),
			"one field less":   append([]byte{b[0] - 1}, b[1:]...),
			"too long":         make([]byte, MaxSize+1),
		} {
			if m, err := decodeAny(name, other); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, %s: %+v, %v, want ErrFormat", name, what, m, err)
			}
		}
	}
}

func TestFile_UnchangedIsAShortTime(t *testing.T) {
	f := &File{State: Clean, Done: wire.Time{Sec: 100, Nsec: 500}}
	for _, c := range []struct {
		ctime wire.Time
		want  bool
	}{
		{wire.Time{Sec: 100, Nsec: 500}, true},
		{wire.Time{Sec: 100, Nsec: 501}, false},
		{wire.Time{Sec: 101}, false},
		{wire.Time{Sec: 99}, true},
		{wire.Time{Sec: 98, Nsec: 500}, true},
		{wire.Time{Sec: 98, Nsec: 499}, false}, // by a clock that was set back
		{wire.Time{}, false},
	} {
		if got := f.Unchanged(c.ctime); got != c.want {
			t.Errorf("changed at %v: %v", c.ctime, got)
		}
	}
	f.State = Pending
	if f.Unchanged(f.Done) {
		t.Error("a pending file is unchanged")
	}
}
