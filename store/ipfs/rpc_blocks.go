package ipfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strconv"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"

	"fractal-lazy/store"
)

const (
	maxCARHeader = 64 << 10 // bytes; 1,500 roots
	maxParts     = 1024     // files of one upload
)

// errBigBlock has Kubo's words: clients know them.
var errBigBlock = errors.New("produced block is over 2MiB: big blocks can't be exchanged with other peers")

type blockStat struct {
	Key  string
	Size int
}

type carRoot struct {
	Cid         map[string]string
	PinErrorMsg string
}

type carStats struct{ BlockCount, BlockBytesCount uint64 }

type carLine struct {
	Root  *carRoot  `json:",omitempty"`
	Stats *carStats `json:",omitempty"`
}

// eachFile calls f for every file of a multipart body, as it streams in.
func (c *call) eachFile(f func(*multipart.Part) error) error {
	parts, err := c.r.MultipartReader()
	if err != nil {
		return argumentError{fmt.Errorf("file argument is required: %w", err)}
	}
	for i := 0; ; i++ {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			if i == 0 {
				return argumentError{errors.New("file argument is required")}
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read of the body: %w", err)
		}
		if i >= maxParts {
			return argumentError{fmt.Errorf("more than %d files", maxParts)}
		}
		if err := f(p); err != nil {
			return err
		}
	}
}

func (n *Node) blockPut(c *call) error {
	codec := uint64(store.Raw)
	switch s := c.q.Get("cid-codec"); s {
	case "", "raw":
	case "dag-cbor":
		codec = store.DagCBOR
	default:
		return argumentError{fmt.Errorf("cid-codec %q: this node keeps raw and dag-cbor", shorten(s))}
	}
	if s := c.q.Get("mhtype"); s != "" && s != "sha2-256" {
		return argumentError{fmt.Errorf("mhtype %q: this node keeps sha2-256", shorten(s))}
	}
	if s := c.q.Get("mhlen"); s != "" && s != "-1" && s != "32" {
		return argumentError{errors.New("mhlen: this node keeps whole hashes")}
	}
	if c.q.Get("format") != "" {
		return argumentError{errors.New("format is deprecated: use cid-codec")}
	}
	pin, err := c.flag("pin", false)
	if err != nil {
		return err
	}
	return c.eachFile(func(p *multipart.Part) error {
		data, err := io.ReadAll(io.LimitReader(p, maxBlockPut+1))
		if err != nil {
			return fmt.Errorf("read of the body: %w", err)
		}
		if len(data) > maxBlockPut {
			return errBigBlock
		}
		id := store.Sum(codec, data)
		if _, err := store.Links(id, data); err != nil {
			return err
		}
		b := batch{b: n.blocks}
		defer b.discard()
		if err := b.add(c.r.Context(), id, data); err != nil {
			return err
		}
		if err := b.commit(); err != nil {
			return err
		}
		if pin {
			if err := n.pin(c.r.Context(), id, true); err != nil {
				return err
			}
		}
		return c.emit(blockStat{Key: id.String(), Size: len(data)})
	})
}

func (n *Node) blockGet(c *call) error {
	ids, err := c.cids(1, 1)
	if err != nil {
		return err
	}
	data, err := n.blocks.get(c.r.Context(), ids[0])
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	c.w.Header().Set("X-Stream-Output", "1")
	c.w.Header().Set("Content-Type", "application/vnd.ipld.raw")
	c.started = true
	_, err = c.w.Write(data)
	return err
}

func (n *Node) blockStat(c *call) error {
	ids, err := c.cids(1, 1)
	if err != nil {
		return err
	}
	size, err := n.blocks.stat(ids[0])
	if err != nil {
		return err
	}
	return c.emit(blockStat{Key: ids[0].String(), Size: size})
}

// dagImport takes CARs, each a file of the body, and answers when all of
// their blocks are durable. A block that does not match its CID ends it, and so
// does the end of the connection; what had arrived before is kept.
func (n *Node) dagImport(c *call) error {
	pinRoots, err := c.flag("pin-roots", true)
	if err != nil {
		return err
	}
	wantStats, err := c.flag("stats", false)
	if err != nil {
		return err
	}
	var stats carStats
	var roots []cid.Cid
	seen := cid.NewSet()
	b := batch{b: n.blocks}
	defer b.discard()
	err = c.eachFile(func(p *multipart.Part) error {
		r, err := car.NewBlockReader(bufio.NewReaderSize(p, 256<<10),
			car.MaxAllowedHeaderSize(maxCARHeader), car.MaxAllowedSectionSize(maxBlockPut+128), car.ZeroLengthSectionAsEOF(false))
		if err != nil {
			return fmt.Errorf("import failed: %w", err)
		}
		for _, root := range r.Roots {
			if seen.Visit(root) {
				roots = append(roots, root)
			}
		}
		if len(roots) > maxArgs {
			return fmt.Errorf("import failed: more than %d roots", maxArgs)
		}
		return n.importCAR(c, r, &b, &stats)
	})
	if err != nil {
		// What had arrived is as good as any, and whoever was cut off is going to send it again: it finds it here.
		return errors.Join(err, b.commit())
	}
	if err := b.commit(); err != nil {
		return err
	}
	if pinRoots {
		for _, root := range roots {
			line := carRoot{Cid: map[string]string{"/": root.String()}}
			if err := n.pin(c.r.Context(), root, true); err != nil {
				line.PinErrorMsg = err.Error()
			}
			if err := c.emit(carLine{Root: &line}); err != nil {
				return err
			}
		}
	}
	if wantStats {
		return c.emit(carLine{Stats: &stats})
	}
	c.start("application/json") // 200 with nothing in it
	return nil
}

func (n *Node) importCAR(c *call, r *car.BlockReader, b *batch, stats *carStats) error {
	last := "the header"
	for {
		block, err := r.Next() // hashes the bytes
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("import failed after block %q: %w", last, err)
		}
		id, data := block.Cid(), block.RawData()
		switch {
		case len(data) > maxBlockPut:
			err = errBigBlock
		default:
			// Identity and short hashes would pass the reader's test.
			if err = store.Check(id); err == nil {
				_, err = store.Links(id, data)
			}
		}
		if err == nil {
			err = b.add(c.r.Context(), id, data)
		}
		if err != nil {
			return fmt.Errorf("import failed at block %q: %w", id, err)
		}
		stats.BlockCount++
		stats.BlockBytesCount += uint64(len(data))
		last = id.String()
	}
}
