package badinput

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"github.com/ipfs/go-cid"
)

func content(c cid.Cid) bool { return c.Prefix().Codec == store.Raw }
func node(c cid.Cid) bool    { return c.Prefix().Codec == store.DagCBOR }

// blockFaults are the ways in which a block store can be wrong about a block.
func blockFaults() map[string]faulty.Fault {
	return map[string]faulty.Fault{
		"a flipped bit":          faulty.FlipBit(12345),
		"the last bit flipped":   faulty.FlipBit(1<<30 - 1),
		"cut short":              faulty.Truncate(1000),
		"empty":                  faulty.Truncate(0),
		"too long":               faulty.Extend([]byte{0}),
		"longer than any block":  faulty.Extend(make([]byte, store.MaxBlock)),
		"an earlier block again": faulty.Replay(),
		"a connection that ends": faulty.Cut(20, store.ErrUnavailable),
		"status 500":             faulty.Status(500, store.ErrUnavailable),
		"status 404":             faulty.Status(404, store.ErrNotFound),
		"status 403":             faulty.Status(403, store.ErrDenied),
		"no answer":              faulty.Hang(),
	}
}

func TestRead_BadContentIsEIOAfterTheTimeoutAndThenHeals(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 1)
	for name, fault := range blockFaults() {
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			dir := b.mount("vol", p.options("500ms"))
			if _, err := os.ReadDir(filepath.Join(dir, "dir")); err != nil { // also the earlier block of Replay
				t.Fatal(err)
			}
			rule := w.blocks.Inject(faulty.Rule{Match: content, Fault: fault})
			for _, file := range []string{"big", "dir/small3"} {
				if err := read(t, dir, file, p.files[file]); err == nil {
					t.Errorf("%s was read, though no block of it could be had", file)
				}
			}
			if rule.Hits() == 0 {
				t.Error("the fault was never hit")
			}
			// What hangs has no failed try to tell of; there it is the timeout that the log shows.
			if name != "no answer" && !b.log.has(`"volume":"vol"`, `"cid":"bafkrei`) {
				t.Error("no line of the log has volume and CID")
			}
			if !b.log.has("no block within 500ms") {
				t.Error("the log does not tell of the timeout")
			}
			rule.Lift()
			heal(t, dir, p.files)
		})
	}
}

func TestRead_ABlockInAnothersPlaceIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 2)
	// Learn which blocks the two files have.
	c := w.machine(t)
	dir := c.mount("vol", p.options("0"))
	blocksOf := func(file string) (out []cid.Cid) {
		w.blocks.ResetCounts()
		if err := read(t, dir, file, p.files[file]); err != nil {
			t.Fatal(err)
		}
		for id := range w.blocks.GetCounts() {
			if content(id) {
				out = append(out, id)
			}
		}
		return out
	}
	big, small := blocksOf("big"), blocksOf("dir/small1")
	// The end of the big file may lie in the block of the small ones: that block in its own place is no fault.
	big = slices.DeleteFunc(big, func(id cid.Cid) bool { return slices.Contains(small, id) })
	if len(big) == 0 || len(small) == 0 {
		t.Fatal(big, small)
	}
	b := w.machine(t)
	dir = b.mount("vol", p.options("500ms"))
	rule := w.blocks.Inject(faulty.Rule{CID: small[0], Fault: faulty.Swap(big[0])})
	if err := read(t, dir, "dir/small1", p.files["dir/small1"]); err == nil {
		t.Error("another block was taken for this one")
	}
	if rule.Hits() == 0 || !b.log.has(`"volume":"vol"`, small[0].String()) {
		t.Errorf("hits %d; the log does not name the block %s", rule.Hits(), small[0])
	}
	rule.Lift()
	heal(t, dir, p.files)
}

func TestReadDir_BadNodesAreEIOAndThenHeal(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 3)
	for name, fault := range blockFaults() {
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			dir := b.mount("vol", p.options("500ms"))
			rule := w.blocks.Inject(faulty.Rule{Match: node, Fault: fault})
			entries, err := os.ReadDir(filepath.Join(dir, "dir"))
			if !errors.Is(err, syscall.EIO) || len(entries) != 0 {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "dir", "never written")); !errors.Is(err, syscall.EIO) {
				t.Errorf("a name that cannot be looked up: %v, want EIO, which is not ENOENT", err)
			}
			if rule.Hits() == 0 {
				t.Error("the fault was never hit")
			}
			if name != "no answer" && !b.log.has(`"volume":"vol"`, `"cid":"bafyrei`) {
				t.Error("no line of the log has volume and CID")
			}
			rule.Lift()
			heal(t, dir, p.files)
			if _, err := os.Lstat(filepath.Join(dir, "dir", "never written")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("healed, but: %v", err)
			}
		})
	}
}

func TestRead_WithoutATimeoutWaitsUntilTheFaultIsGone(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 4)
	for name, fault := range map[string]faulty.Fault{
		"status 500":    faulty.Status(500, store.ErrUnavailable),
		"a flipped bit": faulty.FlipBit(7),
		"no answer":     faulty.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			dir := b.mount("vol", p.options("0"))
			rule := w.blocks.Inject(faulty.Rule{Match: content, Fault: fault})
			got := make(chan error, 1)
			var data []byte
			go func() {
				var err error
				data, err = os.ReadFile(filepath.Join(dir, "big"))
				got <- err
			}()
			select {
			case err := <-got:
				t.Fatalf("did not wait: %v", err)
			case <-time.After(1500 * time.Millisecond):
			}
			if info, err := b.Get("vol"); err != nil || (name != "no answer" && info.StalledSince == nil) {
				t.Errorf("inspect does not tell that it is stalled: %v %v", info.StalledSince, err)
			}
			rule.Lift()
			select {
			case err := <-got:
				if err != nil || !bytes.Equal(data, p.files["big"]) {
					t.Errorf("%d bytes, %v", len(data), err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the reader still waits though the fault is gone")
			}
			if rule.Hits() == 0 {
				t.Error("the fault was never hit")
			}
		})
	}
}

func TestRead_AWaitingReaderCanBeKilled(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 5)
	b := w.machine(t)
	dir := b.mount("vol", p.options("0"))
	rule := w.blocks.Inject(faulty.Rule{Match: content, Fault: faulty.Hang()})
	cat := exec.Command("cat", filepath.Join(dir, "big"))
	var out bytes.Buffer
	cat.Stdout = &out
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); rule.Hits() == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := cat.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cat.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("a killed reader goes on waiting")
		rule.Lift()
		<-ended
	}
	if out.Len() != 0 {
		t.Error("bytes were served that could not be had")
	}
	rule.Lift()
	readAll(t, dir, p.files)
}

func TestHydrate_FaultyStoreDelaysAndDoesNotSpoil(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 6)
	b := w.machine(t)
	dir := b.mount("vol", p.options("0"))
	for _, f := range []faulty.Fault{faulty.FlipBit(99), faulty.Truncate(10), faulty.Replay(), faulty.Status(500, store.ErrUnavailable), faulty.Cut(20, store.ErrUnavailable)} {
		w.blocks.Inject(faulty.Rule{Match: content, Fault: f, Times: 2})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := b.Hydrate(ctx, "vol", true, nil); err != nil {
		t.Fatal(err)
	}
	if never := w.blocks.Unhit(); len(never) > 0 {
		t.Errorf("never hit: %v", never)
	}
	// From here on the network is gone; all has to be here, and right.
	w.blocks.Inject(faulty.Rule{Fault: faulty.Status(500, store.ErrUnavailable)})
	readAll(t, dir, p.files)
}
