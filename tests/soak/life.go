package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/plugin/control"

	"golang.org/x/sync/errgroup"
)

const (
	folders  = 40
	files    = 1200
	fileSize = 24 << 10
	bigSize  = 24 << 20
	work     = 3 * time.Second // of each shift
)

// content of file i, or of the big file for -1. It can be made again to compare.
func content(i, n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	rnd.Read(b) // never fails
	return b
}

func fileName(i int) string { return fmt.Sprintf("folder-%02d/file-%04d", i%folders, i) }

// soak lets a machine have lives until more says no, and returns what was noted: first before them.
func soak(ctx context.Context, dir, binary string, more func(lives int) bool) (notes []note, err error) {
	w, err := newWorld(ctx, dir, binary)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	key, err := w.publish(ctx)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	m, err := w.machine(ctx, "b")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	began := time.Now()
	first, err := ask(ctx, m.socket)
	if err != nil {
		return nil, err
	}
	notes = []note{first}
	for lives := 1; more(lives - 1); lives++ {
		if err := m.life(ctx, key, lives); err != nil {
			return notes, fmt.Errorf("life %d: %w", lives, err)
		}
		n, err := settle(ctx, m.socket, first, settleTime)
		if err != nil {
			return notes, err
		}
		n.at, n.lives = time.Since(began), lives
		notes = append(notes, n)
	}
	return notes, nil
}

// publish makes the volume on a machine of its own.
func (w *world) publish(ctx context.Context) (key string, err error) {
	m, err := w.machine(ctx, "a")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if _, err := m.api.Create(ctx, "v", nil); err != nil {
		return "", err
	}
	path, err := m.api.Mount(ctx, "v", "", nil)
	if err != nil {
		return "", err
	}
	for i := range folders {
		if err := os.Mkdir(fmt.Sprintf("%s/folder-%02d", path, i), 0o755); err != nil {
			return "", err
		}
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(path, fileName(i)), content(i, fileSize), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(path, "big"), content(-1, bigSize), 0o644); err != nil {
		return "", err
	}
	if _, err := m.api.Unmount(ctx, "v", control.UnmountRequest{Wait: true}, nil); err != nil {
		return "", err
	}
	return m.api.KeyExport(ctx, "v")
}

// life takes the volume, works on it in two shifts with a remount between, and gives it up.
func (m *machine) life(ctx context.Context, key string, n int) error {
	if _, err := m.api.Create(ctx, "v", map[string]string{"privkey": key, "takeover": "always"}); err != nil {
		return err
	}
	for shift := range 2 {
		path, err := m.api.Mount(ctx, "v", "", nil)
		if err != nil {
			return err
		}
		if err := m.shift(ctx, path, n, shift == 1); err != nil {
			return err
		}
		if _, err := m.api.Unmount(ctx, "v", control.UnmountRequest{Wait: true}, nil); err != nil {
			return err
		}
	}
	return m.api.Remove(ctx, "v", true)
}

// shift is some seconds of everything at once; whole: the rest is brought meanwhile.
func (m *machine) shift(ctx context.Context, path string, n int, whole bool) error {
	g, ctx := errgroup.WithContext(ctx)
	end := time.Now().Add(work)
	for i, job := range []func(path string, rnd *rand.Rand) error{readSmall, readBig, writeOwn, rename} {
		rnd := rand.New(rand.NewPCG(uint64(n), uint64(i)))
		g.Go(func() error {
			for time.Now().Before(end) && ctx.Err() == nil {
				if err := job(path, rnd); err != nil {
					return err
				}
				time.Sleep(time.Duration(rnd.IntN(4)) * time.Millisecond)
			}
			return nil
		})
	}
	g.Go(func() error {
		if whole {
			if _, err := m.api.Hydrate(ctx, "v", control.HydrateRequest{Wait: true}, nil); err != nil {
				return err
			}
		}
		_, err := m.api.Snapshot(ctx, "v", true, nil)
		return err
	})
	return g.Wait()
}

func readSmall(path string, rnd *rand.Rand) error {
	i := rnd.IntN(files)
	b, err := os.ReadFile(filepath.Join(path, fileName(i)))
	if err == nil && !bytes.Equal(b, content(i, fileSize)) {
		err = fmt.Errorf("%s is not what was written", fileName(i))
	}
	return err
}

var big = content(-1, bigSize)

func readBig(path string, rnd *rand.Rand) error {
	f, err := os.Open(filepath.Join(path, "big"))
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 128<<10)
	off := rnd.IntN(bigSize - len(b))
	if _, err := f.ReadAt(b, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(b, big[off:off+len(b)]) {
		return fmt.Errorf("big is not what was written at %d", off)
	}
	return nil
}

// writeOwn makes a file, syncs it, reads it and removes it.
func writeOwn(path string, rnd *rand.Rand) error {
	name := filepath.Join(path, fmt.Sprintf("own-%d", rnd.IntN(50)))
	want := content(rnd.IntN(1<<20), 1+rnd.IntN(200<<10))
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(want)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	b, err := os.ReadFile(name)
	if err == nil && !bytes.Equal(b, want) {
		err = fmt.Errorf("%s is not what was written", name)
	}
	return errors.Join(err, os.Remove(name))
}

// rename works on names alone: it makes a tree, moves it and takes it away, and lists everything.
func rename(path string, rnd *rand.Rand) error {
	dir := filepath.Join(path, fmt.Sprintf("dir-%d", rnd.IntN(20)))
	if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "a/b"), filepath.Join(dir, "moved")); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	seen := 0
	err := filepath.WalkDir(filepath.Join(path, fmt.Sprintf("folder-%02d", rnd.IntN(folders))), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen++
			_, err = d.Info()
		}
		return err
	})
	if err == nil && seen != files/folders {
		err = fmt.Errorf("a folder has %d files, want %d", seen, files/folders)
	}
	return err
}
