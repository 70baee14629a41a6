package backing

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestResident_SaysWhatIsInThePageCache(t *testing.T) {
	const size = 1<<20 + 100
	name := filepath.Join(pool(t), "f")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	see := func(want []Range) {
		t.Helper()
		got, err := Resident(fd, size)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("resident %v, %v; want %v", got, err, want)
		}
	}
	see([]Range{{Len: size}}) // as written
	if err := unix.Fsync(fd); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	see(nil)
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil { // no reading ahead
		t.Fatal(err)
	}
	for _, at := range []int64{8192, 12288, size - 1} {
		if _, err := f.ReadAt(make([]byte, 1), at); err != nil {
			t.Fatal(err)
		}
	}
	see([]Range{{Off: 8192, Len: 8192}, {Off: 1 << 20, Len: 100}})
}

func TestResident_NothingOfAnEmptyFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := Resident(int(f.Fd()), 0); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}
