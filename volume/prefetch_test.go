package volume

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	marks "fractal-lazy/mark"
)

// prefetched is a machine that mounts what another one published, with one value of the option: 40 small files of 4 KiB in two folders, and four of 2 MiB.
func prefetched(t *testing.T, value string) (b *machine, l *line, dir string) {
	t.Helper()
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "compression=none")
	shell(t, `cd "$1"; mkdir -p d/e; for i in $(seq 20); do head -c 4096 /dev/urandom > d/s$i; head -c 4096 /dev/urandom > d/e/s$i; done
for i in 1 2 3 4; do head -c 2097152 /dev/urandom > d/big$i; done`, a.mount("db", "1"))
	a.unmount("db", "1")
	a.released("db")
	l = &line{Store: w.store}
	b = w.machine("b", func(_ *Options, d *Deps) { d.Store = l })
	b.create("db", "privkey="+a.key("db"), "prefetch="+value)
	return b, l, b.mount("db", "1")
}

const (
	prefetchTotal = 4*(2<<20) + prefetchSmall
	prefetchSmall = 40 * 4096
)

// here is how much of the snapshot's content is on the machine.
func (x *machine) here(name string) uint64 {
	x.t.Helper()
	i := x.info(name)
	if i.BytesTotal != prefetchTotal || i.FilesTotal != 44 {
		x.t.Fatalf("a snapshot of %d bytes in %d files is told, want %d in 44", i.BytesTotal, i.FilesTotal, prefetchTotal)
	}
	return i.BytesTotal - i.BytesRemote
}

// unfilled is how many directories are not.
func (x *machine) unfilled(name string) (n int) {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	tree, err := backing.OpenTree(v.data())
	must(x.t, err)
	defer tree.Close()
	must(x.t, tree.EachXattr(ctx(x.t), marks.DirName, 0, func(uint64, []byte) error { n++; return nil }))
	return n
}

// stays looks that ok goes on to be true. It can only miss what is wrong, and never fails what is right.
func (x *machine) stays(what string, ok func() bool) {
	x.t.Helper()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !ok() {
			x.t.Fatalf("not any more: %s: %+v", what, x.info("db"))
		}
	}
}

func TestPrefetch_NoneBringsWhatIsTouchedAlone(t *testing.T) {
	b, l, dir := prefetched(t, "none")
	b.stays("only the root is here", func() bool { return b.here("db") == 0 && l.bytes.Load() < 32<<10 })
	if i := b.info("db"); i.State != StateHydrating || i.FilesRemote != 44 || i.Options["prefetch"] != "none" {
		t.Errorf("%+v", i)
	}
	shell(t, `cat "$1/d/e/s1" > /dev/null`, dir)
	b.stays("that file is here, with what lies beside it in its block", func() bool { return b.here("db") <= prefetchSmall && l.bytes.Load() < 512<<10 })
	l.cut.Store(true)
	shell(t, `cat "$1/d/e/s1" > /dev/null; [ $(ls "$1/d/e" | wc -l) = 20 ]`, dir)
	l.cut.Store(false)
	must(t, b.Hydrate(ctx(t), "db", true, nil)) // whatever the option says
	if i := b.info("db"); i.State != StateComplete || i.BytesRemote != 0 || i.FilesRemote != 0 {
		t.Errorf("%+v", i)
	}
}

func TestPrefetch_MetadataBringsAllNamesAndNoContent(t *testing.T) {
	b, l, dir := prefetched(t, "metadata")
	b.eventually("all directories are filled", func() bool { return b.unfilled("db") == 0 })
	b.stays("no content is here", func() bool { return b.here("db") == 0 && l.bytes.Load() < 64<<10 })
	if i := b.info("db"); i.State != StateHydrating || i.FilesRemote != 44 {
		t.Errorf("%+v", i)
	}
	l.cut.Store(true)
	if n := strings.TrimSpace(shell(t, `cd "$1"; find . -type f -size +1k -printf '%s\n' | awk '{n+=$1} END {print n}'`, dir)); n != "8552448" {
		t.Errorf("without the network the names have %s bytes", n)
	}
	l.cut.Store(false)
	shell(t, `cat "$1/d/big1" > /dev/null`, dir)
	b.eventually("a file that was read is here", func() bool { return b.here("db") >= 2<<20 })
	b.stays("and no other", func() bool { return b.here("db") <= 2<<20 })
}

func TestPrefetch_BytesBringsSoMuchSmallFilesFirst(t *testing.T) {
	b, l, dir := prefetched(t, "1MiB")
	const budget = 1 << 20
	settled := func() bool { return b.here("db") > budget-(256<<10) }
	b.eventually("the budget is used", settled)
	b.stays("no more comes", func() bool { return b.here("db") <= budget })
	i := b.info("db")
	if i.State != StateHydrating || i.FilesRemote != 4 || i.Options["prefetch"] != "1048576" {
		t.Errorf("small files come first: %+v", i)
	}
	l.cut.Store(true)
	shell(t, `cat "$1"/d/s* "$1"/d/e/s* > /dev/null`, dir)
	l.cut.Store(false)
	// What an application writes is no part of it, nor does it make room for more.
	l.since()
	shell(t, `head -c 3000000 /dev/urandom > "$1/new"; sync "$1/new"`, dir)
	b.stays("growing brings nothing", func() bool { return b.here("db") <= budget && l.bytes.Load() == 0 })
	// What is read beyond it comes, and a mount again brings no other budget.
	shell(t, `cat "$1/d/big3" > /dev/null`, dir)
	b.eventually("what is read is here", func() bool { return b.here("db") >= 2<<20 })
	b.unmount("db", "1")
	b.released("db")
	was := b.info("db").BytesRemote
	l.since()
	dir = b.mount("db", "2")
	b.stays("mounted again it has what it had", func() bool { return b.info("db").BytesRemote+4096 >= was && l.bytes.Load() < 64<<10 })
	shell(t, `cat "$1/d/big4" > /dev/null`, dir)
	must(t, b.Hydrate(ctx(t), "db", true, nil))
	if i := b.info("db"); i.State != StateComplete {
		t.Errorf("%+v", i)
	}
}

func TestPrefetch_AllBringsEverything(t *testing.T) {
	b, l, dir := prefetched(t, "all")
	b.eventually("all is here", func() bool { return b.info("db").State == StateComplete })
	l.cut.Store(true)
	shell(t, `cat "$1"/d/* "$1"/d/e/* > /dev/null 2>&1 || [ -d "$1/d/e" ]; cat "$1"/d/big* > /dev/null`, dir)
	if i := b.info("db"); i.FilesRemote != 0 || i.BytesRemote != 0 {
		t.Errorf("%+v", i)
	}
}

func TestPrefetch_WrongValuesAreRefusedWithWhatIsRight(t *testing.T) {
	x := newWorld(t).machine("a")
	for _, value := range []string{"some", "", "-1", "1.5 lightyears", "ALL", "10%", "99999999999GiB", "all,metadata"} {
		err := x.Create(ctx(t), "v", kv("prefetch="+value))
		if !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), "all, metadata, none, or a number of bytes") {
			t.Errorf("%q: %v", value, err)
		}
		if _, err := x.Get("v"); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q made a volume: %v", value, err)
		}
	}
	for _, value := range []string{"0", "10GiB", "10 GB", "1048576"} {
		must(t, x.Create(ctx(t), "v"+filepath.Base(strings.ReplaceAll(value, " ", "")), kv("prefetch="+value)))
	}
}
