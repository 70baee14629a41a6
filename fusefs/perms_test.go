package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	children["create"] = createChild
	children["unprivileged"] = unprivilegedChild
	children["swap"] = swapChild
}

// createChild makes one inode of each kind in args[0] under the umask args[1].
func createChild(args []string) error {
	var umask int
	fmt.Sscanf(args[1], "%o", &umask)
	unix.Umask(umask)
	in := func(s string) string { return filepath.Join(args[0], s) }
	fd, err := unix.Open(in("file"), unix.O_CREAT|unix.O_RDWR, 0o6777)
	if err != nil {
		return err
	}
	unix.Close(fd)
	for _, err := range []error{
		unix.Mkdir(in("dir"), 0o1777),
		unix.Mknod(in("fifo"), unix.S_IFIFO|0o666, 0),
		unix.Mknod(in("sock"), unix.S_IFSOCK|0o777, 0),
		unix.Mknod(in("reg"), unix.S_IFREG|0o2775, 0),
		unix.Symlink("x", in("link")),
	} {
		if err != nil {
			return err
		}
	}
	fd, err = unix.Open(args[0], unix.O_TMPFILE|unix.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, in("tmp"), unix.AT_SYMLINK_FOLLOW)
}

// as makes cmd run with these ids.
func as(cmd *exec.Cmd, uid, gid uint32, groups ...uint32) *exec.Cmd {
	cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	return cmd
}

// TestCreate_OwnersAndModesAsOnBtrfs makes inodes in directories of each sort, by root and others, under
// several umasks, and compares with plain BTRFS.
func TestCreate_OwnersAndModesAsOnBtrfs(t *testing.T) {
	w, plain := newWorld(t), newSubvolume(t)
	n := 0
	for _, dirMode := range []os.FileMode{0o777, 0o777 | os.ModeSetgid, 0o777 | os.ModeSticky} {
		for _, acl := range []string{"", "u:7:rwx,g::rx,o::-", "u::rw,g::r,o::r"} {
			for _, umask := range []string{"0", "002", "022", "077"} {
				for _, id := range [][]uint32{{0, 0}, {1000, 1000}, {1000, 1000, 50}, {0, 60}} {
					n++
					name := fmt.Sprint(n)
					for _, root := range []string{w.mnt, plain} {
						d := filepath.Join(root, name)
						must(t, os.Mkdir(d, 0o777))
						must(t, os.Chown(d, 5, 50))
						must(t, os.Chmod(d, dirMode))
						if acl != "" {
							run(t, "setfacl", "-d", "-m", acl, d)
						}
						if out, err := as(child("create", d, umask), id[0], id[1], id[2:]...).CombinedOutput(); err != nil {
							t.Fatalf("%v\n%s", err, out)
						}
					}
				}
			}
		}
	}
	list := func(root string) string {
		return run(t, "sh", "-c", fmt.Sprintf("cd %s && find . -mindepth 1 -printf '%%p %%y %%m %%U %%G\\n' | sort && getfacl -Rnp . | grep -v ^$", root))
	}
	a, b := strings.Split(list(w.mnt), "\n"), strings.Split(list(plain), "\n")
	if len(a) != len(b) || len(a) < n*7 {
		t.Fatalf("%d lines on the mount, %d on BTRFS", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("mount %s, BTRFS %s", a[i], b[i])
		}
	}
}

// unprivilegedChild does args[1] to the file args[0], which is already open for others.
func unprivilegedChild(args []string) error {
	flags := unix.O_RDWR
	if args[1] == "open" {
		flags |= unix.O_TRUNC
	}
	fd, err := unix.Open(args[0], flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch args[1] {
	case "write":
		_, err = unix.Pwrite(fd, []byte("new"), 1)
	case "ftruncate":
		err = unix.Ftruncate(fd, 3)
	case "truncate":
		err = unix.Truncate(args[0], 3)
	case "fallocate":
		err = unix.Fallocate(fd, 0, 0, 10000)
	case "punch":
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	case "chgrp":
		err = unix.Chown(args[0], -1, 2000)
	case "copy":
		var from, to int64 = 0, 20
		_, err = unix.CopyFileRange(fd, &from, fd, &to, 5, 0)
	}
	return err
}

// memberOf are the further groups of the users of the test: 3000 is in the group of the files.
var memberOf = map[uint32][]uint32{3000: {60, 2000}}

func TestSetuid_ClearedByOthersKeptByRoot(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for _, op := range []string{"write", "open", "ftruncate", "truncate", "fallocate", "punch", "copy"} {
			for _, uid := range []uint32{0, 1000, 3000} {
				for _, mode := range []uint32{0o6777, 0o4666, 0o2777, 0o2766, 0o2767} {
					group := 2000
					if mode == 0o2767 { // of root's own group, in which nobody else is
						group = 0
					}
					p := filepath.Join(dir, fmt.Sprintf("%s-%d-%o", op, uid, mode))
					must(t, os.WriteFile(p, make([]byte, 5000), 0o666))
					must(t, os.Chown(p, 2000, group))
					must(t, unix.Chmod(p, mode))
					must(t, unix.Setxattr(p, "security.capability", []byte{1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
					if out, err := as(child("unprivileged", p, op), uid, uid, memberOf[uid]...).CombinedOutput(); err != nil {
						t.Fatalf("%s: %v\n%s", p, err, out)
					}
					want := mode
					if uid != 0 {
						want &^= unix.S_ISUID
						if mode&unix.S_IXGRP != 0 || memberOf[uid] == nil || group == 0 {
							want &^= unix.S_ISGID
						}
					}
					var st unix.Stat_t
					must(t, unix.Stat(p, &st))
					if st.Mode&0o7777 != want {
						t.Errorf("%s by %d: mode %o became %o, want %o", op, uid, mode, st.Mode&0o7777, want)
					}
					if _, err := unix.Getxattr(p, "security.capability", nil); err != unix.ENODATA {
						t.Errorf("%s by %d: the file capability stayed (%v)", op, uid, err)
					}
				}
			}
		}
	})
}

// TestSetuid_AfterAChangeOfTheGroup : a setgid bit without the group's right to execute goes where the caller is not in the group.
func TestSetuid_AfterAChangeOfTheGroup(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for i, c := range []struct {
			uid        uint32
			groups     []uint32
			mode, want uint32
		}{
			{0, nil, 0o6766, 0o2766}, {0, nil, 0o6777, 0o777},
			{1000, nil, 0o6766, 0o766}, {1000, nil, 0o6777, 0o777},
			{1000, []uint32{60, 2000}, 0o6766, 0o2766}, {1000, []uint32{60, 2000}, 0o6777, 0o777},
		} {
			p := filepath.Join(dir, fmt.Sprint(i))
			must(t, os.WriteFile(p, make([]byte, 5000), 0o666))
			must(t, os.Chown(p, 1000, 2000))
			must(t, unix.Chmod(p, c.mode))
			if out, err := as(child("unprivileged", p, "chgrp"), c.uid, c.uid, c.groups...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", p, err, out)
			}
			var st unix.Stat_t
			must(t, unix.Stat(p, &st))
			if st.Mode&0o7777 != c.want {
				t.Errorf("by %d of %v: mode %o became %o, want %o", c.uid, c.groups, c.mode, st.Mode&0o7777, c.want)
			}
		}
	})
}

