package kit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// TreeOptions change what Tree makes. The zero value is everything.
type TreeOptions struct {
	// Entries is how many files the large directory has; 0 is 20,000, less than 0 none.
	Entries int
	// Small leaves out what takes time: the files of 3 GiB and of several MiB.
	Small bool
	// NoFlags leaves out inode flags and the files that are defined by them, which
	// other file systems than BTRFS do not have.
	NoFlags bool
	// Deep adds folders of 255 bytes each, one in the other, to a path of
	// over 4 KiB, which only tools that go step by step can reach.
	Deep bool
}

// Tree makes the folder root, which must not be there yet, with every kind of
// file in it that a volume can have. The same options make the same tree, but for
// the numbers of inodes and the times of creation. It needs root; root may be
// on BTRFS or on a FUSE mount of it.
//
// Immutable files are in it: Unlock before RemoveAll.
func Tree(root string, o TreeOptions) error {
	t := &treeMaker{root: root, o: o, rnd: rand.New(rand.NewPCG(7, 7)), seen: map[string]bool{}}
	if t.o.Entries == 0 {
		t.o.Entries = 20_000
	}
	t.dir("", 0o755)
	t.names()
	t.contents()
	t.links()
	t.specials()
	t.attributes()
	t.xattrs()
	if !o.NoFlags {
		t.properties()
	}
	t.large()
	t.times()
	if !o.NoFlags {
		t.locked() // last: nothing below can be changed after
	}
	if t.err != nil {
		return fmt.Errorf("make tree %s: %w", root, t.err)
	}
	return nil
}

// treeMaker keeps the first error, and does nothing after it.
type treeMaker struct {
	root string
	o    TreeOptions
	rnd  *rand.Rand
	made []string // in the order of making
	seen map[string]bool
	dirs []string
	err  error
}

func (t *treeMaker) path(name string) string {
	if name == "" {
		return t.root
	}
	return t.root + "/" + name
}

// do runs a step on name, whose error then names it.
func (t *treeMaker) do(name string, step func(path string) error) {
	if t.err != nil {
		return
	}
	if err := step(t.path(name)); err != nil {
		t.err = fmt.Errorf("%.300q: %w", name, err)
	}
	if !t.seen[name] {
		t.seen[name] = true
		t.made = append(t.made, name)
	}
}

func (t *treeMaker) dir(name string, mode uint32) {
	t.do(name, func(path string) error {
		if err := unix.Mkdir(path, 0o700); err != nil {
			return err
		}
		return unix.Chmod(path, mode)
	})
	t.dirs = append(t.dirs, name)
}

func (t *treeMaker) file(name string, content []byte) {
	t.do(name, func(path string) error { return os.WriteFile(path, content, 0o644) })
}

// random returns n bytes that do not compress, text n that do.
func (t *treeMaker) random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := t.rnd.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	for i := n &^ 7; i < n; i++ {
		b[i] = byte(t.rnd.Uint32())
	}
	return b
}

func (t *treeMaker) text(n int) []byte {
	line := "the quick brown fox jumps over the lazy dog 0123456789\n"
	return []byte(strings.Repeat(line, n/len(line)+1)[:n])
}

func (t *treeMaker) names() {
	t.dir("names", 0o755)
	for i, name := range []string{
		"a b", " lead", "trail ", "new\nline", "\n", "tab\t", "-rf", "...", "..x", "*", "'", `"`, `back\slash`, "$HOME", "#", "%s", "~",
		"\xff\xfe", "half \xc3", "nul-less \x01\x7f", "ü", "u\u0308", "日本語", "A", "a", strings.Repeat("n", 255), strings.Repeat("\xf0", 255), strings.Repeat("é", 127),
	} {
		t.file("names/"+name, []byte(fmt.Sprintf("file %d", i)))
	}
	in := "names/" + strings.Repeat("d", 255)
	t.dir(in, 0o755)
	for range 3 {
		in += "/" + strings.Repeat("\xfd\n ", 85)
		t.dir(in, 0o755)
		t.file(in+"/deep", []byte(in))
	}
	t.dir("empty folder", 0o755)
	if t.o.Deep {
		t.deep()
	}
}

