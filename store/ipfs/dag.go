package ipfs

import (
	"context"
	"errors"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"

	"fractal-lazy/store"
)

// dagService is what boxo's pinner walks. It differs from boxo's own in one
// thing: a raw block is looked up, not read. A pin has to know that it is
// there and that it has no links, and raw blocks are nearly all of the bytes.
type dagService struct{ blocks *blockFiles }

var _ format.DAGService = (*dagService)(nil)

var errReadOnly = errors.New("the pinner changes no blocks")

// Get implements format.NodeGetter.
func (d *dagService) Get(ctx context.Context, c cid.Cid) (format.Node, error) {
	if err := store.Check(c); err != nil {
		return nil, err
	}
	if c.Prefix().Codec == store.Raw {
		size, err := d.blocks.size(ctx, c)
		if err != nil {
			return nil, err
		}
		return &node{id: c, size: size}, nil
	}
	data, err := d.blocks.get(ctx, c)
	if err != nil {
		return nil, err
	}
	// A node that rotted on the disk must not pass: its links would be
	// missing from what is protected.
	if err := store.Verify(c, data); err != nil {
		return nil, err
	}
	links, err := store.Links(c, data)
	if err != nil {
		return nil, err
	}
	n := &node{id: c, data: data, size: len(data)}
	for _, l := range links {
		n.links = append(n.links, &format.Link{Cid: l})
	}
	return n, nil
}

// GetMany implements format.NodeGetter.
func (d *dagService) GetMany(ctx context.Context, cids []cid.Cid) <-chan *format.NodeOption {
	out := make(chan *format.NodeOption, len(cids))
	defer close(out)
	for _, c := range cids {
		n, err := d.Get(ctx, c)
		out <- &format.NodeOption{Node: n, Err: err}
	}
	return out
}

// Add implements format.NodeAdder: the pinner adds the root that it was
// given, which came from Get.
func (d *dagService) Add(ctx context.Context, n format.Node) error {
	_, err := d.blocks.size(ctx, n.Cid())
	return err
}

func (d *dagService) AddMany(context.Context, []format.Node) error { return errReadOnly }
func (d *dagService) Remove(context.Context, cid.Cid) error        { return errReadOnly }
func (d *dagService) RemoveMany(context.Context, []cid.Cid) error  { return errReadOnly }

// node is a block with its links; of a raw block it has no bytes.
type node struct {
	id    cid.Cid
	data  []byte
	size  int
	links []*format.Link
}

var (
	_ format.Node  = (*node)(nil)
	_ blocks.Block = (*node)(nil)

	errNoPaths = errors.New("sealed nodes have no paths")
)

func (n *node) RawData() []byte           { return n.data }
func (n *node) Cid() cid.Cid              { return n.id }
func (n *node) String() string            { return n.id.String() }
func (n *node) Loggable() map[string]any  { return map[string]any{"block": n.id.String()} }
func (n *node) Links() []*format.Link     { return n.links }
func (n *node) Copy() format.Node         { cp := *n; return &cp }
func (n *node) Tree(string, int) []string { return nil }
func (n *node) Size() (uint64, error)     { return uint64(n.size), nil }
func (n *node) Stat() (*format.NodeStat, error) {
	return &format.NodeStat{Hash: n.id.String(), NumLinks: len(n.links), BlockSize: n.size, DataSize: n.size, CumulativeSize: n.size}, nil
}
func (n *node) Resolve([]string) (any, []string, error) { return nil, nil, errNoPaths }
func (n *node) ResolveLink([]string) (*format.Link, []string, error) {
	return nil, nil, errNoPaths
}
