package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func init() { children["keep"] = keepChild }

// keepChild serves args[0] at args[1]. Descriptor 3 is a socket to the test: a new mount is handed over there, or one that the test holds
// comes from there, as args[2] says. It kills itself in the operation args[3], which is executed by then and not answered.
func keepChild(args []string) error {
	file := os.NewFile(3, "socket")
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return err
	}
	conn := c.(*net.UnixConn)
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	tree, err := treeOf(fd)
	if err != nil {
		return err
	}
	opt := Options{Log: zerolog.New(os.Stderr)}
	opt.Observe = func(op string, _ time.Duration) {
		if op == args[3] {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	opt.HoldRemoved = func(ino uint64, dir *os.File) error { return sendRemoved(conn, ino, dir) }
	var res Residency = complete{}
	if len(args) > 4 {
		res = growing{}
	}
	if args[2] == "resume" {
		held, err := receiveHeld(conn)
		if err != nil {
			return err
		}
		f, err := Resume(tree, res, args[1], opt, held)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		f.Wait()
		return nil
	}
	opt.Hold = func(h Held) error { return sendHeld(conn, h) }
	f, err := Mount(tree, res, args[1], opt)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	f.Wait()
	return nil
}

// growing is a Residency that is never complete although nothing is remote.
type growing struct{ complete }

func (growing) Complete() bool                                       { return false }
func (growing) Fill(context.Context, uint64) error                   { return nil }
func (growing) Look(_ uint64, do func() error) error                 { return do() }
func (growing) Overlay(string, *unix.Statx_t) error                  { return nil }
func (growing) File(context.Context, uint64) (File, error)           { return nil, nil }
func (growing) Sync(_ context.Context, _ int, do func() error) error { return do() }

func sendHeld(c *net.UnixConn, h Held) error {
	b := append([]byte{byte(len(h.Init)), byte(len(h.Init) >> 8)}, h.Init...)
	fds := []int{int(h.Conn.Fd()), int(h.Table.Fd())}
	for _, dir := range h.Removed {
		fds = append(fds, int(dir.Fd()))
	}
	_, _, err := c.WriteMsgUnix(append(b, h.Reply...), unix.UnixRights(fds...), nil)
	return err
}

// sendRemoved tells the test of a removed directory that is in use, or, nil, no longer.
func sendRemoved(c *net.UnixConn, ino uint64, dir *os.File) error {
	var rights []byte
	if dir != nil {
		rights = unix.UnixRights(int(dir.Fd()))
	}
	_, _, err := c.WriteMsgUnix([]byte(fmt.Sprint(ino)), rights, nil)
	return err
}

// removed waits for what sendRemoved says.
func (k *kept) removed() (ino string, dir *os.File) {
	k.t.Helper()
	must(k.t, k.conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	b, oob := make([]byte, 64), make([]byte, 64)
	n, m, _, _, err := k.conn.ReadMsgUnix(b, oob)
	must(k.t, err)
	if m > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		must(k.t, err)
		fds, err := unix.ParseUnixRights(&msgs[0])
		must(k.t, err)
		unix.CloseOnExec(fds[0])
		dir = os.NewFile(uintptr(fds[0]), "removed directory")
	}
	return string(b[:n]), dir
}

func receiveHeld(c *net.UnixConn) (h Held, err error) {
	b, oob := make([]byte, 4096), make([]byte, 1024)
	n, m, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return h, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(msgs) != 1 {
		return h, fmt.Errorf("no descriptors: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) < 2 {
		return h, fmt.Errorf("%d descriptors: %v", len(fds), err)
	}
	for _, fd := range fds[2:] {
		h.Removed = append(h.Removed, os.NewFile(uintptr(fd), "removed directory"))
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	size := int(b[0]) | int(b[1])<<8
	h.Conn, h.Table, h.Init, h.Reply = os.NewFile(uintptr(fds[0]), "conn"), os.NewFile(uintptr(fds[1]), "table"), b[2:2+size], b[2+size:n]
	return h, nil
}

// kept is a mount that outlives the processes that serve it.
type kept struct {
	t        testing.TB
	src, mnt string
	args     []string
	held     Held
	conn     *net.UnixConn // to the process that serves
	cmd      *exec.Cmd
	log      *bytes.Buffer
}

func keep(t testing.TB, args ...string) *kept {
	t.Helper()
	k := &kept{t: t, src: newSubvolume(t), args: args, log: new(bytes.Buffer)}
	mnt, err := os.MkdirTemp("", "fusefs-kept-")
	must(t, err)
	k.mnt = mnt
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount: %v", err)
			unix.Unmount(mnt, unix.MNT_DETACH)
		}
		k.held.Conn.Close()
		k.held.Table.Close()
		for _, dir := range k.held.Removed {
			dir.Close()
		}
		k.conn.Close()
		k.cmd.Process.Kill()
		k.cmd.Wait()
		os.Remove(mnt)
		if t.Failed() {
			t.Logf("log of the servers:\n%s", k.log)
		}
	})
	return k
}

