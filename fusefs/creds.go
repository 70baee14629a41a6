package fusefs

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity is what this process is, read once: the capabilities of its threads and its umask.
type identity struct {
	caps  [2]unix.CapUserData
	umask uint32
}

func capHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

func loadIdentity() (identity, error) {
	var id identity
	if err := unix.Capget(capHeader(), &id.caps[0]); err != nil {
		return id, fmt.Errorf("read capabilities: %w", err)
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return id, fmt.Errorf("read umask: %w", err)
	}
	mask, err := strconv.ParseUint(string(statusField(b, "Umask:")), 8, 32)
	if err != nil {
		return id, fmt.Errorf("read umask: %w", err)
	}
	id.umask = uint32(mask)
	return id, nil
}

// as runs do, which makes an inode, on a thread whose file system user and group are uid and gid,
// so that BTRFS itself decides on the owner: the group of a setgid directory is inherited, its bit
// too by directories, and no moment exists in which the inode belongs to root.
//
// The kernel has checked the caller's permission with all of its groups, which we do not know; so the capabilities that the
// change of the user takes away are raised again. It has also taken the setgid bit from the mode of those
// who may not have it; with CAP_FSETID BTRFS takes nothing more.
func (f *FS) as(uid, gid uint32, do func() error) error {
	if uid == 0 && gid == 0 {
		return do()
	}
	if uid == ^uint32(0) || gid == ^uint32(0) {
		return unix.EOVERFLOW // not mapped into our user name space; the system call would ignore it
	}
	runtime.LockOSThread()
	unix.SetfsgidRetGid(int(gid))
	unix.SetfsuidRetUid(int(uid))
	caps := f.ident.caps
	err := unix.Capset(capHeader(), &caps[0])
	if err == nil {
		err = do()
	}
	unix.SetfsuidRetUid(0)
	unix.SetfsgidRetGid(0)
	if cerr := unix.Capset(capHeader(), &caps[0]); cerr != nil {
		// A thread that is not as before is not given back: it ends with this goroutine.
		return cerr
	}
	runtime.UnlockOSThread()
	return err
}

// plain runs do on a thread without CAP_FSETID, so that the kernel clears the setuid and setgid
// bits of a file that do writes, as it does for an ordinary user, one of group gid.
func (f *FS) plain(gid uint32, do func() error) error {
	runtime.LockOSThread()
	caps := f.ident.caps
	caps[0].Effective &^= 1 << unix.CAP_FSETID
	if err := unix.Capset(capHeader(), &caps[0]); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	unix.SetfsgidRetGid(int(gid))
	err := do()
	unix.SetfsgidRetGid(0)
	caps = f.ident.caps
	if cerr := unix.Capset(capHeader(), &caps[0]); cerr != nil {
		return cerr // the thread stays locked, and ends with this goroutine
	}
	runtime.UnlockOSThread()
	return err
}

const suidBits = unix.S_ISUID | unix.S_ISGID

// nobody is a group that is not the file's: root's would be a member of group root.
const nobody = 65534

// maybePlain runs do, which changes the content of fd: as plain where the kernel asked for the bits to be cleared and there are any.
// A setgid bit without group execution stays for a member of the group.
func (f *FS) maybePlain(c *call, kill bool, fd int, do func() error) error {
	var st unix.Stat_t
	if !kill || unix.Fstat(fd, &st) == nil && st.Mode&suidBits == 0 {
		return do()
	}
	gid := uint32(nobody)
	if st.Gid == nobody {
		gid = 0
	}
	if st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID && c.inGroup(st.Gid) {
		gid = st.Gid
	}
	return f.plain(gid, do)
}

// inGroup reports whether the caller is a member of group gid. Of one that cannot be seen, only the first group is known.
func (c *call) inGroup(gid uint32) bool {
	if c.gid == gid {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		return false
	}
	for g := range strings.FieldsSeq(string(statusField(b, "Groups:"))) {
		if g == strconv.FormatUint(uint64(gid), 10) {
			return true
		}
	}
	return false
}

// keepsSuid reports whether a change of fd by thread pid leaves setuid and setgid bits alone. Operations
// that carry no flag for it (fallocate, copy_file_range) ask here. The caller is looked at
// only where the file has such bits; one that cannot be seen has no privilege.
func keepsSuid(fd int, pid uint32) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&suidBits == 0 {
		return true
	}
	if pid == 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && statusMask(b, "CapEff:")&(1<<unix.CAP_FSETID) != 0
}

// masked returns the mode to create with in the directory d, and the bits
// to add afterwards. The caller's umask counts unless the directory has a default ACL, which BTRFS
// then applies itself. This process's own umask, which belongs to all of its
// threads, cannot be set for one call; what it takes away too much is given back.
func (f *FS) masked(d *dirHandle, mode, umask uint32) (create, add uint32) {
	if f.hasDefaultACL(d) {
		return mode, 0
	}
	mode &^= umask & 0o777
	return mode, mode & f.ident.umask & 0o777
}

const defaultACL = "system.posix_acl_default"

// hasDefaultACL looks once: the kernel lets nobody create in a directory while its ACL is changed, which SetXAttr and
// RemoveXAttr note. Filling sets ACLs too, but ends before a volume is complete.
func (f *FS) hasDefaultACL(d *dirHandle) bool {
	if d.noACL.Load() {
		return false
	}
	complete := f.res.Complete()
	n, err := unix.Fgetxattr(d.fd, defaultACL, nil)
	d.noACL.Store(complete && err == unix.ENODATA)
	return err == nil && n > 0
}

// addMode gives name in dirfd the permission bits add on top of those it has.
func addMode(dirfd int, name string, add uint32) error {
	if add == 0 {
		return nil
	}
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return addModeFD(fd, add)
}

func addModeFD(fd int, add uint32) error {
	if add == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return unix.Chmod(procPath(fd), st.Mode&0o7777|add)
}

// finishMode gives name in directory ino the permission bits that a crash kept from it.
func (f *FS) finishMode(ino uint64, name string, mode, umask uint32) error {
	d, err := f.openDir(ino)
	if err != nil {
		return err
	}
	defer d.release()
	_, add := f.masked(d, mode, umask)
	return f.change(func() error { return addMode(d.fd, name, add) })
}
