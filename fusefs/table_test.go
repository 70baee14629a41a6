package fusefs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func newTestTable(t testing.TB) *table {
	t.Helper()
	tab, err := newTable()
	must(t, err)
	t.Cleanup(tab.close)
	return tab
}

func TestTable_NextProcessFindsWhatIsOpen(t *testing.T) {
	a := newTestTable(t)
	want := slot{flags: slotPass | slotWrite, ino: 300, unique: 7, backing: 4}
	first, _ := a.put(slot{ino: 299})
	fh, ok := a.put(want)
	if !ok || fh == first {
		t.Fatalf("handles %#x and %#x", first, fh)
	}
	a.drop(first)
	a.drop(first) // no harm
	a.doubt(9)
	a.note(11, 1, 2)
	b, err := openTable(a.file)
	must(t, err)
	defer b.close()
	n := 0
	b.each(func(got uint64, s slot) {
		n++
		s.flags &^= slotUsed
		if got != fh || s != want {
			t.Errorf("handle %#x is %+v, want %#x %+v", got, s, fh, want)
		}
	})
	if n != 1 {
		t.Errorf("%d handles", n)
	}
	if x, y, ok := b.noted(11); !ok || x != 1 || y != 2 {
		t.Errorf("noted: %d %d %v", x, y, ok)
	}
	if _, _, ok := b.noted(12); ok {
		t.Error("what was not noted is there")
	}
	ids := b.doubtful()
	if !slices.Contains(ids, 9) || !slices.Contains(ids, 10) || slices.Contains(ids, 4) {
		t.Errorf("in doubt: %v", ids)
	}
	if again, _ := b.put(slot{ino: 301}); again == first || uint32(again) != uint32(first) {
		t.Errorf("handle %#x after %#x: the slot is to be used again, under another number", again, first)
	}
}

// FuzzTable: whatever the table holds, it is refused or read within its bounds.
func FuzzTable(f *testing.F) {
	f.Add([]byte{}, uint32(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0}, uint32(2))
	f.Fuzz(func(t *testing.T, slots []byte, used uint32) {
		a := newTestTable(t)
		copy(a.mem[slotAt:], slots)
		*a.word(headUsed) = used
		copy(a.mem[doubtAt:noteAt], slots)
		b, err := openTable(a.file)
		if used > maxSlots {
			if err == nil {
				t.Fatalf("%d slots were let through", used)
			}
			return
		}
		must(t, err)
		defer b.close()
		b.each(func(fh uint64, s slot) { b.drop(fh) })
		b.doubtful()
		if fh, ok := b.put(slot{ino: 300}); ok {
			b.drop(fh)
		}
	})
}

func TestTable_AnotherFileIsRefused(t *testing.T) {
	a := newTestTable(t)
	*a.word(headVersion) = tableVersion + 1
	if _, err := openTable(a.file); err == nil {
		t.Error("another version was read")
	}
	fd, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	if tableSize != 33_624_064 {
		t.Errorf("docs/FORMAT.md says another size than %d", tableSize)
	}
}
