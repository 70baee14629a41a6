package ipfs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/gateway"
	pinner "github.com/ipfs/boxo/pinning/pinner"
	"github.com/ipfs/boxo/pinning/pinner/dspinner"
	leveldb "github.com/ipfs/go-ds-leveldb"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// defaultGrace is how long collection spares what was just written. It has
// to outlast the upload of a snapshot, from its first block to its pin.
const defaultGrace = 24 * time.Hour

// NodeOptions of a Node.
type NodeOptions struct {
	// Dir is where everything is kept; made where it does not exist. Only
	// one Node at a time can have it open.
	Dir string

	// Authorized, where set, decides for every request to /api/v0 whether it
	// may pass; what may not gets 403. The gateway stays open: whoever knows
	// a CID may read the block.
	Authorized func(*http.Request) bool

	// Grace is how long repo/gc keeps a block that no pin reaches after it
	// was last written or asked for by block/stat; the zero value is 24
	// hours.
	Grace time.Duration
}

// Node is an embedded IPFS block node: it answers the part of Kubo's RPC API
// that a client of this package uses, and a trustless gateway. It has no
// peers and fetches nothing.
type Node struct {
	opt    NodeOptions
	blocks *blockFiles
	pinDS  *leveldb.Datastore
	pins   pinner.Pinner
	dag    *dagService
	id     string // peer id, see identity.go

	// gate lets pins and unpins pass side by side (weight 1), and a
	// collection alone (weight gateAll): between its reading of the pins and
	// its last deletion no pin changes.
	gate *semaphore.Weighted

	handler http.Handler

	closeOnce sync.Once
	closeErr  error
}

const gateAll = 1 << 20

// OpenNode opens the node in opt.Dir, or makes one there. A folder that was
// in use when its process or machine died opens as it is: see the package
// comment for what is in it then.
func OpenNode(opt NodeOptions) (_ *Node, err error) {
	if opt.Dir == "" {
		return nil, errors.New("IPFS node: no folder given")
	}
	if opt.Grace < 0 {
		return nil, errors.New("IPFS node: negative grace")
	}
	if opt.Grace == 0 {
		opt.Grace = defaultGrace
	}
	n := &Node{opt: opt, gate: semaphore.NewWeighted(gateAll)}
	defer func() {
		if err != nil {
			_ = n.Close()
			err = fmt.Errorf("open IPFS node in %s: %w", opt.Dir, err)
		}
	}()
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	// The pins come first: leveldb locks its folder, and opening the blocks
	// clears what is being written to them.
	if n.pinDS, err = leveldb.NewDatastore(filepath.Join(opt.Dir, "pins"), nil); err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	if n.id, err = loadIdentity(opt.Dir); err != nil {
		return nil, err
	}
	if n.blocks, err = openBlockFiles(filepath.Join(opt.Dir, "blocks"), opt.Grace); err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	if err := syncDir(opt.Dir); err != nil {
		return nil, err
	}
	n.dag = &dagService{blocks: n.blocks}
	if n.pins, err = dspinner.New(context.Background(), n.pinDS, n.dag); err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	gw, err := n.gateway()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/v0/", n.guard(n.rpc()))
	mux.Handle("/ipfs/", gw)
	n.handler = mux
	return n, nil
}

// Handler serves /api/v0 and /ipfs. After Close its calls fail.
func (n *Node) Handler() http.Handler { return n.handler }

// Close flushes and lets go of the folder. Requests that are still being
// served fail; the server is to be shut down first.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		var errs []error
		if n.pins != nil {
			errs = append(errs, n.pins.Flush(context.Background()))
		}
		if n.blocks != nil {
			errs = append(errs, n.blocks.close())
		}
		if n.pinDS != nil {
			errs = append(errs, n.pinDS.Close())
		}
		n.closeErr = errors.Join(errs...)
	})
	return n.closeErr
}

func (n *Node) guard(next http.Handler) http.Handler {
	if n.opt.Authorized == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.opt.Authorized(r) {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// gateway is boxo's, with nothing but blocks and CARs to give (the trustless
// subset) and nowhere to look but here.
func (n *Node) gateway() (http.Handler, error) {
	// Identity CIDs carry their bytes; the gateway specification wants them
	// answered though no store holds them.
	bs := blockstore.NewIdStore(blockstore.NewBlockstore(n.blocks.ds, blockstore.NoPrefix()))
	backend, err := gateway.NewBlocksBackend(blockservice.New(bs, offline.Exchange(bs)))
	if err != nil {
		return nil, err
	}
	return gateway.NewHandler(gateway.Config{
		DeserializedResponses: false,
		NoDNSLink:             true,
		DisableHTMLErrors:     true,
		MaxConcurrentRequests: gateway.DefaultMaxConcurrentRequests,
		MetricsRegistry:       prometheus.NewRegistry(), // its own: several nodes in a process would collide
	}, backend), nil
}
