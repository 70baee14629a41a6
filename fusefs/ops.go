package fusefs

// operation is one request of the FUSE protocol (linux/fuse.h, version 7.45).
type operation struct {
	name   string
	method string // of FS; empty where the request is not ours to answer
	reason string // why it is left out, or what is special
}

// operations lists every request that the protocol has. A test holds it against the code.
var operations = []operation{
	// names.go
	{"LOOKUP", "Lookup", ""},
	{"FORGET", "Forget", "nothing is remembered: a node id is the inode number"},
	{"BATCH_FORGET", "Forget", "split by the protocol library"},
	{"READLINK", "Readlink", ""},
	{"MKNOD", "Mknod", ""},
	{"MKDIR", "Mkdir", ""},
	{"SYMLINK", "Symlink", ""},
	{"LINK", "Link", ""},
	{"UNLINK", "Unlink", ""},
	{"RMDIR", "Rmdir", ""},
	{"RENAME", "Rename", ""},
	{"RENAME2", "Rename", "EXCHANGE, NOREPLACE, WHITEOUT"},

	// attr.go, setattr.go
	{"GETATTR", "GetAttr", ""},
	{"STATX", "Statx", "for the birth time"},
	{"SETATTR", "SetAttr", ""},

	// xattr.go
	{"GETXATTR", "GetXAttr", ""},
	{"LISTXATTR", "ListXAttr", ""},
	{"SETXATTR", "SetXAttr", ""},
	{"REMOVEXATTR", "RemoveXAttr", ""},

	// file.go, io.go
	{"OPEN", "Open", ""},
	{"CREATE", "Create", ""},
	{"TMPFILE", "Tmpfile", ""},
	{"RELEASE", "Release", ""},
	{"READ", "Read", "not for passthrough handles: the kernel reads the backing file"},
	{"WRITE", "Write", "not for passthrough handles: the kernel writes the backing file"},
	{"LSEEK", "Lseek", "SEEK_DATA and SEEK_HOLE only; the kernel does the others"},
	{"FALLOCATE", "Fallocate", ""},
	{"COPY_FILE_RANGE", "CopyFileRange", ""},
	{"FSYNC", "Fsync", ""},
	{"FSYNCDIR", "FsyncDir", ""},

	// dir.go
	{"OPENDIR", "OpenDir", "answered ENOSYS once: listings name the directory itself"},
	{"READDIR", "ReadDir", ""},
	{"READDIRPLUS", "ReadDirPlus", ""},
	{"RELEASEDIR", "", "nothing is open, so nothing is released"},

	// statfs.go, ioctl.go, fs.go
	{"STATFS", "StatFs", ""},
	{"IOCTL", "Ioctl", "only FS_IOC_GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR: as root, any other could do what its caller may not"},
	{"INIT", "", "the protocol library answers from mountOptions; connect.go"},

	// Answered by the protocol library.
	{"DESTROY", "", "block devices only; serve cleans up when the connection ends"},
	{"INTERRUPT", "", "closes the cancel channel of a request; call.go decides whether it ends"},
	{"NOTIFY_REPLY", "", "the answer to a retrieval from the page cache, which we never ask for"},

	// Left out.
	{"ACCESS", "", "default_permissions: the kernel checks by itself, ACLs included"},
	{"FLUSH", "", "there is nothing to do at close: no writeback cache, locks are the kernel's; ENOSYS makes the kernel stop asking"},
	{"GETLK", "", "locks are kept by the kernel: one machine mounts a volume"},
	{"SETLK", "", "as GETLK"},
	{"SETLKW", "", "as GETLK"},
	{"POLL", "", "regular files are always ready; the kernel says so after one ENOSYS"},
	{"BMAP", "", "block devices only"},
	{"SYNCFS", "", "the kernel sends it to virtiofs only: syncfs(2) on the mount flushes the kernel's pages, not BTRFS; sync(2) reaches BTRFS as well"},
	{"SETUPMAPPING", "", "virtiofs DAX only"},
	{"REMOVEMAPPING", "", "virtiofs DAX only"},
	{"COPY_FILE_RANGE_64", "", "the protocol library answers ENOSYS, and the kernel falls back to COPY_FILE_RANGE"},
}

// Without a request of its own, so out of reach: FICLONE and FIDEDUPERANGE (EOPNOTSUPP;
// copy_file_range shares extents instead), swap files, FS_IOC_FIEMAP, leases of backing files.