// deep goes down by one descriptor after the other: its paths are too long for the kernel.
func (t *treeMaker) deep() {
	t.dir("deep", 0o755)
	t.do("deep", func(path string) error {
		in, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(in)
		return digDown(in, 20)
	})
}

// digDown makes a folder in the directory in, and more in that one, with a file in the last.
func digDown(in, levels int) error {
	name := strings.Repeat("o", 255)
	if levels == 0 {
		name = "bottom"
		fd, err := unix.Openat(in, name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, err := unix.Write(fd, []byte(name)); err != nil {
			return err
		}
	} else {
		if err := unix.Mkdirat(in, name, 0o755); err != nil {
			return err
		}
		fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := digDown(fd, levels-1); err != nil {
			return err
		}
	}
	ts := unix.Timespec{Sec: 1_450_000_000, Nsec: int64(levels)}
	return unix.UtimesNanoAt(in, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// contents makes files of the sizes at which something changes: sectors,
// inline data, chunks, blocks.
func (t *treeMaker) contents() {
	t.dir("contents", 0o755)
	const chunk = 256 << 10
	for _, n := range []int{0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 65536, chunk - 1, chunk, chunk + 1} {
		t.file(fmt.Sprintf("contents/random %d", n), t.random(n))
		t.file(fmt.Sprintf("contents/text %d", n), t.text(n))
	}
	t.file("contents/zeros", make([]byte, 3*4096+5))
	t.file("contents/same", t.text(chunk+1))
	if !t.o.Small {
		t.file("contents/random 5M", t.random(5<<20+17))
		t.file("contents/text 9M", t.text(9<<20-3))
	}
	t.dir("contents/many", 0o755)
	for i := range 300 {
		t.file(fmt.Sprintf("contents/many/%03d", i), t.random(1+t.rnd.IntN(6000)))
	}

	t.dir("sparse", 0o755)
	type piece struct {
		off int64
		n   int
	}
	sparse := func(name string, size int64, pieces ...piece) {
		t.do("sparse/"+name, func(path string) error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer f.Close()
			for _, p := range pieces {
				if _, err := f.WriteAt(t.random(p.n), p.off); err != nil {
					return err
				}
			}
			return f.Truncate(size)
		})
	}
	sparse("only a hole", 1<<20)
	sparse("hole of one byte", 1)
	sparse("hole at the beginning", 100_000, piece{90_000, 10_000})
	sparse("hole in the middle", 1<<20, piece{0, 10_000}, piece{1<<20 - 5000, 5000})
	sparse("hole at the end", 1<<20+1, piece{0, 10_000})
	sparse("comb", 400*4096, func() (p []piece) {
		for i := range 100 {
			p = append(p, piece{int64(i) * 4 * 4096, 4096})
		}
		return p
	}()...)
	if !t.o.Small {
		const g = 1 << 30
		sparse("3 GiB", 3*g, piece{0, 4096}, piece{g + 5, 70_000}, piece{2*g - 3000, 6000}, piece{3*g - 10, 10})
	}
	t.do("sparse/preallocated", func(path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), 0, 0, 200_000); err != nil {
			return err
		}
		_, err = f.WriteAt(t.random(9000), 50_000)
		return err
	})
}

// large makes the directory with many entries. Every hundredth has content.
func (t *treeMaker) large() {
	if t.o.Entries < 0 {
		return
	}
	t.dir("large", 0o755)
	for i := range t.o.Entries {
		var content []byte
		if i%100 == 0 {
			content = t.random(50)
		}
		t.file(fmt.Sprintf("large/entry-%06d", i), content)
	}
}
