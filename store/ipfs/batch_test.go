package ipfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/store/storetest"
)

func (b *blockFiles) unfinished(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(b.dir, tempDir))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list { // flatfs keeps a file of its own there, for a moment
		if ok, _ := filepath.Match("block-*", f.Name()); ok {
			n++
		}
	}
	return n
}

func TestBatch_CommitsWhatWasAddedInGroups(t *testing.T) {
	n, _ := openNode(t, t.TempDir())
	const blocks = 2*syncGroup + 7
	b := batch{b: n.blocks}
	defer b.discard()
	for i := range blocks {
		block := storetest.Block(fmt.Sprint("group", i), 100+i)
		for range 1 + i%2 { // some twice
			if err := b.add(t.Context(), block.CID, block.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.commit(); err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		block := storetest.Block(fmt.Sprint("group", i), 100+i)
		if size, err := n.blocks.stat(block.CID); err != nil || size != len(block.Data) {
			t.Errorf("block %d: %d bytes, %v", i, size, err)
		}
	}
	if got := n.blocks.unfinished(t); got != 0 {
		t.Errorf("%d files were left behind", got)
	}
	if count, _, err := n.blocks.count(t.Context()); err != nil || count != blocks {
		t.Errorf("count is %d, %v", count, err)
	}
}

// A block whose sync failed may be lost, however often it is asked for again: nothing of its batch is acknowledged or put in place.
func TestBatch_NothingIsPutInPlaceWhereASyncFailed(t *testing.T) {
	for _, at := range []int{0, syncGroup - 2, syncGroup + 3} {
		n, _ := openNode(t, t.TempDir())
		b := batch{b: n.blocks}
		for i := range syncGroup + 10 {
			block := storetest.Block(fmt.Sprint("sync", i), 5000)
			if err := b.add(t.Context(), block.CID, block.Data); err != nil {
				break
			}
			if i == at {
				b.open[len(b.open)-1].Close() // its sync fails
			}
		}
		for range 2 {
			if err := b.commit(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("commit at %d: %v", at, err)
			}
		}
		if count, _, err := n.blocks.count(t.Context()); err != nil || count != 0 {
			t.Errorf("%d blocks are in place, %v", count, err)
		}
		b.discard()
		if got := n.blocks.unfinished(t); got != 0 {
			t.Errorf("%d files were left behind", got)
		}
	}
}
