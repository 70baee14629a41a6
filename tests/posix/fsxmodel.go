package main

import (
	"bytes"
	"math/rand/v2"
	"os"
)

const page = 4096

// content is what a file of size bytes begins with: noise with holes, the same for the same seed.
func content(seed uint64, size int) []byte {
	p := make([]byte, size)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	_, _ = rand.NewChaCha8(key).Read(p)
	for _, h := range holes(seed, size) {
		clear(p[h[0]:h[1]])
	}
	return p
}

// holes are where the file has no data: [from, to), in order.
func holes(seed uint64, size int) (list [][2]int) {
	r := rand.New(rand.NewPCG(seed, 7))
	for off := page * (1 + r.IntN(8)); ; {
		end := off + page*(1+r.IntN(6))
		if end >= size {
			return list
		}
		list = append(list, [2]int{off, end})
		off = end + page*(1+r.IntN(40))
	}
}

// writeContent makes the file path with content, its holes as holes.
func writeContent(path string, seed uint64, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := content(seed, size)
	from := 0
	for _, h := range append(holes(seed, size), [2]int{size, size}) {
		if _, err := f.WriteAt(p[from:h[0]], int64(from)); err != nil {
			return err
		}
		from = h[1]
	}
	return f.Close()
}

// model is what the file has to read as.
type model struct{ p []byte }

func (m *model) resize(size int) {
	if size <= len(m.p) {
		m.p = m.p[:size:size]
		return
	}
	m.p = append(m.p, make([]byte, size-len(m.p))...)
}

// grow makes it at least size long.
func (m *model) grow(size int) {
	if size > len(m.p) {
		m.resize(size)
	}
}

func (m *model) write(off int, p []byte) {
	m.grow(off + len(p))
	copy(m.p[off:], p)
}

func (m *model) zero(off, n int) {
	clear(m.at(off, n))
}

// at returns [off, off+n) as far as the file goes.
func (m *model) at(off, n int) []byte { return m.p[min(off, len(m.p)):min(off+n, len(m.p))] }

// differs returns the first byte in which the two differ, -1 for none.
func differs(got, want []byte) int {
	if bytes.Equal(got, want) {
		return -1
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return i
		}
	}
	if len(got) != len(want) {
		return min(len(got), len(want))
	}
	return -1
}
