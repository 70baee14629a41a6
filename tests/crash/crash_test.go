package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(appEnv); dir != "" { // an application of a test
		if err := serveApp(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestCrash_ImagesOfAllStatesAreRight(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	res, err := config{images: 12, perRun: 2, seed: 11, dir: dir}.crash(context.Background())
	kit.Must(t, err)
	if res.bad > 0 || res.images != 12 {
		t.Errorf("%d of %d images are wrong", res.bad, res.images)
	}
	kit.NoLeaks(t, dir)
}

func TestRecorder_LogsWritesBeforeTheFlushThatCoversThem(t *testing.T) {
	kit.NeedRoot(t)
	r, err := newRecorder(filepath.Join(t.TempDir(), "recorder"), make(disk, 1024))
	kit.Must(t, err)
	d, err := attach(r.path())
	kit.Must(t, err)
	want := content(1, 0, 3*page)
	var moments []int
	for i := range uint64(3) {
		_, err := unix.Pwrite(d.fd, want[i*page:][:page], int64(i*page))
		kit.Must(t, err)
		kit.Must(t, unix.Fsync(d.fd))
		moments = append(moments, r.at())
	}
	kit.Must(t, unix.Close(d.fd))
	kit.Must(t, r.close())
	for i, at := range moments {
		durable := &replay{base: make(disk, 1024), log: r.log}
		durable.disk(image{at: at})
		for k := range i + 1 {
			if p := durable.base[k]; p == nil || !bytes.Equal(p[:], want[k*page:][:page]) {
				t.Errorf("after fsync %d, page %d is not flushed", i, k)
			}
		}
	}
}

func TestReplay_LosesOnlyWhatWasNotFlushed(t *testing.T) {
	p := func(seed uint64) []byte { return content(seed, 0, page) }
	log := []entry{{0, p(1)}, {page, p(2)}, {}, {0, p(3)}, {2 * page, append(p(4), p(5)...)}}
	lost := map[bool]int{}
	for seed := range uint64(64) {
		r := &replay{base: make(disk, 8), log: log}
		d := r.disk(image{at: 5, lose: true, seed: seed})
		if !bytes.Equal(d[1][:], p(2)) {
			t.Fatal("a flushed write is lost")
		}
		lost[bytes.Equal(d[0][:], p(1))]++
		if d[0] == nil || !bytes.Equal(d[0][:], p(1)) && !bytes.Equal(d[0][:], p(3)) {
			t.Fatal("a page is neither old nor new")
		}
		if d[2] == nil && d[3] != nil {
			lost[false]++ // one write, torn
		}
	}
	if lost[true] < 10 || lost[false] < 10 {
		t.Errorf("old %d times, new %d times", lost[true], lost[false])
	}
	all := (&replay{base: make(disk, 8), log: log}).disk(image{at: 5})
	if !bytes.Equal(all[0][:], p(3)) || !bytes.Equal(all[3][:], p(5)) || all[4] != nil {
		t.Error("an image without losses is not what was written")
	}
}

func TestModel_AllowsFromTheLastFsyncOn(t *testing.T) {
	m := newModel()
	n := m.addLocked(false, false)
	a := (&state{}).written(0, content(1, 0, 5000))
	b := a.resized(100)
	b.begin = 10
	c := b.zeroed(50, 9000, false)
	c.begin = 20
	n.states, n.synced = []state{a, b, c}, []ack{{at: 15, idx: 1}}
	for _, x := range []struct{ at, states int }{{9, 1}, {12, 2}, {15, 1}, {20, 2}} {
		if got := len(n.allowed(x.at)); got != x.states {
			t.Errorf("at %d: %d states are allowed, want %d", x.at, got, x.states)
		}
	}
	if got := c.bytes(0, 10000); len(got) != 9050 || !bytes.Equal(got[:50], content(1, 0, 50)) || !bytes.Equal(got[50:], make([]byte, 9000)) {
		t.Error("truncated and zeroed content is wrong")
	}
}
