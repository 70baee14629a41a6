package archive

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/memory"

	"github.com/ipfs/go-cid"
)

var update = flag.Bool("update", false, "write the golden files anew")

const golden = "testdata/v1.car"

// testKey is of no volume but the one in the golden file.
func testKey(t testing.TB) seal.Privkey {
	k, err := seal.ParsePrivkey(strings.Repeat("07", 32))
	must(t, err)
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is dag-cbor: a list of links.
func node(links ...cid.Cid) store.Block {
	data := []byte{0x99, byte(len(links) >> 8), byte(len(links))}
	if len(links) < 24 {
		data = []byte{0x80 | byte(len(links))}
	} else if len(links) < 256 {
		data = []byte{0x98, byte(len(links))}
	}
	for _, l := range links {
		data = append(append(data, 0xd8, 0x2a, 0x58, byte(l.ByteLen()+1), 0), l.Bytes()...)
	}
	return store.Block{CID: store.Sum(store.DagCBOR, data), Data: data}
}

// world is a store with a tree that meets blocks and nodes twice, and the manifest of it.
func world(t testing.TB) (*memory.Store, seal.Privkey, []byte) {
	s, key := memory.New(), testKey(t)
	var blocks []store.Block
	raw := func(text string) cid.Cid {
		b := store.Block{CID: store.Sum(store.Raw, []byte(text)), Data: []byte(text)}
		blocks = append(blocks, b)
		return b.CID
	}
	add := func(n store.Block) cid.Cid { blocks = append(blocks, n); return n.CID }
	var many []cid.Cid
	for i := range 100 {
		many = append(many, raw(fmt.Sprint("block ", i%70)))
	}
	below := add(node(raw("twice"), raw("below")))
	root := add(node(below, raw("twice"), add(node(many...)), below, raw("last")))
	must(t, s.PutMany(context.Background(), iter.Seq2[store.Block, error](func(yield func(store.Block, error) bool) {
		for _, b := range blocks {
			if !yield(b, nil) {
				return
			}
		}
	})))
	m := hive.Manifest{Creation: 1, Path: "/s", Size: 100, SizeTotal: 100, Generation: 1, Data: "ipfs://" + root.String()}
	return s, key, m.Sign(key)
}

// all reads a file to its end.
func all(file io.Reader, pub seal.Pubkey) (n int, err error) {
	r, err := NewReader(file, pub)
	if err != nil {
		return 0, err
	}
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err == nil {
			err = store.Verify(b.CID, b.Data)
		}
		if err != nil {
			return n, err
		}
		n++
	}
}

func TestGolden_OneSnapshotIsOneFile(t *testing.T) {
	s, key, signed := world(t)
	var b bytes.Buffer
	stats, err := Write(context.Background(), &b, s, key.Public(), signed)
	must(t, err)
	if *update {
		must(t, os.WriteFile(golden, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(b.Bytes(), want) {
		t.Error("the file is not the golden one")
	}
	// The root, below, twice, below it, the large node with 70, and the last: each once.
	if n, err := all(&b, key.Public()); n != int(stats.Blocks) || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
	if stats.Blocks != 76 {
		t.Errorf("%d blocks", stats.Blocks)
	}
}

func TestReader_EachCutAndEachFlipIsSeen(t *testing.T) {
	file, err := os.ReadFile(golden)
	must(t, err)
	pub := testKey(t).Public()
	for n := 0; n < len(file); n += 1 + n/40 { // each byte of the head's beginning, and fewer of the rest
		_, err := all(bytes.NewReader(file[:n]), pub)
		if err == nil || !errors.Is(err, ErrCut) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		spoilt := bytes.Clone(file)
		spoilt[n] ^= 0x10
		if _, err := all(bytes.NewReader(spoilt), pub); err == nil {
			t.Fatalf("flipped at %d: %v", n, err)
		}
	}
	other, err := seal.GeneratePrivkey()
	must(t, err)
	if _, err := all(bytes.NewReader(file), other.Public()); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
}

func TestWrite_MissingBlockAndFullDiskAreErrors(t *testing.T) {
	s, key, signed := world(t)
	for i := range 500 {
		if _, err := Write(context.Background(), &full{left: i * 97}, s, key.Public(), signed); !errors.Is(err, errFull) {
			if err == nil && i > 20 {
				break
			}
			t.Fatalf("full after %d bytes: %v", i*97, err)
		}
	}
	if _, err := Write(context.Background(), io.Discard, lacking{s, store.Sum(store.Raw, []byte("block 33"))}, key.Public(), signed); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

type lacking struct {
	Getter
	c cid.Cid
}

func (l lacking) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c.Equals(l.c) {
		return nil, store.ErrNotFound
	}
	return l.Getter.Get(ctx, c)
}

var errFull = errors.New("full")

type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func FuzzReader(f *testing.F) {
	file, err := os.ReadFile(golden)
	must(f, err)
	f.Add(file)
	f.Add(file[:len(file)/2])
	pub := testKey(f).Public()
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := all(bytes.NewReader(b), pub); err == nil && n == 0 {
			t.Error("nothing is whole")
		}
	})
}
