package failover

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// B is killed again and again while it hydrates and is read. What is read is
// right or an error, and in the end everything is there.
func TestFailover_RestartInTheMiddle(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v")
	files := map[string][]byte{}
	put := func(name string, b []byte) {
		kit.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(mount, name)), 0o755))
		kit.Must(t, os.WriteFile(filepath.Join(mount, name), b, 0o644))
		files[name] = b
	}
	for i := range 8 {
		put(fmt.Sprintf("large/%d", i), noise(uint64(i), 3<<20+i*1001))
	}
	for i := range 600 {
		put(fmt.Sprintf("small/%d/%03d", i%7, i), noise(uint64(100+i), 200+i*20))
	}
	sparse := make([]byte, 4<<20)
	copy(sparse[1<<20:], noise(77, 100_000))
	f, err := os.Create(mount + "/sparse")
	kit.Must(t, err)
	_, err = f.WriteAt(sparse[1<<20:1<<20+100_000], 1<<20)
	kit.Must(t, err)
	kit.Must(t, f.Truncate(4<<20))
	kit.Must(t, f.Close())
	files["sparse"] = sparse
	want := describe(t, a.data("v"))
	a.flush("v")
	a.die()

	link := w.relay(kit.Link{RTT: 4 * time.Millisecond, Down: 30e6, Up: 100e6})
	b := w.device("b", "http://"+link.Addr())
	b.create("v", key, "takeover=always")
	mount = b.mount("v")

	r := startReaders(t, mount, files)
	const kills = 8
	for n := range kills {
		time.Sleep(200*time.Millisecond + rand.N(800*time.Millisecond))
		before := b.inspect("v")
		r.down()
		b.daemon.Kill9()
		// The dead mount stays: the next daemon has to deal with it.
		b.start()
		if got := b.mount("v"); got != mount {
			t.Fatalf("mounted at %s, then at %s", mount, got)
		}
		r.up()
		t.Logf("kill %d: %d of %d bytes were remote", n+1, before.BytesRemote, before.BytesTotal)
		if i := b.inspect("v"); n == kills-1 && i.BytesRemote == 0 {
			t.Log("complete before the last kill: this machine was slow to kill it")
		}
	}
	link.Set(kit.Link{})
	b.cli("hydrate", "--wait", "v")
	r.stop()
	t.Logf("readers: %d reads right, %d failed while the daemon was down", r.right.Load(), r.failed.Load())
	if r.right.Load() == 0 {
		t.Error("no read came through")
	}
	same(t, "B's mount", want, describe(t, mount))
	for name, content := range files {
		if got, err := os.ReadFile(filepath.Join(mount, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %v, or another content", name, err)
		}
	}
	b.cli("volume", "umount", "v")
	if left, err := kit.Leaks(mount); err != nil || len(left) > 0 {
		t.Errorf("after the unmount: %q, %v", left, err)
	}
	same(t, "B's plain data", want, describe(t, b.data("v")))
}

// readers read random pieces of files and check them.
type readers struct {
	t             *testing.T
	mount         string
	files         map[string][]byte
	names         []string
	era           atomic.Int64 // even: the daemon is there
	ended         atomic.Bool
	right, failed atomic.Int64
	wg            sync.WaitGroup
}

func startReaders(t *testing.T, mount string, files map[string][]byte) *readers {
	r := &readers{t: t, mount: mount, files: files}
	for name := range files {
		r.names = append(r.names, name)
	}
	for range 3 {
		r.wg.Go(r.read)
	}
	t.Cleanup(r.stop)
	return r
}

func (r *readers) down() { r.era.Add(1) }
func (r *readers) up()   { r.era.Add(1) }
func (r *readers) stop() { r.ended.Store(true); r.wg.Wait() }

func (r *readers) read() {
	for !r.ended.Load() {
		name := r.names[rand.N(len(r.names))]
		era := r.era.Load()
		err := r.one(name)
		switch {
		case err == nil:
			r.right.Add(1)
		case strings.HasPrefix(err.Error(), "wrong"), era%2 == 0 && era == r.era.Load():
			r.t.Errorf("read %s: %v", name, err)
		default:
			r.failed.Add(1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(rand.N(2 * time.Millisecond))
	}
}

func (r *readers) one(name string) error {
	want := r.files[name]
	f, err := os.Open(filepath.Join(r.mount, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return err
	} else if st.Size() != int64(len(want)) {
		return fmt.Errorf("wrong size %d, want %d", st.Size(), len(want))
	}
	off := rand.N(len(want))
	b := make([]byte, min(1+rand.N(200_000), len(want)-off))
	if _, err := f.ReadAt(b, int64(off)); err != nil && err != io.EOF {
		return err
	} else if err == io.EOF {
		return fmt.Errorf("wrong end at %d", off)
	}
	if !bytes.Equal(b, want[off:off+len(b)]) {
		return fmt.Errorf("wrong bytes in [%d,%d)", off, off+len(b))
	}
	return nil
}
