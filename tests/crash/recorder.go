package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const page = 4096

// disk is the content of a block device: its pages, nil where never written.
// A page that is in a disk is never changed, only replaced, so that disks can
// share pages.
type disk []*[page]byte

// write puts data, whole pages or parts of them, at off.
func (d disk) write(off uint64, data []byte) {
	for len(data) > 0 {
		i, at := off/page, off%page
		p := new([page]byte)
		if d[i] != nil && (at != 0 || len(data) < page) {
			*p = *d[i]
		}
		n := copy(p[at:], data)
		d[i] = p
		data, off = data[n:], off+uint64(n)
	}
}

func (d disk) read(off uint64, data []byte) {
	for len(data) > 0 {
		i, at := off/page, off%page
		n := min(len(data), page-int(at))
		if d[i] == nil {
			clear(data[:n])
		} else {
			copy(data[:n], d[i][at:])
		}
		data, off = data[n:], off+uint64(n)
	}
}

// entry is one request that reached the device: a write, or a flush where data is nil.
type entry struct {
	off  uint64
	data []byte
}

// recorder is a mounted FUSE file that stands for a disk: a loop device over
// it sends every write and flush of the file system here, and they are logged
// in the order in which they are done. The kernel's loop driver works off one
// request after the other, so a write that is logged before a flush was
// finished before the flush began.
type recorder struct {
	fuse.RawFileSystem
	dir    string
	server *fuse.Server
	done   chan struct{}

	mu  sync.Mutex
	now disk
	log []entry
}

const (
	recorderFile = "disk"
	recorderNode = 2
)

// newRecorder serves a copy of d as the file dir/disk; dir is made.
func newRecorder(dir string, d disk) (*recorder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	r := &recorder{RawFileSystem: fuse.NewDefaultRawFileSystem(), dir: dir, done: make(chan struct{}), now: append(disk{}, d...)}
	var err error
	r.server, err = fuse.NewServer(r, dir, &fuse.MountOptions{
		FsName: "crash-recorder", Name: "crash-recorder", DirectMountStrict: true, MaxWrite: 1 << 20,
		ExplicitDataCacheControl: true,
	})
	if err != nil {
		return nil, fmt.Errorf("mount recorder: %w", err)
	}
	go func() {
		defer close(r.done)
		r.server.Serve()
	}()
	return r, r.server.WaitMount()
}

func (r *recorder) path() string { return filepath.Join(r.dir, recorderFile) }

// close unmounts. The loop device must be gone.
func (r *recorder) close() error {
	var err error
	for range 3000 {
		if err = r.server.Unmount(); err == nil {
			<-r.done
			return os.Remove(r.dir)
		}
		time.Sleep(20 * time.Millisecond) // the loop device lets go a moment after its last close
	}
	return fmt.Errorf("unmount recorder: %w", err)
}

// at is how many entries have been logged: a moment that acknowledgements are ordered by.
func (r *recorder) at() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.log)
}

func (r *recorder) attr(out *fuse.Attr) {
	out.Ino = recorderNode
	out.Mode = fuse.S_IFREG | 0o600
	out.Size = uint64(len(r.now)) * page
	out.Blocks = out.Size / 512
	out.Nlink = 1
	out.Blksize = page
}

func (r *recorder) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != recorderFile {
		return fuse.ENOENT
	}
	out.NodeId = recorderNode
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	r.attr(&out.Attr)
	return fuse.OK
}

func (r *recorder) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(time.Hour)
	if in.NodeId == recorderNode {
		r.attr(&out.Attr)
		return fuse.OK
	}
	out.Mode, out.Ino, out.Nlink = fuse.S_IFDIR|0o700, 1, 2
	return fuse.OK
}

func (r *recorder) SetAttr(_ <-chan struct{}, _ *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	r.attr(&out.Attr)
	return fuse.OK
}

func (r *recorder) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (r *recorder) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (r *recorder) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (r *recorder) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	size := uint64(len(r.now)) * page
	if in.Offset >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	n := min(uint64(in.Size), uint64(len(buf)), size-in.Offset)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.read(in.Offset, buf[:n])
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (r *recorder) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if in.Offset+uint64(len(data)) > uint64(len(r.now))*page {
		return 0, fuse.Status(28) // ENOSPC
	}
	kept := append([]byte{}, data...)
	r.log = append(r.log, entry{off: in.Offset, data: kept})
	r.now.write(in.Offset, kept)
	return uint32(len(data)), fuse.OK
}

func (r *recorder) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, entry{})
	return fuse.OK
}
