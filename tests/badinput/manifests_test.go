package badinput

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store/faulty"
	"fractal-lazy/volume"

	"github.com/google/uuid"
)

// isManifest tells the request for one manifest.
func isManifest(r *http.Request) bool {
	last := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	_, err := hive.ParseHash(last)
	return err == nil && r.Method == http.MethodGet
}

func serveManifest(bytes []byte) fault {
	return func(r *http.Request) http.HandlerFunc {
		if !isManifest(r) {
			return nil
		}
		return func(w http.ResponseWriter, r *http.Request) { w.Write(bytes) }
	}
}

func TestMount_RefusesForgedManifests(t *testing.T) {
	w := newWorld(t)
	p, other := w.publish(t, 10), w.publish(t, 11)
	latest, err := w.client().Latest(context.Background(), p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	foreign := *latest
	foreign.Data = "ipfs://" + other.root
	flipped := latest.Sign(p.key)
	flipped[100] ^= 1
	elder := *latest
	elder.Generation += 7
	for name, c := range map[string]struct {
		manifest []byte
		want     error
	}{
		"signed by nobody":          {latest.Encode(), hive.ErrSignature},
		"signed by another volume":  {foreign.Sign(other.key), hive.ErrSignature},
		"a flipped bit":             {flipped, hive.ErrSignature},
		"cut short":                 {latest.Sign(p.key)[:120], hive.ErrSignature},
		"empty":                     {nil, hive.ErrFormat},
		"not the one of this hash":  {elder.Sign(p.key), hive.ErrHash},
		"longer than a manifest is": {make([]byte, 1<<20), hive.ErrUnavailable},
		"a web page":                {[]byte("<html>" + strings.Repeat("welcome ", 100)), hive.ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			w.api.set(serveManifest(c.manifest))
			path, err := b.tryMount("vol", p.options("500ms"))
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), "vol") {
				t.Errorf("mounted at %q, %v; want %v", path, err, c.want)
			}
			if w.api.hits.Load() == 0 {
				t.Error("the forgery was never asked for")
			}
			if v, err := w.client().Volume(context.Background(), p.key.Public()); err != nil {
				t.Error(err)
			} else if v.Writer != nil {
				t.Errorf("who could not mount holds the volume: %s", v.Writer)
			}
			w.api.set(nil)
			readAll(t, b.mount("vol", p.options("500ms")), p.files)
			b.handOver("vol")
		})
	}
}

func TestMount_RefusesAnOlderGenerationThanSeen(t *testing.T) {
	w := newWorld(t)
	a := w.machine(t)
	dir := a.mount("vol", nil)
	write(t, dir, files(20))
	a.flush("vol")
	newer := files(21)
	write(t, dir, newer)
	a.flush("vol")
	a.handOver("vol")
	key := a.key("vol")
	all, err := w.client().All(context.Background(), key.Public())
	if err != nil || len(all) < 2 {
		t.Fatal(len(all), err)
	}
	hide := func(n int) fault {
		list := []hive.Hash{}
		for _, m := range all[:n] {
			list = append(list, m.Hash())
		}
		return func(r *http.Request) http.HandlerFunc {
			if !strings.HasSuffix(r.URL.Path, "/snapshots") {
				return nil
			}
			return func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(list) }
		}
	}
	for name, lie := range map[string]fault{
		"the newest is hidden": hide(len(all) - 1),
		"all are hidden":       hide(0),
		"the volume unknown":   func(*http.Request) http.HandlerFunc { return http.NotFound },
	} {
		t.Run(name, func(t *testing.T) {
			w.api.set(lie)
			defer w.api.set(nil)
			path, err := a.tryMount("vol", nil)
			if !errors.Is(err, volume.ErrRollback) {
				t.Errorf("mounted at %q, %v", path, err)
			}
		})
	}
	w.api.set(nil)
	readAll(t, a.mount("vol", nil), newer)
}

func TestMount_ManifestOfAnotherVolumesBlocksOpensNothing(t *testing.T) {
	w := newWorld(t)
	p, other := w.publish(t, 30), w.publish(t, 31)
	// Rightly signed and rightly stored, but what it names was sealed with another Secret.
	c := w.client()
	latest, err := c.Latest(context.Background(), p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	bad := *latest
	bad.Generation++
	bad.Machine = uuid.New()
	bad.Parent = &hive.Parent{Hash: latest.Hash()}
	bad.Size, bad.SizeTotal = 64, latest.SizeTotal+64
	bad.Data = "ipfs://" + other.root
	if _, err := c.Post(context.Background(), p.key.Public(), bad.Sign(p.key)); err != nil {
		t.Fatal(err)
	}
	b := w.machine(t)
	path, err := b.tryMount("vol", p.options("500ms"))
	if err == nil {
		entries, err := os.ReadDir(path)
		t.Fatalf("mounted; it shows %d names, %v", len(entries), err)
	}
	if !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), "vol") {
		t.Errorf("%v, want %v", err, seal.ErrOpen)
	}
}

