package volume

import (
	"context"
	"fmt"
	"iter"

	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// noStore stands where no block store is configured, so that complete volumes
// are served and the others say what they lack.
type noStore struct{}

var _ store.Store = noStore{}

var errNoStore = fmt.Errorf("%w: none is configured; give one with --ipfs URL or FRACTAL_IPFS", store.ErrUnavailable)

func (noStore) Get(context.Context, cid.Cid) ([]byte, error)                 { return nil, errNoStore }
func (noStore) Has(context.Context, []cid.Cid) ([]bool, error)               { return nil, errNoStore }
func (noStore) Pin(context.Context, cid.Cid) error                           { return errNoStore }
func (noStore) PinUpdate(context.Context, cid.Cid, cid.Cid) error            { return errNoStore }
func (noStore) Unpin(context.Context, cid.Cid) error                         { return errNoStore }
func (noStore) Pinned(context.Context, cid.Cid) (bool, error)                { return false, errNoStore }
func (noStore) PutMany(context.Context, iter.Seq2[store.Block, error]) error { return errNoStore }
