package failover

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// recordSize is that of one record: a sector, so that a record is there as a whole or not.
const recordSize = 4096

// record number n: the number, filling, and a checksum.
func record(n uint64) []byte {
	b := make([]byte, recordSize)
	for i := 0; i < recordSize; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n*0x9e3779b97f4a7c15+uint64(i))
	}
	binary.LittleEndian.PutUint64(b, n)
	binary.LittleEndian.PutUint32(b[recordSize-4:], crc32.ChecksumIEEE(b[:recordSize-4]))
	return b
}

// number of the record b; 0 where it is none.
func number(b []byte) uint64 {
	if len(b) != recordSize || crc32.ChecksumIEEE(b[:recordSize-4]) != binary.LittleEndian.Uint32(b[recordSize-4:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// durable is one way in which applications make data durable. write returns
// when record n is; last finds the newest record in what is under dir.
type durable struct {
	name  string
	write func(dir string, n uint64) error
	last  func(dir string) (uint64, error)
	done  atomic.Uint64 // the newest record whose write returned
}

func inFile(dir, name string, flags int, n uint64, at int64, sync func(f *os.File) error) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(record(n), at); err != nil {
		return err
	}
	return sync(f)
}

// lastOfLog is the number of the last whole record of a log, all before which have to be there.
func lastOfLog(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var n uint64
	for ; len(b) >= recordSize; b = b[recordSize:] {
		if number(b[:recordSize]) != n+1 {
			return n, nil
		}
		n++
	}
	return n, nil
}

func lastOfFile(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return number(b), nil
}

func ways() []*durable {
	fdatasync := func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
	return []*durable{
		{name: "append and fsync",
			write: func(dir string, n uint64) error {
				return inFile(dir, "log", 0, n, int64(n-1)*recordSize, (*os.File).Sync)
			},
			last: func(dir string) (uint64, error) { return lastOfLog(dir + "/log") }},
		{name: "overwrite and fdatasync",
			write: func(dir string, n uint64) error { return inFile(dir, "page", 0, n, 0, fdatasync) },
			last:  func(dir string) (uint64, error) { return lastOfFile(dir + "/page") }},
		{name: "O_DSYNC",
			write: func(dir string, n uint64) error {
				return inFile(dir, "dsync", unix.O_DSYNC, n, int64(n-1)*recordSize, func(*os.File) error { return nil })
			},
			last: func(dir string) (uint64, error) { return lastOfLog(dir + "/dsync") }},
		{name: "O_DIRECT and fsync",
			write: func(dir string, n uint64) error {
				f, err := os.OpenFile(dir+"/direct", os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
				if err != nil {
					return err
				}
				defer f.Close()
				b, err := unix.Mmap(-1, 0, recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
				if err != nil {
					return err
				}
				defer unix.Munmap(b)
				copy(b, record(n))
				if _, err := f.WriteAt(b, int64(n-1)*recordSize); err != nil {
					return err
				}
				return f.Sync()
			},
			last: func(dir string) (uint64, error) { return lastOfLog(dir + "/direct") }},
		{name: "mmap and msync",
			write: func(dir string, n uint64) error {
				f, err := os.OpenFile(dir+"/mapped", os.O_RDWR|os.O_CREATE, 0o644)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := f.Truncate(int64(n) * recordSize); err != nil {
					return err
				}
				m, err := unix.Mmap(int(f.Fd()), 0, int(n)*recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err != nil {
					return err
				}
				defer unix.Munmap(m)
				copy(m[(n-1)*recordSize:], record(n))
				return unix.Msync(m, unix.MS_SYNC)
			},
			last: func(dir string) (uint64, error) { return lastOfLog(dir + "/mapped") }},
		{name: "write, fsync, rename, fsync of the folder",
			write: func(dir string, n uint64) error {
				if err := inFile(dir, "new", os.O_TRUNC, n, 0, (*os.File).Sync); err != nil {
					return err
				}
				if err := os.Rename(dir+"/new", dir+"/renamed"); err != nil {
					return err
				}
				d, err := os.Open(dir)
				if err != nil {
					return err
				}
				defer d.Close()
				return d.Sync()
			},
			last: func(dir string) (uint64, error) { return lastOfFile(dir + "/renamed") }},
	}
}

// What an application had made durable before a flush began is on the machine
// that takes over; what it made durable until the daemon was killed is on the
// machine itself. And no file is ahead of the log that was written before it.
func TestFailover_FsyncedBeforeTheSnapshotIsThere(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v")
	all := ways()
	var wg sync.WaitGroup
	var killed atomic.Bool
	defer wg.Wait()
	defer killed.Store(true)
	for i, d := range all {
		dir := fmt.Sprintf("%s/%d", mount, i)
		kit.Must(t, os.Mkdir(dir, 0o755))
		wg.Go(func() {
			for n := uint64(1); !killed.Load(); n++ {
				if err := d.write(dir, n); err != nil {
					if !killed.Load() {
						t.Errorf("%s: record %d: %v", d.name, n, err)
					}
					return
				}
				d.done.Store(n)
			}
		})
	}
	// A database: each record goes to the log, which is made durable, and then to the table, which is not.
	var logged atomic.Uint64
	kit.Must(t, os.Mkdir(mount+"/db", 0o755))
	wg.Go(func() {
		none := func(*os.File) error { return nil }
		for n := uint64(1); !killed.Load(); n++ {
			err := inFile(mount+"/db", "log", 0, n, int64(n-1)*recordSize, (*os.File).Sync)
			if err == nil {
				logged.Store(n)
				err = inFile(mount+"/db", "table", 0, n, 0, none)
			}
			if err != nil {
				if !killed.Load() {
					t.Errorf("database: record %d: %v", n, err)
				}
				return
			}
		}
	})

	promised := make([]uint64, len(all))
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		for i, d := range all {
			promised[i] = d.done.Load()
		}
		a.flush("v")
	}
	promisedLog := logged.Load()
	killed.Store(true)
	data := a.data("v")
	kept := make([]uint64, len(all))
	for i, d := range all {
		kept[i] = d.done.Load()
	}
	a.daemon.Kill9()
	wg.Wait()
	for i, d := range all {
		if n, err := d.last(fmt.Sprintf("%s/%d", data, i)); err != nil || n < kept[i] {
			t.Errorf("A itself, %s: %d of %d records are there, %v", d.name, n, kept[i], err)
		}
	}
	a.clear()

	b := w.device("b", w.url)
	b.create("v", key, "takeover=always")
	mount = b.mount("v")
	for i, d := range all {
		n, err := d.last(fmt.Sprintf("%s/%d", mount, i))
		t.Logf("%s: %d records before the last flush, %d on B, %d on A", d.name, promised[i], n, kept[i])
		if err != nil || n < promised[i] {
			t.Errorf("B, %s: %d of %d records are there, %v", d.name, n, promised[i], err)
		}
		if promised[i] == 0 {
			t.Errorf("%s: nothing was written before the flush", d.name)
		}
	}
	log, err := lastOfLog(mount + "/db/log")
	kit.Must(t, err)
	table, err := lastOfFile(mount + "/db/table")
	kit.Must(t, err)
	if table > log || table == 0 {
		t.Errorf("the table has record %d, the log ends with %d", table, log)
	}
	if log > promisedLog+1 {
		t.Errorf("the log on B has %d records, %d were written", log, promisedLog)
	}
}