func TestCreate_AWrongKeyShowsNothing(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 40)
	b := w.machine(t)
	ctx := context.Background()
	for _, text := range []string{"", "secret", p.text[1:], p.text + "A", "0x" + p.key.Public().String()} {
		err := b.Create(ctx, "vol", map[string]string{"privkey": text})
		if !errors.Is(err, volume.ErrOption) || (len(text) > 20 && strings.Contains(err.Error(), text)) {
			t.Errorf("a text of %d characters: %v", len(text), err)
		}
	}
	// A key of the right form that is not this volume's is another volume, and an empty one.
	k, err := seal.GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(b.mount("vol", map[string]string{"privkey": k.Reveal()}))
	if err != nil || len(entries) != 0 {
		t.Errorf("%d names, %v", len(entries), err)
	}
}

// hiveFaults are the ways in which the Hive can be out of order.
func hiveFaults() map[string]fault {
	return map[string]fault{"down": down, "status 500": status(500), "status 503": status(503), "no answer": hang}
}

func TestMount_WithTheHiveOutOfOrderFailsAndThenWorks(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 50)
	for name, fault := range hiveFaults() {
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			w.api.set(fault)
			begin := time.Now()
			path, err := b.tryMount("vol", p.options("500ms"))
			if !errors.Is(err, volume.ErrNotReady) {
				t.Errorf("mounted at %q, %v", path, err)
			}
			if took := time.Since(begin); took > 25*time.Second {
				t.Errorf("Docker would have given up: %v", took)
			}
			w.api.set(nil)
			readAll(t, b.mount("vol", p.options("500ms")), p.files)
			b.handOver("vol")
		})
	}
}

func TestMount_OfTheWriterNeedsNoHive(t *testing.T) {
	w := newWorld(t)
	a := w.machine(t)
	dir := a.mount("vol", nil)
	data := files(60)
	write(t, dir, data)
	w.api.set(down)
	data["new"] = []byte("written while the Hive is down")
	write(t, dir, map[string][]byte{"new": data["new"]})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := a.Flush(ctx, "vol", nil); err == nil {
		t.Error("flush says that all is published")
	}
	readAll(t, dir, data)
	w.api.set(nil)
	if s := a.flush("vol"); s.Generation == 0 {
		t.Errorf("not published: %+v", s)
	}
	p := published{text: a.key("vol").Reveal()}
	a.handOver("vol")
	readAll(t, w.machine(t).mount("vol", p.options("5s")), data)
}

func TestMount_WithTheBlockStoreOutOfOrderFailsOrWaitsAndThenWorks(t *testing.T) {
	w := newWorld(t)
	p := w.publish(t, 70)
	for name, fault := range blockFaults() {
		if name == "an earlier block again" { // there is no earlier one
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := w.machine(t)
			rule := w.blocks.Inject(faulty.Rule{Fault: fault})
			if name == "no answer" {
				time.AfterFunc(2*time.Second, rule.Lift)
			}
			path, err := b.tryMount("vol", p.options("500ms"))
			if err == nil && name != "no answer" {
				// A mount that needed no block is right only if its root fails.
				entries, err := os.ReadDir(path)
				if err == nil {
					t.Errorf("%d names of a root that could not be had", len(entries))
				}
			}
			if rule.Hits() == 0 {
				t.Error("the fault was never hit")
			}
			rule.Lift()
			readAll(t, b.mount("vol", p.options("500ms")), p.files)
			b.handOver("vol")
		})
	}
}

func TestFlush_PostsNoManifestWhileTheBlockStoreRefuses(t *testing.T) {
	w := newWorld(t)
	data := files(80)
	for name, f := range map[string]fault{
		"down": down, "status 500": status(500), "status 403": status(403),
		"no pins": func(r *http.Request) http.HandlerFunc {
			if !strings.Contains(r.URL.Path, "/pin/") {
				return nil
			}
			return status(500)(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.machine(t)
			write(t, a.mount("vol", nil), data)
			key := a.key("vol")
			w.rpc.set(f)
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if s, err := a.Flush(ctx, "vol", nil); err == nil {
				t.Errorf("flushed: %+v", s)
			}
			if w.rpc.hits.Load() == 0 {
				t.Error("the fault was never hit")
			}
			// The Hive may not know the volume yet; a manifest it must not have.
			list, err := w.client().Snapshots(context.Background(), key.Public(), nil, false)
			if (err != nil && !errors.Is(err, hive.ErrNotFound)) || len(list) != 0 {
				t.Errorf("%d manifests of blocks that nobody has, %v", len(list), err)
			}
			w.rpc.set(nil)
			p := published{text: key.Reveal(), root: a.flush("vol").Root}
			a.handOver("vol")
			readAll(t, w.machine(t).mount("vol", p.options("5s")), data)
		})
	}
}
