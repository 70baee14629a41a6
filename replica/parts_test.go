package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"
	"fractal-lazy/store/memory"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// FuzzRanges holds the operations on ranges against the same on sets of bytes.
func FuzzRanges(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, []byte{0, 2, 9, 1}, uint16(9000))
	f.Add([]byte{0, 255, 0, 255}, []byte{}, uint16(100))
	f.Fuzz(func(t *testing.T, x, y []byte, size uint16) {
		const limit = 1 << 17
		parse := func(b []byte) (list []wire.Range, set [limit]bool) {
			at := uint64(0)
			for i := 0; i+1 < len(b) && i < 64; i += 2 {
				r := wire.Range{Off: at + uint64(b[i])*7, Len: uint64(b[i+1])*5 + 1}
				at = r.Off + r.Len
				list = append(list, r)
				for j := r.Off; j < at; j++ {
					set[j] = true
				}
			}
			return list, set
		}
		a, inA := parse(x)
		b, inB := parse(y)
		same := func(what string, got []wire.Range, want func(i uint64) bool) {
			var in [limit]bool
			end := uint64(0)
			for i, r := range got {
				if r.Len == 0 || (i > 0 && r.Off < end) {
					t.Fatalf("%s: %v is not in order", what, got)
				}
				for end = r.Off; end < r.Off+r.Len; end++ {
					in[end] = true
				}
			}
			for i := range uint64(limit) {
				if in[i] != want(i) {
					t.Fatalf("%s of %v and %v is %v, wrong at %d", what, a, b, got, i)
				}
			}
		}
		same("union", wire.Union(a, b), func(i uint64) bool { return inA[i] || inB[i] })
		same("difference", wire.Subtract(a, b), func(i uint64) bool { return inA[i] && !inB[i] })
		var sectors [limit/wire.Sector + 1]bool
		for i, in := range inA {
			sectors[i/wire.Sector] = sectors[i/wire.Sector] || in
		}
		same("widened", widen(a, uint64(size)), func(i uint64) bool { return i < uint64(size) && sectors[i/wire.Sector] })
		if end := uint64(size) + 100; overlaps(a, uint64(size), end) {
			found := false
			for i := uint64(size); i < end; i++ {
				found = found || inA[i]
			}
			if !found {
				t.Fatalf("%v does not overlap [%d, %d)", a, size, end)
			}
		}
	})
}

func TestParseRoot_TakesOnlyWhatIsPublished(t *testing.T) {
	c := store.Sum(store.DagCBOR, []byte("x"))
	if got, err := ParseRoot("ipfs://" + c.String()); err != nil || got != c {
		t.Errorf("%s, %v", got, err)
	}
	raw := store.Sum(store.Raw, []byte("x"))
	for _, data := range []string{"", "ipfs://", "ipfs:/" + c.String(), c.String(), "IPFS://" + c.String(), "ipfs://" + c.String() + "/",
		"ipfs://" + c.String() + "/path", "ipfs://" + strings.ToUpper(c.String()), "ipfs://" + raw.String(), "http://" + c.String(),
		"ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "ipfs:// " + c.String(), "ipfs://bafkqaaa"} {
		if got, err := ParseRoot(data); !errors.Is(err, hive.ErrFormat) {
			t.Errorf("%q: %s, %v", data, got, err)
		}
	}
}

func node(i int) store.Block {
	// {"l": [], "s": bytes, "v": 1}, as links of a real store read it
	data := append([]byte("\xa3\x61l\x80\x61s\x59\x20\x00"), noise(uint64(i), 0x2000)...)
	data = append(data, "\x61v\x01"...)
	return store.Block{CID: store.Sum(store.DagCBOR, data), Data: data}
}

func put(t *testing.T, s store.Store, blocks ...store.Block) {
	t.Helper()
	check(t, s.PutMany(t.Context(), func(yield func(store.Block, error) bool) {
		for _, b := range blocks {
			if !yield(b, nil) {
				return
			}
		}
	}))
}

