package wire

import "github.com/ipfs/go-cid"

// Bounds that every decoder enforces and every encoder keeps.
const (
	Sector       = 4096      // granule of data ranges, bytes
	MinChunk     = 64 << 10  // bytes
	MaxChunk     = 512 << 10 // bytes; a sealed chunk stays below 1 MiB even if it does not compress
	DefChunk     = 256 << 10 // bytes
	MaxPack      = 512 << 10 // bytes of opened content in a pack
	MaxPacked    = 64 << 10  // a piece of at most this many bytes goes into a pack
	MaxPatch     = 64 << 10  // bytes of a window that come from its patch
	MaxName      = 255       // bytes in a name
	MaxTarget    = 4095      // bytes in a symlink's target
	MaxXattrs    = 256       // extended attributes of one inode
	MaxXattr     = 64 << 10  // bytes in one value
	MaxInline    = 4         // windows that stand in the entry itself
	MaxXattrName = 255       // bytes in an attribute's name
	IndexFanout  = 1024      // windows or children in one index node of a file
	MaxPage      = 512       // entries in a page of a directory
	MaxEntry     = 512 << 10 // Weight of one entry
	PageWeight   = 256 << 10 // Weight of a page's entries in all, where it has more than one
	MaxChildren  = 512       // children of an index node of a directory
	MaxTrace     = 16384     // links in a trace
	MaxFileSize  = 1<<63 - 1 // bytes
	MaxDepth     = 8         // levels of index nodes
	MaxLinks     = 16384     // links in one node
	MaxPayload   = 768 << 10 // bytes of a node's payload, before compression
	MaxBlock     = 1 << 20   // bytes of any block
)

// Time is a point in time: seconds since 1970 and nanoseconds below 1e9.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Xattr is one extended attribute; ACLs and file capabilities are xattrs too.
type Xattr struct {
	Name  string
	Value []byte
}

// Attr is what an inode carries besides its content. Access, change and birth
// times are not part of a snapshot: reading or restoring would change them,
// and with them every block above.
type Attr struct {
	Mode   uint32 // st_mode: type and permission bits
	UID    uint32
	GID    uint32
	Rdev   uint64 // devices: unix.Mkdev(major, minor)
	Mtime  Time
	Flags  uint32  // FS_*_FL bits of KeptFlags
	Xattrs []Xattr // ascending by name; no trusted.fractal.*
}

// Inode flags (FS_IOC_GETFLAGS) that survive; see linux/fs.h.
const (
	FlagCompress   = 0x00000004
	FlagSync       = 0x00000008
	FlagImmutable  = 0x00000010
	FlagAppend     = 0x00000020
	FlagNodump     = 0x00000040
	FlagNoatime    = 0x00000080
	FlagNoCompress = 0x00000400
	FlagDirSync    = 0x00010000
	FlagNoCOW      = 0x00800000
	KeptFlags      = FlagCompress | FlagSync | FlagImmutable | FlagAppend | FlagNodump | FlagNoatime | FlagNoCompress | FlagDirSync | FlagNoCOW
)

// Range is a run of bytes.
type Range struct{ Off, Len uint64 }

// Window is the content of file bytes [Index*ChunkSize, (Index+1)*ChunkSize),
// cut at the file's size. Its data ranges stand one behind the other in an
// opened KindData block, from Off on; where Patch is set, some of them do not. A window without data is not listed.
type Window struct {
	Index uint64
	Block cid.Cid
	Off   uint32  // in the opened block; not 0 only in packs
	Data  []Range // relative to the window's start, ascending, not touching, sector-aligned but for an end at the file's size; nil: the whole window
	Patch *Patch  // nil: all of it is in Block
}

// Patch is what of a window does not come from its Block: what changed since that was written.
type Patch struct {
	Block cid.Cid
	Off   uint32   // in the opened block
	Data  []Range  // as in Window, at least one, MaxPatch bytes at most: these stand in this Block, one behind the other, also where Base has them
	Base  []Range  // as in Window: these stand in the window's own Block; nil: all of the window's data. With Data they are just the window's data
	Sum   [16]byte // BLAKE2b-128 of all of the window's data, one range behind the other
}

// Content says where a regular file's bytes are. What no window's data range covers is a hole and reads as zeros.
type Content struct {
	Size      uint64
	ChunkSize uint32   // a power of two, MinChunk to MaxChunk
	Data      uint64   // bytes in data ranges, in all
	Windows   []Window // where Depth is 0: ascending, at most MaxInline
	Index     cid.Cid  // where Depth > 0: the index node; its leaves list windows of IndexFanout consecutive indexes each
	Depth     uint8
}

// DirRef names a directory's content and what lies below it.
type DirRef struct {
	Node  cid.Cid // KindDir page where Depth is 0, KindDirIndex above
	Depth uint8
	Files uint64 // names of regular files in the subtree
	Dirs  uint64 // directories in the subtree, without this one
	Bytes uint64 // Content.Data of those files, in all
}

// Entry is one name of a directory with the inode behind it.
type Entry struct {
	Name string // raw bytes, 1 to MaxName, no '/' or NUL, not "." or ".."
	Attr
	Target  string   // symlinks
	Link    uint64   // not 0 where the inode has several names: equal in all of them, in this snapshot
	Nlink   uint32   // names of the inode, 1 unless Link is set
	Content *Content // regular files
	Dir     *DirRef  // directories
}

// Root is what a snapshot's root CID leads to. It holds nothing that changes while the tree does not.
type Root struct {
	Features  uint64 // must all be known to the reader, else it refuses
	ChunkSize uint32 // of new files
	Attr             // of the root directory
	Dir       DirRef
	Trace     cid.Cid // recorded working set; may be undefined
}

// DirChild is one child of a directory's index node: a page, or the index node
// one level below.
type DirChild struct {
	First string // the first name in or below it
	Node  cid.Cid
	Files uint64 // as in DirRef, of the names in or below it
	Dirs  uint64 // directories in or below it
	Bytes uint64
}

// FileChild is one child of a file's index node.
type FileChild struct {
	First uint64 // the first window index that it covers
	Node  cid.Cid
}

// FileIndex is an index node of a file: Windows in a leaf, Children above.
type FileIndex struct {
	Windows  []Window
	Children []FileChild
}

// Trace is a recorded working set: blocks of file content, and nodes, in the
// order of their first use. A block stands in it once.
type Trace struct {
	Blocks []cid.Cid // 1 to MaxTrace
}
