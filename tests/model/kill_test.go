package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

const (
	attributeKills = 12
	fetchedFile    = 24 << 20
)

// TestKill_WhileFetchingKeepsTheAttributes kills the serving process while it fetches into a file that an application has changed. Each write of a fetch moves the
// file's time and takes its capabilities away; what they were must not die with the process.
func TestKill_WhileFetchingKeepsTheAttributes(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	w, err := newWorld(dir)
	kit.Must(t, err)
	r := rand.New(rand.NewPCG(7, uint64(os.Getpid())))
	s := &sequence{history: &history{}, w: w, t: &totals{states: map[string]int{}, kinds: map[string]int{}}, r: r, state: "remote"}
	kit.Must(t, s.on(fetchedTree, func(snap string) error {
		if err := s.volume(true, snap); err != nil {
			return err
		}
		for _, o := range []op{
			{Kind: "open", Path: "f", H: 1, Flags: unix.O_RDWR}, {Kind: "pwrite", H: 1, Off: 100, N: 5000, Seed: 9}, {Kind: "close", H: 1},
			{Kind: "setxattr", Path: "f", To: "security.capability", Mode: 1024}, {Kind: "utimes", Path: "f", Off: 1_234_567_890, N: 987_654_321},
		} {
			if err := s.perform(&o); err != nil {
				return err
			}
		}
		for i := range attributeKills {
			if err := s.killWhileReading("f"); err != nil {
				return err
			}
			for _, o := range []op{{Kind: "stat", Path: "f"}, {Kind: "getxattr", Path: "f", To: "security.capability", N: 100}} {
				if err := s.perform(&o); err != nil {
					return fmt.Errorf("after %d kills: %w", i+1, err)
				}
			}
			p, perr := xattrs(proc(s.plain.root) + "/f")
			m, merr := xattrs(proc(s.mount.root) + "/f")
			if p != m || perr != nil || merr != nil {
				return fmt.Errorf("after %d kills: xattrs are %q, plain %q: %w", i+1, m, p, errors.Join(perr, merr))
			}
		}
		return s.c.everything()
	}))
	kit.Must(t, w.close())
	kit.NoLeaks(t, dir)
}

// killWhileReading reads the file on the mount, kills the serving process meanwhile, and has another one serve.
func (s *sequence) killWhileReading(name string) error {
	fd, err := unix.Openat(s.mount.root, name, unix.O_RDONLY|openAlways, 0)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer unix.Close(fd)
		b := make([]byte, 256<<10)
		for off := int64(0); off < fetchedFile; off += int64(len(b)) {
			if _, err := unix.Pread(fd, b, off); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	time.Sleep(time.Duration(s.r.IntN(60)) * time.Millisecond) // whenever: each moment has to be right
	s.t.kills++
	if err := s.srv.kill(); err != nil {
		return err
	}
	if err := <-done; err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		return fmt.Errorf("read: %w", err)
	}
	return s.again()
}

// fetchedTree is one file, of some hundred windows.
func fetchedTree(root string) ([]string, error) {
	b := make([]byte, fetchedFile)
	noise(5, b)
	return nil, os.WriteFile(filepath.Join(root, "f"), b, 0o755)
}
