package hive

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// The encoding is that of bincode 1.x with its defaults: integers little-endian and fixed in width; a string or byte string is
// a u64 length and its bytes; an option is one byte, 0 or 1, and then the value; a fixed array is its bytes alone.
//
//	creation    u64
//	machine     u64 = 16, 16 bytes
//	path        u64 length, UTF-8
//	size        u64
//	size_total  u64
//	generation  u64
//	parent      0 | 1, hash 64 bytes, ( 0 | 1, pubkey 32 bytes, secret 32 bytes )
//	data        u64 length, UTF-8

// Encode returns the manifest's bytes, without a signature. The caller owns them. Encode does not check the bounds: what
// DecodeManifest would refuse, Client.Post refuses before it is sent.
func (m *Manifest) Encode() []byte {
	b := make([]byte, 0, 256+len(m.Path)+len(m.Data))
	b = appendU64(b, m.Creation)
	b = appendBytes(b, string(m.Machine[:]))
	b = appendBytes(b, m.Path)
	b = appendU64(b, m.Size)
	b = appendU64(b, m.SizeTotal)
	b = appendU64(b, m.Generation)
	if m.Parent == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = append(b, m.Parent.Hash[:]...)
		if v := m.Parent.Volume; v == nil {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			b = append(b, v.Pubkey[:]...)
			b = append(b, v.Secret[:]...)
		}
	}
	return appendBytes(b, m.Data)
}

func appendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

func appendBytes(b []byte, s string) []byte { return append(appendU64(b, uint64(len(s))), s...) }

// DecodeManifest reads an encoded manifest without its signature. It accepts exactly the bytes that Encode makes of a
// manifest within the bounds; everything else, bytes that are left over too, is ErrFormat. It keeps no reference to b.
func DecodeManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrFormat, MaxManifest)
	}
	d := decoder{left: b}
	m := &Manifest{Creation: d.u64("creation")}
	d.sized("machine", m.Machine[:])
	m.Path = d.text("path", MaxPath)
	m.Size = d.u64("size")
	m.SizeTotal = d.u64("size_total")
	m.Generation = d.u64("generation")
	if d.option("parent") {
		m.Parent = &Parent{}
		d.raw("parent hash", m.Parent.Hash[:])
		if d.option("parent volume") {
			v := &ParentVolume{}
			d.raw("parent pubkey", v.Pubkey[:])
			d.raw("parent secret", v.Secret[:])
			m.Parent.Volume = v
		}
	}
	m.Data = d.text("data", MaxData)
	if d.err == nil && len(d.left) != 0 {
		d.fail("%d bytes too many", len(d.left))
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

// decoder takes fields off the front of left. After the first error every call does nothing, so that only the end is checked.
type decoder struct {
	left []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) take(field string, n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.left) {
		d.fail("%s is cut off", field)
		return nil
	}
	b := d.left[:n]
	d.left = d.left[n:]
	return b
}

func (d *decoder) raw(field string, into []byte) { copy(into, d.take(field, len(into))) }

func (d *decoder) u64(field string) uint64 {
	b := d.take(field, 8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// sized reads a byte string that has exactly the length of into.
func (d *decoder) sized(field string, into []byte) {
	if n := d.u64(field); d.err == nil && n != uint64(len(into)) {
		d.fail("%s has a length of %d, not %d", field, n, len(into))
	}
	d.raw(field, into)
}

func (d *decoder) text(field string, most int) string {
	n := d.u64(field)
	if d.err == nil && n > uint64(most) {
		d.fail("%s has a length of %d, more than %d", field, n, most)
	}
	if d.err != nil {
		return ""
	}
	b := d.take(field, int(n))
	if !utf8.Valid(b) {
		d.fail("%s is not UTF-8", field)
	}
	return string(b)
}

func (d *decoder) option(field string) bool {
	b := d.take(field, 1)
	if b == nil {
		return false
	}
	if b[0] > 1 {
		d.fail("%s has the option byte %d", field, b[0])
	}
	return b[0] == 1
}