// TestSetuid_ClearedUnderPassthrough gets the bits set while the writer already has its passthrough handle.
func TestSetuid_ClearedUnderPassthrough(t *testing.T) {
	w := newWorld(t)
	p := filepath.Join(w.mnt, "f")
	f, err := os.Create(p)
	must(t, err)
	defer f.Close()
	must(t, unix.Chmod(p, 0o6777))
	_, err = f.Write([]byte("x"))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(p, &st))
	if w.magic && st.Mode&0o7777 != 0o777 {
		t.Errorf("mode %o after a passthrough write", st.Mode)
	}
}

func TestACL_EnforcedByTheKernel(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, []byte("x"), 0o600))
		read := func(uid uint32) error {
			return as(exec.Command("cat", p), uid, uid).Run()
		}
		if read(1234) == nil {
			t.Error("readable by anybody")
		}
		run(t, "setfacl", "-m", "u:1234:r", p)
		must(t, read(1234))
		if read(1235) == nil {
			t.Error("readable by somebody not in the ACL")
		}
		must(t, os.Chmod(p, 0o600)) // the mask
		if read(1234) == nil {
			t.Error("readable although masked")
		}
		// setgid goes when one outside the group sets an ACL.
		must(t, os.Chown(p, 1234, 50))
		must(t, unix.Chmod(p, 0o2755))
		if out, err := as(exec.Command("setfacl", "-m", "u:9:r", p), 1234, 1234).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		if st.Mode&unix.S_ISGID != 0 {
			t.Errorf("mode %o", st.Mode)
		}
	})
}

// swapChild creates files through args[0], while somebody swaps one of its
// directories for a symbolic link; errors are expected.
func swapChild(args []string) error {
	for end, i := time.Now().Add(2*time.Second), 0; time.Now().Before(end); i++ {
		p := filepath.Join(args[0], fmt.Sprint(i%50))
		if fd, err := unix.Open(p, unix.O_CREAT|unix.O_RDWR, 0o666); err == nil {
			unix.Close(fd)
		}
		unix.Mkdir(p+"d", 0o777)
		unix.Chmod(p, 0o777)
		unix.Truncate(p, 10)
		unix.Unlink(p)
	}
	return nil
}

func TestSymlinkSwap_NothingEscapes(t *testing.T) {
	w := newWorld(t)
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "0"), []byte("precious"), 0o600))
	must(t, os.Chmod(outside, 0o700))
	must(t, os.Mkdir(filepath.Join(w.mnt, "d"), 0o777))
	must(t, os.Chmod(filepath.Join(w.mnt, "d"), 0o777))
	must(t, os.Symlink(outside, filepath.Join(w.mnt, "l")))
	cmd := as(child("swap", filepath.Join(w.mnt, "d")), 1000, 1000)
	must(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	swaps := 0
	for running := true; running; swaps++ {
		select {
		case err := <-done:
			must(t, err)
			running = false
		default:
			must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.mnt, "d"), unix.AT_FDCWD, filepath.Join(w.mnt, "l"), unix.RENAME_EXCHANGE))
		}
	}
	list, err := os.ReadDir(outside)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(outside, "0"))
	must(t, err)
	if len(list) != 1 || string(b) != "precious" {
		t.Errorf("%d files outside after %d swaps; the first holds %q", len(list), swaps, b)
	}
}

func TestChown_ToNobodySetsTheCtime(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		var before, after unix.Stat_t
		must(t, unix.Stat(p, &before))
		time.Sleep(20 * time.Millisecond)
		must(t, unix.Chown(p, -1, -1))
		must(t, unix.Stat(p, &after))
		if before.Ctim == after.Ctim {
			t.Error("the ctime stayed")
		}
	})
}
