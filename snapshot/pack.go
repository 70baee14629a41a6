package snapshot

import (
	"context"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// Where packs end; docs/FORMAT.md has the rule. A writer's choice, too.
const (
	maxPieces = 4096
	// From this many bytes on a pack ends behind the first file whose name's
	// hash has its top 3 bits 0: so packs of neighbours stay the same where
	// something before them grew.
	packFrom = wire.MaxPack / 2
	packBits = 61
	// A pack ends when pages of this weight in all that may be waiting for it
	// were closed since its first piece.
	maxAge = 4 << 20
)

// pack is a KindData block under construction: the pieces of neighbours.
type pack struct {
	*join
	buf    []byte // a spare byte, then the pieces
	pieces []piece
	age    int
}

// piece is what waits for the pack's CID.
type piece struct {
	block *cid.Cid
	owner *join
}

// addPiece reserves room for n bytes of a file, has them filled in by read, and tells the piece's owner
// when the pack is stored. Where they start in it is in off when it returns.
func (b *builder) addPiece(f *openFile, name string, is piece, off *uint32, n uint64, read func(wk *worker, into []byte) error) error {
	if b.pack != nil && (len(b.pack.buf)-1+int(n) > wire.MaxPack || len(b.pack.pieces) == maxPieces) {
		if err := b.closePack(); err != nil {
			return err
		}
	}
	if b.pack == nil {
		if err := b.openPack(); err != nil {
			return err
		}
	}
	p := b.pack
	at := len(p.buf)
	p.buf = p.buf[:at+int(n)]
	into := p.buf[at:]
	*off = uint32(at - 1)
	is.owner.add()
	p.pieces = append(p.pieces, is)
	p.add()
	if err := b.submit(f, func(wk *worker) {
		if err := read(wk, into); err != nil {
			b.fail(err)
			return
		}
		p.done(wk)
	}); err != nil {
		return err
	}
	if len(p.buf)-1 >= packFrom && b.sealer.NameHash(name)>>packBits == 0 {
		return b.closePack()
	}
	return nil
}

func (b *builder) openPack() error {
	select {
	case buf := <-b.packs:
		if buf == nil {
			buf = make([]byte, 1, 1+wire.MaxPack)
		}
		p := &pack{buf: buf[:1]}
		p.join = newJoin(func(w *worker) { b.putPack(w, p) })
		b.pack = p
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

// closePack lets the open pack be stored as soon as all its pieces are read.
func (b *builder) closePack() error {
	if b.pack == nil {
		return nil
	}
	p := b.pack
	b.pack = nil
	return b.submit(nil, p.done)
}

// agePack tells the open pack that a page that may wait for it was closed. Pages that surely do not are not told of: so a
// pack ends in the same place whether they were read or taken by reference.
func (b *builder) agePack(weight int) error {
	if b.pack == nil {
		return nil
	}
	if b.pack.age += weight; b.pack.age > maxAge {
		return b.closePack()
	}
	return nil
}

func (b *builder) putPack(w *worker, p *pack) {
	c, err := b.put(store.Raw, w.sealData(b.sealer, p.buf))
	b.packs <- p.buf // there is room: it came from there
	if err != nil {
		b.fail(err)
		return
	}
	for _, piece := range p.pieces {
		*piece.block = c
		piece.owner.done(w)
	}
}
