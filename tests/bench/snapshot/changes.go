package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const perDir = 200

func (b *bench) file(i int) string {
	return filepath.Join(b.volume, fmt.Sprintf("%03d/%03d/file-%06d", i/perDir/50, i/perDir%50, i))
}

// text compresses to about a half, as most files do.
func text(rnd *rand.Rand, p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		v := rnd.Uint64()
		copy(p[i:], fmt.Sprintf("%04x", v&0xffff))
		p[i+4], p[i+5], p[i+6], p[i+7] = ' ', 'a'+byte(v>>16&15), 'a'+byte(v>>24&15), '\n'
	}
}

func (b *bench) fill() error {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range b.files {
		if i%perDir == 0 {
			if err := os.MkdirAll(filepath.Dir(b.file(i)), 0o755); err != nil {
				return err
			}
		}
		if err := b.write(rnd, i); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(b.volume, "big"))
	if err != nil {
		return err
	}
	p := make([]byte, 1<<20)
	for range b.big {
		text(rnd, p)
		if _, err := f.Write(p); err != nil {
			return err
		}
	}
	return f.Close()
}

func (b *bench) write(rnd *rand.Rand, i int) error {
	p := make([]byte, 1024+rnd.IntN(7*1024))
	text(rnd, p)
	return os.WriteFile(b.file(i), p, 0o644)
}

type change struct {
	name string
	do   func(round int) error
}

func (b *bench) changes() []change {
	few, many, blocks := b.files/100, b.files/10, b.big*256/100
	moved := map[int]bool{}
	return []change{
		{"no change", func(int) error { return nil }},
		{fmt.Sprintf("%d small files changed", few), func(round int) error {
			rnd := rand.New(rand.NewPCG(3, uint64(round)))
			for range few {
				if err := b.write(rnd, rnd.IntN(b.files)); err != nil {
					return err
				}
			}
			return nil
		}},
		{fmt.Sprintf("%d random writes of 4 KiB (1%%) in %d MiB", blocks, b.big), func(round int) error {
			rnd := rand.New(rand.NewPCG(4, uint64(round)))
			f, err := os.OpenFile(filepath.Join(b.volume, "big"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			p := make([]byte, 4096)
			for range blocks {
				text(rnd, p)
				if _, err := f.WriteAt(p, rnd.Int64N(int64(b.big)*256)*4096); err != nil {
					return err
				}
			}
			return f.Close()
		}},
		{fmt.Sprintf("%d renames", many), func(round int) error {
			rnd := rand.New(rand.NewPCG(5, uint64(round)))
			for n := 0; n < many; {
				i := rnd.IntN(b.files)
				if moved[i] {
					continue
				}
				moved[i] = true
				to := filepath.Join(filepath.Dir(b.file(rnd.IntN(b.files))), fmt.Sprintf("moved-%06d", i))
				if err := os.Rename(b.file(i), to); err != nil {
					return err
				}
				n++
				if len(moved) > b.files/2 {
					return fmt.Errorf("too many rounds: half of the files are renamed")
				}
			}
			return nil
		}},
	}
}
