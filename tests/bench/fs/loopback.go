package main

import (
	"context"
	"fmt"
	"log"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// loopbackNode is go-fuse's own with the kernel told to keep what it was given: listings, and pages from one open to the next.
type loopbackNode struct{ fs.LoopbackNode }

// OpendirHandle has the kernel keep the listing.
func (n *loopbackNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, _, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	return fh, fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE, errno
}

// Open has the kernel keep the pages; where it can it passes through anyway.
func (n *loopbackNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, _, errno := n.LoopbackNode.Open(ctx, flags)
	return fh, fuse.FOPEN_KEEP_CACHE, errno
}

// mountLoopback mounts the stock loopback of go-fuse over dir with every option that makes it faster.
func mountLoopback(dir, mountpoint string) (*mounted, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	root := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &loopbackNode{fs.LoopbackNode{RootData: r}}
	}
	root.RootNode = root.NewNode(root, nil, "", nil)
	day := 24 * time.Hour
	server, err := fs.Mount(mountpoint, root.RootNode, &fs.Options{
		EntryTimeout: &day, AttrTimeout: &day, NegativeTimeout: &day,
		Logger: log.Default(),
		MountOptions: fuse.MountOptions{
			AllowOther: true, Options: []string{"default_permissions"}, FsName: "loopback", Name: "loopback",
			MaxBackground: 64, MaxWrite: 1 << 20, DirectMountStrict: true, DirectMountFlags: unix.MS_MGC_VAL,
			EnableAcl: true, EnableSymlinkCaching: true, ExplicitDataCacheControl: true,
			ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	return &mounted{unmount: server.Unmount, wait: server.Wait}, nil
}
