package storetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"fractal-lazy/store"
)

func getReturnsWhatWasPut(t *script) {
	leaf, empty := t.block("leaf", 5000), t.block("", 0)
	root := t.node("root", leaf, empty)
	t.put(leaf, empty, root)
	t.wantGet(leaf)
	t.wantGet(empty)
	t.wantGet(root)
}

func getOfMissing(t *script) {
	_, err := t.s.Get(t.ctx, t.block("missing", 10).CID)
	t.mustBe(err, store.ErrNotFound)
}

// A CID that carries its bytes, or whose hash is short or weak, proves nothing.
func getOfForeignCID(t *script) {
	b := t.block("foreign", 10)
	for code, length := range map[uint64]int{multihash.IDENTITY: -1, multihash.SHA1: -1, multihash.SHA2_256: 16} {
		mh, err := multihash.Sum(b.Data, code, length)
		t.must(err)
		_, err = t.s.Get(t.ctx, cid.NewCidV1(cid.Raw, mh))
		t.mustBe(err, store.ErrCorrupt)
	}
	_, err := t.s.Get(t.ctx, cid.Undef)
	t.mustBe(err, store.ErrCorrupt)
}

func getGivesBytesAway(t *script) {
	b := t.block("leaf", 100)
	t.put(b)
	data := t.wantGet(b)
	clear(data)
	t.wantGet(b)
}

func hasAnswersInOrder(t *script) {
	var blocks []store.Block
	var there []store.Block
	var want []bool
	for i := range 100 {
		b := t.block(fmt.Sprint(i), 50)
		blocks = append(blocks, b)
		want = append(want, i%3 == 0)
		if i%3 == 0 {
			there = append(there, b)
		}
	}
	t.put(there...)
	t.wantHas(want, blocks...)
	// The same CID twice is two answers.
	t.wantHas([]bool{true, false, true}, blocks[0], blocks[1], blocks[0])
}

func hasOfNothing(t *script) { t.wantHas(nil) }

func putManyAllThere(t *script) {
	const n = 700 // more than a batch of any store
	var blocks []store.Block
	var want []bool
	for i := range n {
		blocks = append(blocks, t.block(fmt.Sprint(i), 100+i))
		want = append(want, true)
	}
	t.put(blocks...)
	t.wantHas(want, blocks...)
	for i := 0; i < n; i += 50 {
		t.wantGet(blocks[i])
	}
}

func putManyOfNothing(t *script) { t.put() }

func putManyTwice(t *script) {
	b := t.block("leaf", 100)
	t.put(b, b)
	t.put(b)
	t.wantGet(b)
}

func putManyLargest(t *script) {
	b := t.block("largest", store.MaxBlock)
	t.put(b)
	t.wantGet(b)
}

func putManyTooLarge(t *script) {
	big := t.block("too large", store.MaxBlock+1)
	err := t.s.PutMany(t.ctx, Seq(t.block("before", 10), big))
	t.mustBe(err, store.ErrTooLarge)
	t.wantHas([]bool{false}, big)
}

func putManyWrongCID(t *script) {
	b, other := t.block("one", 100), t.block("other", 100)
	wrong := store.Block{CID: b.CID, Data: other.Data}
	err := t.s.PutMany(t.ctx, Seq(t.block("before", 10), wrong))
	t.mustBe(err, store.ErrCorrupt)
	t.wantHas([]bool{false}, b)
}

func putManySequenceError(t *script) {
	broken := errors.New("the disk under the sequence broke")
	for _, first := range []bool{true, false} {
		asked := 0
		err := t.s.PutMany(t.ctx, func(yield func(store.Block, error) bool) {
			for i := range 10 {
				asked++
				if first || i == 5 {
					if yield(store.Block{}, broken) {
						t.Error("asked for more after an error")
					}
					return
				}
				if !yield(t.block(fmt.Sprint(i), 100), nil) {
					return
				}
			}
		})
		t.mustBe(err, broken)
		if want := map[bool]int{true: 1, false: 6}[first]; asked != want {
			t.Fatalf("%d blocks taken, want %d", asked, want)
		}
	}
	// The store is none the worse for it.
	b := t.block("after", 100)
	t.put(b)
	t.wantGet(b)
}

// One buffer serves all blocks of a sequence.
func putManyReusedBuffer(t *script) {
	var blocks []store.Block
	for i := range 50 {
		blocks = append(blocks, t.block(fmt.Sprint(i), 1000))
	}
	buf := make([]byte, 1000)
	err := t.s.PutMany(t.ctx, func(yield func(store.Block, error) bool) {
		for _, b := range blocks {
			copy(buf, b.Data)
			if !yield(store.Block{CID: b.CID, Data: buf}, nil) {
				return
			}
			clear(buf)
		}
	})
	t.must(err)
	for _, b := range blocks {
		t.wantGet(b)
	}
}

func putManyCancelled(t *script) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	err := t.s.PutMany(ctx, func(yield func(store.Block, error) bool) {
		for i := 0; ; i++ { // without end
			if i == 3 {
				cancel()
			}
			if !yield(t.block(fmt.Sprint(i), 1000), nil) {
				return
			}
		}
	})
	t.mustBe(err, context.Canceled)
}
