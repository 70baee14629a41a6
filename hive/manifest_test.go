package hive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

const goldenCID = "ipfs://bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"

var goldenMachine = uuid.MustParse("0f8fad5b-d9cb-469f-a165-70867728950e")

func privkey(t testing.TB, text string) seal.Privkey {
	t.Helper()
	k, err := seal.ParsePrivkey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func goldenKey(t testing.TB) seal.Privkey {
	return privkey(t, "sETuhFwbQf9NJVAEOhu/QFhhhmKxY+f4VNFrO2IowGk=")
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustHash(t testing.TB, s string) Hash {
	t.Helper()
	h, err := ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The values and hashes are those that testdata/golden.py wrote and printed, with nothing of this package.
func goldenManifests(t testing.TB) map[string]struct {
	manifest Manifest
	hash     string
} {
	rootHash := "aa6e36889136552ffaaeaa9dfc8d1aaac4385e07e61c4eb934bcf18fc74b79edf5e9156c61f95634fc9e809f507e4e21c3e4d15082d9b8ea42e94417bb7fdb0b"
	other := privkey(t, "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o=")
	secret, err := base64.StdEncoding.DecodeString("f1loUq2/FQVkW/ytvYcdwSRU2o/djxU+6nfW0YxHs/4=")
	if err != nil {
		t.Fatal(err)
	}
	const gib5 = 5 << 30
	type entry = struct {
		manifest Manifest
		hash     string
	}
	return map[string]entry{
		"root.signed": {Manifest{Creation: 1700000000, Machine: goldenMachine, Path: "/var/lib/fractal/volumes/x/snapshots/1",
			Size: gib5, SizeTotal: gib5, Generation: 1, Data: goldenCID}, rootHash},
		"child.signed": {Manifest{Creation: 1700000060, Machine: goldenMachine, Path: "/väg/雪",
			Size: 64, SizeTotal: gib5 + 64, Generation: 2, Parent: &Parent{Hash: mustHash(t, rootHash)}, Data: goldenCID},
			"485679e0985a34322a98dbdbd6a6706673cee8668979ac8100eb06155dd33b39ba527a440c2a2a26b8e7db292c7044662c96280269bc7cac352d3b91eb69e282"},
		"clone.signed": {Manifest{Creation: 1700000120, Machine: goldenMachine,
			Size: 1000, SizeTotal: gib5 + 1000, Generation: math.MaxUint64, Parent: &Parent{Hash: mustHash(t, rootHash),
				Volume: &ParentVolume{Pubkey: other.Public(), Secret: [32]byte(secret)}}, Data: goldenCID},
			"c730839e40e657450efa7d9efd554abb35e27e5c332d7d6712a53c2800e156470f4b832344c7fe6efa2e02e1bc5dcd59f632b7501d175982d2f5468c29271d67"},
	}
}

// same compares all fields; %v would hide the Secret.
func same(a, b *Manifest) bool { return bytes.Equal(a.Encode(), b.Encode()) }

func TestManifest_GoldenFiles(t *testing.T) {
	for name, want := range goldenManifests(t) {
		t.Run(name, func(t *testing.T) {
			signed := golden(t, name)
			m, err := Open(goldenKey(t).Public(), signed)
			if err != nil {
				t.Fatal(err)
			}
			if m.Creation != want.manifest.Creation || m.Machine != want.manifest.Machine || m.Path != want.manifest.Path ||
				m.Size != want.manifest.Size || m.SizeTotal != want.manifest.SizeTotal || m.Generation != want.manifest.Generation ||
				m.Data != want.manifest.Data || !same(m, &want.manifest) {
				t.Errorf("decoded %+v", m)
			}
			if got := m.Hash().String(); got != want.hash {
				t.Errorf("hash %s", got)
			}
			if !bytes.Equal(want.manifest.Sign(goldenKey(t)), signed) {
				t.Error("Sign does not give the golden bytes")
			}
		})
	}
}

func TestDecodeManifest_RefusesEveryTruncationAndAnyByteMore(t *testing.T) {
	for name := range goldenManifests(t) {
		body := golden(t, name)
		body = body[:len(body)-signatureSize]
		for n := range body {
			if _, err := DecodeManifest(body[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, err := DecodeManifest(append(bytes.Clone(body), 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

func TestDecodeManifest_RefusesBadFields(t *testing.T) {
	m := goldenManifests(t)["clone.signed"].manifest
	body := m.Encode()
	const machineLen, pathLen, option, volumeOption, dataLen = 8, 32, 64, 129, 194
	set := func(at int, v ...byte) []byte { b := bytes.Clone(body); copy(b[at:], v); return b }
	long := func(change func(*Manifest)) []byte { c := m; change(&c); return c.Encode() }
	for name, c := range map[string]struct {
		bytes  []byte
		reason string
	}{
		"empty":                 {nil, "creation is cut off"},
		"machine of 15":         {set(machineLen, 15), "machine has a length of 15"},
		"machine of 2^63":       {set(machineLen+7, 0x80), "machine has a length of"},
		"path over its bound":   {long(func(m *Manifest) { m.Path = strings.Repeat("p", MaxPath+1) }), "path has a length of 4097"},
		"path longer than all":  {set(pathLen, 0xff), "path is cut off"},
		"path of 2^64-1":        {set(pathLen, bytes.Repeat([]byte{0xff}, 8)...), "path has a length of 18446744073709551615"},
		"path not UTF-8":        {long(func(m *Manifest) { m.Path = "\xff" }), "path is not UTF-8"},
		"option of 2":           {set(option, 2), "parent has the option byte 2"},
		"volume option of 255":  {set(volumeOption, 255), "parent volume has the option byte 255"},
		"no parent, yet a hash": {set(option, 0), "data has a length of"},
		"data over its bound":   {long(func(m *Manifest) { m.Data = strings.Repeat("d", MaxData+1) }), "data has a length of 1025"},
		"data not UTF-8":        {long(func(m *Manifest) { m.Data = "ipfs://\xc0" }), "data is not UTF-8"},
		"data one short":        {set(dataLen, body[dataLen]-1), "1 bytes too many"},
		"over 64 KiB":           {make([]byte, MaxManifest+1), "longer than 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeManifest(c.bytes)
			if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, want %q", err, c.reason)
			}
		})
	}
	for name, ok := range map[string][]byte{
		"path at its bound": long(func(m *Manifest) { m.Path = strings.Repeat("p", MaxPath) }),
		"data at its bound": long(func(m *Manifest) { m.Data = strings.Repeat("d", MaxData) }),
	} {
		if _, err := DecodeManifest(ok); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpen_RefusesEveryFlippedBit(t *testing.T) {
	signed := golden(t, "clone.signed")
	p := goldenKey(t).Public()
	for i := range signed {
		b := bytes.Clone(signed)
		b[i] ^= 1 << (i % 8)
		if _, err := Open(p, b); !errors.Is(err, ErrSignature) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i, err)
		}
	}
}

func TestOpen_RefusesAnotherKeyAndBadLengths(t *testing.T) {
	signed := golden(t, "root.signed")
	k, err := seal.GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(k.Public(), signed); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	p := goldenKey(t).Public()
	for _, b := range [][]byte{nil, signed[:1], signed[:signatureSize], make([]byte, maxSigned+1)} {
		if _, err := Open(p, b); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	// A good signature does not make a manifest of what is none.
	junk := []byte("not a manifest")
	if _, err := Open(p, append(junk, goldenKey(t).Sign(junk)...)); !errors.Is(err, ErrFormat) {
		t.Errorf("signed junk: %v", err)
	}
}

func TestManifest_PrintedOrMarshalledShowsNoSecret(t *testing.T) {
	m := goldenManifests(t)["clone.signed"].manifest
	v := m.Parent.Volume
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %x %d", *v, *v, *v, *v, *v, *v), fmt.Sprintf("%+v %+v %#v", v, *m.Parent, m), string(out)} {
		for _, secret := range []string{"7f596852", "127 89 104 82", "127,89,104,82", "0x7f, 0x59"} {
			if strings.Contains(text, secret) {
				t.Errorf("the Secret is shown: %s", text)
			}
		}
	}
	if want := `"Volume":{"pubkey":"` + v.Pubkey.String() + `"}`; !bytes.Contains(out, []byte(want)) {
		t.Errorf("JSON %s", out)
	}
}

func TestManifest_RootIsTheCIDOfItsData(t *testing.T) {
	m := Manifest{Data: goldenCID}
	if cid, err := m.Root(); err != nil || "ipfs://"+cid != goldenCID {
		t.Error(cid, err)
	}
	for _, data := range []string{"", "ipfs://", "http://x", "IPFS://x"} {
		if _, err := (&Manifest{Data: data}).Root(); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func TestParseHash_TakesHexOfEitherCaseOnly(t *testing.T) {
	low := strings.Repeat("ab", HashSize)
	for _, s := range []string{low, strings.ToUpper(low)} {
		if h, err := ParseHash(s); err != nil || h.String() != low {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", low[1:], low + "00", strings.Replace(low, "a", "g", 1)} {
		if _, err := ParseHash(s); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	for name := range goldenManifests(f) {
		b := golden(f, name)
		f.Add(b[:len(b)-signatureSize])
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if len(m.Path) > MaxPath || len(m.Data) > MaxData {
			t.Fatal("a length over its bound")
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Fatal("two encodings of one manifest")
		}
	})
}