// serve starts the first process, or the next one. It dies in the operation die.
func (k *kept) serve(die string) {
	k.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(k.t, err)
	theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
	c, err := net.FileConn(ours)
	ours.Close()
	must(k.t, err)
	if k.conn != nil {
		k.conn.Close()
	}
	k.conn = c.(*net.UnixConn)
	how := "mount"
	if k.held.Conn != nil {
		how = "resume"
		must(k.t, sendHeld(k.conn, k.held))
	}
	k.cmd = child("keep", append([]string{k.src, k.mnt, how, die}, k.args...)...)
	k.cmd.ExtraFiles = []*os.File{theirs}
	k.cmd.Stderr = k.log
	out, err := k.cmd.StdoutPipe()
	must(k.t, err)
	must(k.t, k.cmd.Start())
	theirs.Close()
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
		k.t.Fatalf("server says %q: %v\n%s", line, err, k.log)
	}
	if how == "mount" {
		k.held, err = receiveHeld(k.conn)
		must(k.t, err)
	}
}

func (k *kept) kill() {
	k.t.Helper()
	must(k.t, k.cmd.Process.Kill())
	k.cmd.Wait()
}

// during runs do, in which the server dies in op, and then serves on.
func (k *kept) during(op string, do func() error) {
	k.t.Helper()
	k.kill()
	k.serve(op)
	done := make(chan error, 1)
	go func() { done <- do() }()
	gone := make(chan error, 1)
	go func() { gone <- k.cmd.Wait() }()
	select {
	case <-gone:
	case err := <-done:
		k.t.Fatalf("%s was answered (%v) before the server died", op, err)
	case <-time.After(30 * time.Second):
		k.t.Fatalf("the server did not die in %s", op)
	}
	k.serve("")
	select {
	case err := <-done:
		if err != nil {
			k.t.Errorf("%s: %v", op, err)
		}
	case <-time.After(30 * time.Second):
		k.t.Fatalf("%s was never answered", op)
	}
}

func (k *kept) path(name string) string { return filepath.Join(k.mnt, name) }

func content(t testing.TB, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if string(b) != want {
		t.Errorf("%s holds %q, want %q", path, b, want)
	}
}

