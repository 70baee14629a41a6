package backing

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

const k4 = 4096

func TestDataRanges_SeesEveryKindOfExtent(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	n := 0
	file := func(flags int) int {
		n++
		return openFile(t, fmt.Sprintf("%s/f%d", dir, n), unix.O_RDWR|unix.O_CREAT|flags)
	}
	put := func(fd int, off int64, n int) {
		t.Helper()
		if _, err := unix.Pwrite(fd, bytes.Repeat([]byte{'a'}, n), off); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, fd int, off, end uint64, want []Range) {
		t.Helper()
		for _, state := range []string{"dirty", "on disk"} {
			got, err := DataRanges(fd, off, end)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: data in [%d, %d) %v, %v, want %v", what, state, off, end, got, err, want)
			}
			holes, err := Holes(fd, off, end)
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			checkPartition(t, what, off, end, got, holes)
			must(t, SyncFS(dir))
		}
	}

	empty := file(0)
	check("empty", empty, 0, 1<<20, nil)

	inline := file(0)
	put(inline, 0, 100)
	check("inline", inline, 0, 1<<20, []Range{{0, 100}})
	check("inline, behind its end", inline, 200, 300, nil)
	check("empty range", inline, 50, 50, nil)

	sparse := file(0)
	put(sparse, 3*k4, k4)
	put(sparse, 5*k4+1, 1)
	must(t, unix.Ftruncate(sparse, 100*k4))
	check("sparse", sparse, 0, 100*k4, []Range{{3 * k4, k4}, {5 * k4, k4}})
	check("sparse, to far behind its end", sparse, 0, 1<<40, []Range{{3 * k4, k4}, {5 * k4, k4}})
	check("sparse, cut at both sides", sparse, 3*k4+10, 5*k4+20, []Range{{3*k4 + 10, k4 - 10}, {5 * k4, 20}})
	check("sparse, within data", sparse, 3*k4+10, 3*k4+20, []Range{{3*k4 + 10, 10}})

	prealloc := file(0)
	must(t, unix.Fallocate(prealloc, 0, 0, 10*k4))
	check("preallocated", prealloc, 0, 10*k4, nil)
	put(prealloc, 2*k4, k4)
	check("written into preallocated", prealloc, 0, 10*k4, []Range{{2 * k4, k4}})
	must(t, unix.Fallocate(prealloc, unix.FALLOC_FL_ZERO_RANGE, 2*k4, k4))
	check("zero range", prealloc, 0, 10*k4, nil)

	punched := file(0)
	put(punched, 0, 10*k4)
	must(t, unix.Fallocate(punched, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*k4, 2*k4))
	check("punched", punched, 0, 10*k4, []Range{{0, 4 * k4}, {6 * k4, 4 * k4}})

	compressed := file(0)
	must(t, Setxattr(compressed, XattrCompression, []byte("zstd"), 0))
	put(compressed, 0, 300*k4)
	put(compressed, 400*k4, 2*k4+7)
	check("compressed", compressed, 0, 1<<30, []Range{{0, 300 * k4}, {400 * k4, 2*k4 + 7}})

	mapped := file(0)
	must(t, unix.Ftruncate(mapped, 8*k4))
	mem, err := unix.Mmap(mapped, 0, 8*k4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	_ = mem[0] // a read leaves the hole
	mem[3*k4] = 1
	check("mapped", mapped, 0, 8*k4, []Range{{3 * k4, k4}})

	zeros := file(0)
	if _, err := unix.Pwrite(zeros, make([]byte, 2*k4), 0); err != nil {
		t.Fatal(err)
	}
	check("written zeros", zeros, 0, 2*k4, []Range{{0, 2 * k4}})
}

func checkPartition(t *testing.T, what string, off, end uint64, data, holes []Range) {
	t.Helper()
	all := map[uint64]uint64{}
	var sum uint64
	for _, r := range append(append([]Range{}, data...), holes...) {
		if r.Len == 0 {
			t.Errorf("%s: empty range in %v, %v", what, data, holes)
		}
		all[r.Off] = r.End()
		sum += r.Len
	}
	at := off
	for at < end {
		next, ok := all[at]
		if !ok {
			t.Errorf("%s: nothing begins at %d: data %v, holes %v", what, at, data, holes)
			return
		}
		at = next
	}
	if at != end || sum != end-off {
		t.Errorf("%s: [%d, %d) is not covered once: data %v, holes %v", what, off, end, data, holes)
	}
}

func TestHoles_AgreeWithRandomWritesAndPunches(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	fd := openFile(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	const blocks = 64
	must(t, unix.Ftruncate(fd, blocks*k4))
	var has [blocks]bool
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		at, n := rnd.IntN(blocks), 1+rnd.IntN(4)
		n = min(n, blocks-at)
		fill := rnd.IntN(2) == 0
		if fill {
			if _, err := unix.Pwrite(fd, bytes.Repeat([]byte{1}, n*k4), int64(at)*k4); err != nil {
				t.Fatal(err)
			}
		} else {
			must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at)*k4, int64(n)*k4))
		}
		for i := at; i < at+n; i++ {
			has[i] = fill
		}
		holes, err := Holes(fd, 0, blocks*k4)
		must(t, err)
		var got [blocks]bool
		for i := range got {
			got[i] = true
		}
		for _, r := range holes {
			for b := r.Off / k4; b < r.End()/k4; b++ {
				got[b] = false
			}
		}
		if got != has {
			t.Fatalf("round %d: %v, want %v", round, got, has)
		}
	}
}

func TestReadDir_TellsNamesNumbersAndTypes(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	want := map[string]uint8{}
	for i := range 3000 { // more than one buffer holds
		name := fmt.Sprintf("a rather long name, so that many buffers are needed, %04d", i)
		must(t, os.WriteFile(dir+"/"+name, nil, 0o644))
		want[name] = unix.DT_REG
	}
	must(t, os.Mkdir(dir+"/...", 0o755))
	want["..."] = unix.DT_DIR
	must(t, os.Symlink("x", dir+"/\xff\n"))
	want["\xff\n"] = unix.DT_LNK
	fd := openFile(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	for range 2 { // the second time it starts over
		got := map[string]uint8{}
		must(t, ReadDir(fd, func(name string, n uint64, typ uint8) error {
			if n != ino(t, dir+"/"+name) {
				t.Errorf("%q has number %d", name, n)
			}
			got[name] = typ
			return nil
		}))
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %d names, want %d", len(got), len(want))
		}
	}
	if err := ReadDir(fd, func(string, uint64, uint8) error { return os.ErrClosed }); err != os.ErrClosed {
		t.Errorf("an error of fn comes back as %v", err)
	}
}
