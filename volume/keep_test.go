package volume

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// keeper has one mount of a process before this one, and calls dropped as it is given up.
type keeper struct {
	kept    []Kept
	dropped func(key string)
}

func (k *keeper) Kept() []Kept    { return k.kept }
func (k *keeper) Keep(Kept) error { return nil }
func (k *keeper) Outlives() bool  { return false }
func (k *keeper) Ready(error)     {}
func (k *keeper) Drop(key string) error {
	if k.dropped != nil {
		k.dropped(key)
	}
	return nil
}

var _ Keeper = (*keeper)(nil)

// A mount that goes on has its volume for itself until it is served again or given up, also where the volume's key is locked: else a mount, or a removal, could
// come between.
func TestOpen_KeptMountOfALockedVolumeHasItForItself(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, testPassphrase)
	dir := t.TempDir()
	at := func(o *Options, d *Deps) { o.Root, o.PassphraseFile = dir, file }
	w.bindPool(t, dir)
	a := w.machine("a", at)
	a.create("db")
	v, err := a.lookup("db")
	must(t, err)
	key := a.keptKey(v)
	a.vanish()
	must(t, os.Remove(file))

	r, wr, err := os.Pipe()
	must(t, err)
	b, err := json.Marshal(keptMount{Version: keptVersion, Path: filepath.Join(dir, "mnt", "db"), Minor: -1})
	must(t, err)
	k := &keeper{kept: []Kept{{Key: key, Data: b, Files: []*os.File{r, wr}}}}
	// The Manager that loads the pool only once it is known here.
	m, err := Open(context.Background(), Deps{Store: w.store, Hive: w.hive, Keep: k}, Options{Root: t.TempDir(), PassphraseFile: file, Interval: -1})
	must(t, err)
	m.o.Root, m.o.Mounts = dir, filepath.Join(dir, "mnt")
	var between error
	k.dropped = func(key string) {
		k.dropped = nil
		soon, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		between = m.Remove(soon, "db", true)
	}
	must(t, m.ready())
	defer func() { must(t, m.Close(ctx(t))) }()
	if k.dropped != nil {
		t.Fatal("the mount was not given up")
	}
	if !errors.Is(between, ErrBusy) {
		t.Errorf("a volume was removed while its mount was given up: %v", between)
	}
	must(t, m.Remove(ctx(t), "db", true)) // afterwards it may
}