// Each operation is executed by a process that dies before it answers, and once more by the next one.
func TestResume_EachChangeIsDoneOnce(t *testing.T) {
	k := keep(t)
	k.serve("")
	k.during("mkdir", func() error { return unix.Mkdir(k.path("dir"), 0o777) })
	k.during("mknod", func() error { return unix.Mknod(k.path("node"), unix.S_IFCHR|0o600, int(unix.Mkdev(7, 300))) })
	k.during("symlink", func() error { return os.Symlink("target", k.path("link")) })
	k.during("create", func() error { return os.WriteFile(k.path("file"), []byte("content"), 0o666) })
	k.during("create", func() error {
		f, err := os.OpenFile(k.path("lock"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			f.Close()
		}
		return err
	})
	k.during("link", func() error { return os.Link(k.path("file"), k.path("hard")) })
	k.during("rename", func() error { return os.Rename(k.path("hard"), k.path("dir/moved")) })
	k.during("unlink", func() error { return os.Remove(k.path("node")) })
	k.during("rmdir", func() error {
		if err := os.Mkdir(k.path("empty"), 0o700); err != nil {
			return err
		}
		return unix.Rmdir(k.path("empty"))
	})
	content(t, k.path("dir/moved"), "content")
	for _, gone := range []string{"hard", "node", "empty"} {
		if _, err := os.Lstat(k.path(gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	st, err := os.Stat(k.path("file"))
	must(t, err)
	if n := st.Sys().(*syscall.Stat_t).Nlink; n != 2 {
		t.Errorf("%d names of file", n)
	}

	must(t, os.WriteFile(k.path("a"), []byte("a"), 0o600))
	must(t, os.WriteFile(k.path("b"), []byte("b"), 0o600))
	at := func(flags uint) func() error {
		return func() error { return unix.Renameat2(unix.AT_FDCWD, k.path("a"), unix.AT_FDCWD, k.path("b"), flags) }
	}
	k.during("rename", at(unix.RENAME_EXCHANGE))
	content(t, k.path("a"), "b")
	content(t, k.path("b"), "a")
	k.during("rename", at(unix.RENAME_WHITEOUT))
	content(t, k.path("b"), "b")
	if st, err := os.Lstat(k.path("a")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("no whiteout: %v, %v", st, err)
	}
	must(t, os.Remove(k.path("a")))
	must(t, os.WriteFile(k.path("c"), []byte("c"), 0o600))
	k.during("rename", func() error {
		return unix.Renameat2(unix.AT_FDCWD, k.path("c"), unix.AT_FDCWD, k.path("d"), unix.RENAME_NOREPLACE)
	})
	content(t, k.path("d"), "c")

	k.during("setxattr", func() error { return unix.Setxattr(k.path("d"), "user.x", []byte("1"), unix.XATTR_CREATE) })
	wantErr(t, "a second creation", unix.Setxattr(k.path("d"), "user.x", []byte("1"), unix.XATTR_CREATE), unix.EEXIST)
	k.during("removexattr", func() error { return unix.Removexattr(k.path("d"), "user.x") })
	wantErr(t, "a second removal", unix.Removexattr(k.path("d"), "user.x"), unix.ENODATA)
	k.during("setattr", func() error { return os.Chmod(k.path("d"), 0o640) })
	k.during("open", func() error {
		fd, err := unix.Open(k.path("d"), unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	content(t, k.path("d"), "")
}

// An answer that is an error stays one in a replay: what fails is not taken for done.
func TestResume_AFailureIsNotTakenForDone(t *testing.T) {
	k := keep(t)
	k.serve("")
	must(t, os.WriteFile(k.path("f"), []byte("x"), 0o600))
	must(t, unix.Setxattr(k.path("f"), "user.x", []byte("1"), 0))
	fails := func(op string, want error, do func() error) {
		t.Helper()
		k.during(op, func() error {
			if err := do(); !errors.Is(err, want) {
				return fmt.Errorf("got %v, want %v", err, want)
			}
			return nil
		})
	}
	fails("setxattr", unix.EEXIST, func() error { return unix.Setxattr(k.path("f"), "user.x", []byte("1"), unix.XATTR_CREATE) })
	fails("removexattr", unix.ENODATA, func() error { return unix.Removexattr(k.path("f"), "user.y") })
	must(t, os.MkdirAll(k.path("full/x"), 0o700))
	fails("rmdir", unix.ENOTEMPTY, func() error { return unix.Rmdir(k.path("full")) })
}

// Handles of every mode, on files with and without a name, go on.
func TestResume_OpenFilesGoOn(t *testing.T) {
	for _, how := range []string{"passthrough", "cached"} {
		t.Run(how, func(t *testing.T) {
			k := keep(t)
			k.serve("")
			user, next := k.user("hold-files", how)
			// BTRFS may forget inodes that nobody holds.
			for range 2 {
				k.kill()
				must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
				k.serve("")
			}
			next()
			if err := user.Wait(); err != nil {
				t.Errorf("%v: %s", err, user.Stderr)
			}
			// What was closed is let go of: its space comes back.
			waitFor(t, func() bool { return openHandles(t, k) == 0 })
		})
	}
}

// user starts children[name] on the mount and waits until it says "ready". next lets it go on.
func (k *kept) user(name string, args ...string) (cmd *exec.Cmd, next func()) {
	k.t.Helper()
	cmd = child(name, append([]string{k.mnt}, args...)...)
	cmd.Stderr = new(bytes.Buffer)
	in, err := cmd.StdinPipe()
	must(k.t, err)
	out, err := cmd.StdoutPipe()
	must(k.t, err)
	must(k.t, cmd.Start())
	k.t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		b, _ := io.ReadAll(out)
		cmd.Wait()
		k.t.Fatalf("%s: %v: %s %s", name, err, b, cmd.Stderr)
	}
	go io.Copy(io.Discard, out)
	return cmd, func() { in.Close() }
}

func init() { children["hold-files"] = holdFiles }

// holdFiles opens files below args[0], says "ready", waits for the end of its input, and uses them again. It never uses epoll on them.
func holdFiles(args []string) (err error) {
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	at := func(name string) string { return filepath.Join(args[0], name) }
	mode := uint32(0o644)
	if args[1] == "cached" {
		mode |= unix.S_ISUID // a writer of such a file is not passed through
	}
	fds := map[string]int{}
	for _, name := range []string{"named", "unlinked", "replaced"} {
		if err := os.WriteFile(at(name), []byte("0123456789"), 0o644); err != nil {
			return err
		}
		if err := unix.Chmod(at(name), mode); err != nil {
			return err
		}
		fd, err := unix.Open(at(name), unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		fds[name] = fd
	}
	temp, err := unix.Open(args[0], unix.O_TMPFILE|unix.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	_, werr := unix.Pwrite(temp, []byte("temporary"), 0)
	dir, derr := os.Open(args[0])
	if err := errors.Join(werr, derr, os.Remove(at("unlinked")), os.WriteFile(at("new"), []byte("new"), 0o644), os.Rename(at("new"), at("replaced")),
		unix.Flock(fds["named"], unix.LOCK_EX)); err != nil {
		return err
	}
	if _, err := dir.Readdirnames(1); err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)

	for name, fd := range fds {
		b := make([]byte, 20)
		if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != "0123456789" {
			return fmt.Errorf("%s: read %q: %v", name, b[:max(n, 0)], err)
		}
		if _, err := unix.Pwrite(fd, []byte("more"), 10); err != nil {
			return fmt.Errorf("%s: write: %w", name, err)
		}
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("%s: fsync: %w", name, err)
		}
		if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != "0123456789more" {
			return fmt.Errorf("%s: read back %q: %v", name, b[:max(n, 0)], err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("%s: stat: %w", name, err)
		}
		if want := map[string]uint64{"named": 1}[name]; uint64(st.Nlink) != want {
			return fmt.Errorf("%s: %d names, want %d", name, st.Nlink, want)
		}
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", temp), unix.AT_FDCWD, at("kept"), unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("name for a temporary file: %w", err)
	}
	if b, err := os.ReadFile(at("kept")); err != nil || string(b) != "temporary" {
		return fmt.Errorf("temporary file: %q: %v", b, err)
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) == 0 {
		return fmt.Errorf("rest of the directory: %q: %v", names, err)
	}
	other, err := unix.Open(at("named"), unix.O_RDWR, 0) // beside the open one
	if err != nil {
		return fmt.Errorf("open beside: %w", err)
	}
	if err := unix.Flock(other, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		return fmt.Errorf("a second lock: %v", err)
	}
	if b, err := os.ReadFile(at("replaced")); err != nil || string(b) != "new" {
		return fmt.Errorf("new file in the place of an open one: %q: %v", b, err)
	}
	return nil
}

// openHandles is how many handles the table has.
func openHandles(t testing.TB, k *kept) (n int) {
	t.Helper()
	table, err := openTable(k.held.Table)
	must(t, err)
	defer table.close()
	table.each(func(uint64, slot) { n++ })
	return n
}

// A write to an append-only file that was executed and not answered is not appended twice.
func TestResume_AppendsOnce(t *testing.T) {
	k := keep(t, "growing")
	k.serve("")
	path := k.path("log")
	must(t, os.WriteFile(path, []byte("begin\n"), 0o644))
	run(t, "chattr", "+a", filepath.Join(k.src, "log"))
	defer run(t, "chattr", "-a", filepath.Join(k.src, "log"))
	// O_DSYNC on a volume that is not complete is not passed through.
	for range 3 {
		k.during("write", func() error {
			out, err := child("append", path).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		})
	}
	content(t, path, "begin\nline\nline\nline\n")
}

func init() { children["append"] = appendChild }

func appendChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_WRONLY|unix.O_APPEND|unix.O_DSYNC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("line\n"))
	return err
}

// Under load, killed at any moment: no error, no file lost, nothing twice.
func TestResume_KilledAtRandom(t *testing.T) {
	k := keep(t)
	k.serve("")
	var users []*exec.Cmd
	var stop []func()
	for w := range 3 {
		cmd, next := k.user("churn", fmt.Sprintf("w%d", w))
		users, stop = append(users, cmd), append(stop, next)
	}
	for i := range 25 {
		time.Sleep(time.Duration(3+i*7%40) * time.Millisecond)
		k.kill()
		k.serve("")
	}
	for i, next := range stop {
		next()
		if err := users[i].Wait(); err != nil {
			t.Errorf("user %d: %v: %s", i, err, users[i].Stderr)
		}
	}
}

func init() { children["churn"] = churnChild }

// churnChild works below args[0]/args[1] until its input ends, two rounds at least.
func churnChild(args []string) error {
	var over atomic.Bool
	go func() { io.Copy(io.Discard, os.Stdin); over.Store(true) }()
	fmt.Println("ready")
	for i := 0; i < 2 || !over.Load(); i++ {
		if err := churn(filepath.Join(args[0], args[1]), i); err != nil {
			fmt.Fprintf(os.Stderr, "round %d: %v\n", i, err)
			return err
		}
	}
	return nil
}

// churn makes, changes and removes files below dir, and checks each step.
func churn(dir string, i int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	want := strings.Repeat(fmt.Sprintf("round %d\n", i), 500)
	f, err := os.OpenFile(at("new"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(want); err != nil {
		return err
	}
	if err := os.Link(at("new"), at("hard")); err != nil {
		return err
	}
	if err := os.Rename(at("new"), at("final")); err != nil {
		return err
	}
	if err := os.Mkdir(at("d"), 0o700); err != nil {
		return err
	}
	if err := os.Rename(at("hard"), at("d/hard")); err != nil {
		return err
	}
	if err := os.Symlink("final", at("s")); err != nil {
		return err
	}
	b, err := os.ReadFile(at("s"))
	if err != nil {
		return err
	}
	if string(b) != want {
		return fmt.Errorf("read %d bytes, want %d", len(b), len(want))
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 3 {
		return fmt.Errorf("%d names: %v", len(names), err)
	}
	for _, name := range []string{"final", "d/hard", "d", "s"} {
		if err := os.Remove(at(name)); err != nil {
			return err
		}
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != want {
		return fmt.Errorf("the file without a name: %v", err)
	}
	return nil
}

func TestReplays_ListEveryRequestThatIsAnswered(t *testing.T) {
	listed := map[string]bool{}
	for _, r := range replays {
		if listed[r.name] || r.why == "" {
			t.Errorf("%s is listed twice, or without a reason", r.name)
		}
		listed[r.name] = true
	}
	for _, o := range operations {
		if o.method != "" && o.name != "INIT" && !listed[o.name] {
			t.Errorf("%s: nothing says what a replay of it does", o.name)
		}
		delete(listed, o.name)
	}
	for name := range listed {
		t.Errorf("%s is no operation", name)
	}
}