func TestNodes_ServeFromTheFolderAndSurviveDamage(t *testing.T) {
	m := memory.New()
	n := &nodes{dir: t.TempDir(), store: m, log: zerolog.Nop()}
	b := node(1)
	put(t, m, b)
	get := func() {
		t.Helper()
		if data, err := n.Get(t.Context(), b.CID); err != nil || !bytes.Equal(data, b.Data) {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
	}
	get()
	m.Remove(b.CID)
	get()
	for _, damage := range [][]byte{nil, b.Data[:100], append([]byte{0}, b.Data[1:]...), make([]byte, 2<<20)} {
		put(t, m, b)
		check(t, os.WriteFile(n.path(b.CID), damage, 0o600))
		get()
		m.Remove(b.CID)
		get() // written anew
	}
	check(t, os.RemoveAll(n.dir)) // at any time
	put(t, m, b)
	get()
	check(t, os.RemoveAll(n.dir))
	check(t, os.WriteFile(n.dir, nil, 0o600)) // cannot be written
	get()
	check(t, os.Remove(n.dir))
	raw := store.Block{CID: store.Sum(store.Raw, []byte("data")), Data: []byte("data")}
	put(t, m, raw)
	if _, err := n.Get(t.Context(), raw.CID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.path(raw.CID)); err == nil {
		t.Error("file content was cached")
	}
}

func TestNodes_RemoveWhatWasNotUsedForTheLongestTime(t *testing.T) {
	n := &nodes{dir: t.TempDir(), store: memory.New(), log: zerolog.Nop()}
	// Large sparse files in place of many nodes: sizes and times are all that counts.
	for i := range 300 {
		name := filepath.Join(n.dir, "aa", fmt.Sprint(i))
		check(t, os.MkdirAll(filepath.Dir(name), 0o700))
		check(t, os.WriteFile(name, nil, 0o600))
		check(t, os.Truncate(name, 1<<20))
		at := time.Now().Add(-time.Duration(300-i) * time.Hour)
		check(t, os.Chtimes(name, at, at))
	}
	b := node(2)
	n.put(b.CID, b.Data)
	if n.total > keepNodes {
		t.Errorf("%d bytes are left", n.total)
	}
	for name, want := range map[string]bool{n.path(b.CID): true, filepath.Join(n.dir, "aa/299"): true, filepath.Join(n.dir, "aa/0"): false} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// slow is a store whose uploads wait until they are let through.
type slow struct {
	*memory.Store
	gate           chan struct{}
	at, most, held atomic.Int64 // uploads at once, and blocks taken
}

func (s *slow) PutMany(ctx context.Context, blocks iter.Seq2[store.Block, error]) error {
	s.most.Store(max(s.most.Load(), s.at.Add(1)))
	defer s.at.Add(-1)
	select {
	case <-s.gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Store.PutMany(ctx, blocks)
}

func TestUploader_HoldsABoundedNumberOfBytes(t *testing.T) {
	s := &slow{Store: memory.New(), gate: make(chan struct{})}
	u := newUploader(t.Context(), s, true, nil, nil)
	defer u.Abort()
	var taken atomic.Int64
	const size, total = 512 << 10, 200
	done := make(chan error, 4)
	for p := range 4 {
		go func() {
			for i := range total / 4 {
				data := noise(uint64(p*1000+i), size)
				if err := u.Put(t.Context(), store.Block{CID: store.Sum(store.Raw, data), Data: data}); err != nil {
					done <- err
					return
				}
				taken.Add(size)
			}
			done <- nil
		}()
	}
	for last := int64(-1); last != taken.Load(); time.Sleep(200 * time.Millisecond) {
		last = taken.Load()
	}
	if n := taken.Load(); n > maxWaiting || n < maxWaiting-batchBytes {
		t.Errorf("%d bytes were taken before any was stored", n)
	}
	close(s.gate)
	for range 4 {
		check(t, <-done)
	}
	check(t, u.Finish())
	if n, _ := s.Size(); n != total {
		t.Errorf("%d blocks are stored", n)
	}
	if s.most.Load() != inFlight {
		t.Errorf("%d uploads at once", s.most.Load())
	}
}

func TestUploader_SendsAnIdleBatch(t *testing.T) {
	m := memory.New()
	u := newUploader(t.Context(), m, true, nil, nil)
	defer u.Abort()
	check(t, u.Put(t.Context(), node(1)))
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if n, _ := m.Size(); n == 1 {
			break
		}
		if time.Since(begin) > 3*idleFlush {
			t.Fatal("the block was not sent")
		}
	}
}

func TestUploader_FirstErrorEndsEveryPut(t *testing.T) {
	b := &breaking{Store: memory.New(), hit: func() error { return store.ErrDenied }}
	b.left.Store(1)
	u := newUploader(t.Context(), b, false, nil, nil)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		data := noise(uint64(i), 1<<20)
		err = u.Put(t.Context(), store.Block{CID: store.Sum(store.Raw, data), Data: data})
	}
	wantError(t, err, store.ErrDenied)
	wantError(t, u.Finish(), store.ErrDenied)
}

func TestPublish_TreeDeeperThanThereAreDescriptors(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	const depth = 400
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	fd, err := unix.Open(v.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	check(t, err)
	for range depth {
		check(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		check(t, err)
		check(t, unix.Close(fd))
		fd = next
	}
	check(t, unix.Close(fd))
	s := v.snapshot()
	first := w.publish(s, Base{})
	low := limit
	low.Cur = depth / 2
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer func() { check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	s = v.snapshot()
	walk := w.publisher()
	walk.walkOnly = true
	r, err := walk.Publish(t.Context(), w.job(s, first.Base))
	check(t, err)
	if !r.Unchanged || r.Way != WayWalk || r.Stats.Dirs != depth {
		t.Errorf("%+v", r)
	}
	check(t, os.Chmod(v.at(strings.Repeat("d/", depth)), 0o700))
	if r = w.publish(v.snapshot(), first.Base); r.Unchanged || r.Way != WayChanges || r.Stats.Dirs != depth {
		t.Errorf("%+v", r)
	}
}
