package hive

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"fractal-lazy/seal"
)

func TestServer_RulesOfAManifest(t *testing.T) {
	base := first(machine1, 5)
	big := first(machine1, 9)
	big.Size, big.SizeTotal = math.MaxUint64-10, math.MaxUint64-10
	other := newKey(t)
	stranger := newKey(t)
	foreign := first(machine2, 100)
	change := func(m *Manifest, f func(*Manifest)) *Manifest { c := *m; f(&c); return &c }
	child := next(base)
	for name, c := range map[string]struct {
		manifest *Manifest
		sign     *seal.Privkey // nil: the volume's
		body     func([]byte) []byte
		patch    string
		status   int
		reason   string
	}{
		"a child":                               {manifest: child, status: 303},
		"generations may be left out":           {manifest: change(child, func(m *Manifest) { m.Generation = math.MaxUint64 }), status: 303},
		"a second root":                         {manifest: first(machine1, 1), status: 303},
		"a child of 64 bytes":                   {manifest: change(child, func(m *Manifest) { m.Size = 64; m.SizeTotal = 1064 }), status: 303},
		"a child of 63 bytes":                   {manifest: change(child, func(m *Manifest) { m.Size = 63; m.SizeTotal = 1063 }), status: 400, reason: "size is 63; with a parent it is at least 64"},
		"a root of no bytes":                    {manifest: change(first(machine1, 6), func(m *Manifest) { m.Size = 0; m.SizeTotal = 0 }), status: 303},
		"a root with another total":             {manifest: change(first(machine1, 6), func(m *Manifest) { m.SizeTotal++ }), status: 400, reason: "without a parent it equals size"},
		"a child with another total":            {manifest: change(child, func(m *Manifest) { m.SizeTotal++ }), status: 400, reason: "size_total is 1101, not the parent's 1000 plus size 100"},
		"a total that wraps round":              {manifest: change(next(big), func(m *Manifest) { m.SizeTotal = 89 }), status: 400, reason: "size_total is 89, not the parent's"},
		"the same generation, another root":     {manifest: change(base, func(m *Manifest) { m.Creation++ }), status: 400, reason: "generation 5 is taken"},
		"the same generation, another child":    {manifest: change(next(base), func(m *Manifest) { m.Generation = 9 }), status: 400, reason: "generation 9 is taken"},
		"generation of the parent":              {manifest: change(child, func(m *Manifest) { m.Generation = 5 }), status: 400, reason: "generation 5 is not above the parent's, which is 5"},
		"generation below the parent's":         {manifest: change(child, func(m *Manifest) { m.Generation = 4 }), status: 400, reason: "generation 4 is not above"},
		"an unknown parent":                     {manifest: change(child, func(m *Manifest) { m.Parent = &Parent{Hash: Hash{1}} }), status: 400, reason: "the parent 0100"},
		"a parent of another volume, not named": {manifest: change(child, func(m *Manifest) { m.Parent = &Parent{Hash: foreign.Hash()}; m.Generation = 101 }), status: 400, reason: "is not known"},
		"a clone": {manifest: change(next(foreign), func(m *Manifest) {
			m.Machine = machine1
			m.Parent.Volume = &ParentVolume{Pubkey: other.Public()}
		}), status: 303},
		"a clone of an unknown volume": {manifest: change(next(foreign), func(m *Manifest) {
			m.Machine = machine1
			m.Parent.Volume = &ParentVolume{Pubkey: stranger.Public()}
		}), status: 400, reason: "is not known"},
		"another machine":             {manifest: change(child, func(m *Manifest) { m.Machine = machine2 }), status: 400, reason: "machine " + machine2.String() + " is not the writer, which is " + machine1.String()},
		"another machine, writer set": {manifest: change(child, func(m *Manifest) { m.Machine = machine2 }), patch: `{"writer":"` + machine2.String() + `"}`, status: 303},
		"the old machine, writer set": {manifest: child, patch: `{"writer":"` + machine2.String() + `"}`, status: 400, reason: "is not the writer"},
		"another machine, no writer":  {manifest: change(child, func(m *Manifest) { m.Machine = machine2 }), patch: `{"writer":null}`, status: 303},
		"a locked volume":             {manifest: child, patch: `{"lock":true}`, status: 400, reason: "the volume is locked"},
		"the same again":              {manifest: base, status: 303},
		"the same again, locked":      {manifest: base, patch: `{"lock":true}`, status: 303},
		"the same again, writer lost": {manifest: base, patch: `{"writer":"` + machine2.String() + `"}`, status: 303},
		"signed by another volume":    {manifest: child, sign: &stranger, status: 400, reason: "bad signature"},
		"without a signature":         {manifest: child, body: func(b []byte) []byte { return b[:len(b)-signatureSize] }, status: 400, reason: "bad signature"},
		"a flipped bit":               {manifest: child, body: func(b []byte) []byte { b[0] ^= 1; return b }, status: 400, reason: "bad signature"},
		"nothing":                     {manifest: child, body: func(b []byte) []byte { return nil }, status: 400, reason: "not a manifest"},
		"a signature alone":           {manifest: child, body: func(b []byte) []byte { return b[len(b)-signatureSize:] }, status: 400, reason: "not a manifest"},
		"too long":                    {manifest: child, body: func(b []byte) []byte { return make([]byte, maxSigned+1) }, status: 413, reason: "longer than 65600"},
		"a path over its bound":       {manifest: change(child, func(m *Manifest) { m.Path = strings.Repeat("x", MaxPath+1) }), status: 400, reason: "path has a length of 4097"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, twoAccounts())
			k := newKey(t)
			for _, v := range []seal.Privkey{k, other} {
				b.want(tokenA, "POST", vol(v), nil, 200, "")
			}
			b.post(other, foreign)
			b.post(k, base)
			b.post(k, big)
			if c.patch != "" {
				b.want(tokenA, "PATCH", vol(k), []byte(c.patch), 200, "")
			}
			signer := k
			if c.sign != nil {
				signer = *c.sign
			}
			body := c.manifest.Sign(signer)
			if c.body != nil {
				body = c.body(body)
			}
			before := b.list(k, "")
			b.want(tokenA, "POST", vol(k)+"/snapshot", body, c.status, c.reason)
			after := b.list(k, "")
			stored := strings.Contains(fmt.Sprint(after), c.manifest.Hash().String())
			if stored != (c.status == 303) {
				t.Errorf("stored: %v", stored)
			}
			if c.status != 303 && fmt.Sprint(before) != fmt.Sprint(after) {
				t.Error("a refused manifest changed the list")
			}
		})
	}
}
