package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// image is one crash: a moment, and whether the writes that were on their way
// to the disk are lost by half.
type image struct {
	at   int
	lose bool
	seed uint64
}

// replay makes images of a log, which have to be asked for in the order of their moments.
type replay struct {
	base  disk // with everything up to the last flush before next
	log   []entry
	flush int // entries that base has
	next  int // entries that were looked at
}

// disk returns the device after a crash.
func (r *replay) disk(m image) disk {
	for ; r.next < m.at; r.next++ {
		if r.log[r.next].data != nil {
			continue
		}
		for ; r.flush <= r.next; r.flush++ {
			if e := r.log[r.flush]; e.data != nil {
				r.base.write(e.off, e.data)
			}
		}
	}
	d := append(disk{}, r.base...)
	random := rand.New(rand.NewPCG(m.seed, 1))
	for _, e := range r.log[r.flush:m.at] {
		for at := 0; at < len(e.data); at += page {
			if !m.lose || random.IntN(2) == 0 {
				d.write(e.off+uint64(at), e.data[at:min(at+page, len(e.data))])
			}
		}
	}
	return d
}

// examine mounts an image and checks it.
func (w *world) examine(d disk, v variant, c *checker) (err error) {
	dir, err := os.MkdirTemp(w.dir, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file, pool := filepath.Join(dir, "image"), filepath.Join(dir, "pool")
	if err := errors.Join(os.Mkdir(pool, 0o700), d.store(file)); err != nil {
		return err
	}
	dev, err := attach(file)
	if err != nil {
		return err
	}
	if err := dev.mount(pool, v.options); err != nil {
		c.problem("the file system does not mount: %v", err)
		return nil
	}
	c.path = filepath.Join(pool, volumeName)
	c.readLog = func() (*treeLog, error) { return readLog(dir, d) }
	if err := errors.Join(c.check(), unmount(pool)); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}
