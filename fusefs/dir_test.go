package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type dirent struct {
	name string
	off  int64
}

// getdents reads about max names from fd.
func getdents(t *testing.T, fd int, size int) []dirent {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	must(t, err)
	var all []dirent
	for b := buf[:n]; len(b) > 0; {
		l := binary.NativeEndian.Uint16(b[16:])
		name := b[19:l]
		for i := range name {
			if name[i] == 0 {
				name = name[:i]
				break
			}
		}
		all = append(all, dirent{string(name), int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[l:]
	}
	return all
}

func TestReadDir_TwentyThousandWithRewindsAndDeletions(t *testing.T) {
	w := newWorld(t)
	const total = 20000
	must(t, os.Mkdir(filepath.Join(w.src, "d"), 0o755))
	for i := range total {
		must(t, os.WriteFile(filepath.Join(w.src, "d", fmt.Sprintf("name-%05d", i)), nil, 0o644))
	}
	dir := filepath.Join(w.mnt, "d")
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	readAll := func(each func(i int, e dirent)) map[string]int {
		seen := map[string]int{}
		for i := 0; ; {
			list := getdents(t, fd, 8000)
			if len(list) == 0 {
				return seen
			}
			for _, e := range list {
				seen[e.name]++
				each(i, e)
				i++
			}
		}
	}
	// Cookies lead back to the name after theirs, from anywhere.
	var order []dirent
	seen := readAll(func(i int, e dirent) { order = append(order, e) })
	if len(seen) != total+2 {
		t.Fatalf("%d names, want %d", len(seen), total+2)
	}
	for _, i := range []int{15000, 3, 9999, 0, total, 777} {
		_, err := unix.Seek(fd, order[i].off, 0)
		must(t, err)
		if got := getdents(t, fd, 400); len(got) == 0 || got[0].name != order[i+1].name {
			t.Errorf("cookie of %s leads to %v, want %s", order[i].name, got, order[i+1].name)
		}
	}
	// Every second name goes while the directory is read; the others have to come once.
	_, err = unix.Seek(fd, 0, 0)
	must(t, err)
	gone := map[string]bool{}
	seen = readAll(func(i int, e dirent) {
		if e.name != "." && e.name != ".." && i%2 == 0 {
			must(t, os.Remove(filepath.Join(dir, e.name)))
			gone[e.name] = true
		}
	})
	for i := range total {
		name := fmt.Sprintf("name-%05d", i)
		if n := seen[name]; n != 1 && !(n == 0 && gone[name]) {
			t.Errorf("%s came %d times", name, n)
		}
	}
	// What is made after opendir comes after rewinddir.
	must(t, os.WriteFile(filepath.Join(dir, "late"), nil, 0o644))
	_, err = unix.Seek(fd, 0, 0)
	must(t, err)
	seen = readAll(func(int, dirent) {})
	if len(seen) != total+2-len(gone)+1 || seen["late"] != 1 {
		t.Errorf("%d names after rewinddir, want %d", len(seen), total+2-len(gone)+1)
	}
}

func TestReadDir_RemovedDirectoryIsEmpty(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		d := filepath.Join(dir, "d")
		must(t, os.Mkdir(d, 0o755))
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Rmdir(d))
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		_, err = unix.Openat(fd, "x", unix.O_CREAT|unix.O_RDWR, 0o644)
		wantErr(t, "create in a removed directory", err, unix.ENOENT)
	})
}

func TestRemoved_StaysWhileItIsOpen(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		d := filepath.Join(dir, "d")
		must(t, os.Mkdir(d, 0o755))
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Rmdir(d))
		p := filepath.Join(dir, "fifo")
		must(t, unix.Mkfifo(p, 0o644))
		fifo, err := unix.Open(p, unix.O_RDWR|unix.O_NONBLOCK, 0)
		must(t, err)
		defer unix.Close(fifo)
		must(t, unix.Unlink(p))
		time.Sleep(victimKeep + victimKeep/2) // longer than what loses its name is kept anyway
		for _, fd := range []int{fd, fifo} {
			var st unix.Stat_t
			must(t, unix.Fstat(fd, &st))
			if st.Nlink != 0 {
				t.Errorf("what was removed has %d links, mode %o", st.Nlink, st.Mode)
			}
			must(t, unix.Fchmod(fd, 0o700))
		}
		must(t, unix.Fsync(fd))
	})
}

func TestDirs_FewStayOpenAndNoneThatIsRemoved(t *testing.T) {
	w := newWorld(t)
	const many = 3 * dirLimit
	for i := range many {
		must(t, os.MkdirAll(filepath.Join(w.mnt, fmt.Sprint(i), "in"), 0o755))
		must(t, os.WriteFile(filepath.Join(w.mnt, fmt.Sprint(i), "file"), nil, 0o644))
		must(t, os.Symlink("file", filepath.Join(w.mnt, fmt.Sprint(i), "link")))
	}
	w.FS.dirs.mu.Lock()
	open := len(w.FS.dirs.byIno)
	w.FS.dirs.mu.Unlock()
	if open == 0 || open > dirLimit {
		t.Errorf("%d directories are open, want some and at most %d", open, dirLimit)
	}
	for i := range many {
		must(t, os.RemoveAll(filepath.Join(w.mnt, fmt.Sprint(i))))
	}
	end := time.Now().Add(30 * time.Second)
	for {
		w.FS.dirs.mu.Lock()
		open = len(w.FS.dirs.byIno)
		w.FS.dirs.mu.Unlock()
		w.FS.gone.mu.Lock()
		kept := len(w.FS.gone.kept)
		w.FS.gone.mu.Unlock()
		if open <= 1 && kept == 0 { // the root
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d directories are open and %d kept after all were removed", open, kept)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestCreate_SeesADefaultACLThatCameLater(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		d := filepath.Join(dir, "d")
		must(t, os.Mkdir(d, 0o755))
		// Where the directory has a default ACL the umask does not count.
		has := func(name string) bool {
			p := filepath.Join(d, name)
			defer unix.Umask(unix.Umask(0o022))
			must(t, os.WriteFile(p, nil, 0o666))
			var st unix.Stat_t
			must(t, unix.Stat(p, &st))
			_, err := unix.Getxattr(p, "system.posix_acl_access", nil)
			if masked := st.Mode&0o020 == 0; masked == (err == nil) {
				t.Errorf("%s: mode %o, ACL %v", name, st.Mode, err)
			}
			return err == nil
		}
		if has("before") {
			t.Error("a file has an ACL before its directory has one")
		}
		out, err := exec.Command("setfacl", "-d", "-m", "u:1234:rw,g::rw", d).CombinedOutput()
		if err != nil {
			t.Fatalf("setfacl: %v: %s", err, out)
		}
		if !has("after") {
			t.Error("a file did not get the default ACL that its directory had got")
		}
		if out, err := exec.Command("setfacl", "-k", d).CombinedOutput(); err != nil {
			t.Fatalf("setfacl: %v: %s", err, out)
		}
		if has("later") {
			t.Error("a file got a default ACL that was taken away")
		}
	})
}

func TestFileHandle_OpensWhatTheKernelForgot(t *testing.T) {
	w := newWorld(t)
	must(t, os.MkdirAll(filepath.Join(w.mnt, "a", "b"), 0o755))
	p := filepath.Join(w.mnt, "a", "b", "f")
	must(t, os.WriteFile(p, []byte("content"), 0o644))
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, p, 0)
	must(t, err)
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
	root, err := unix.Open(w.mnt, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(root)
	fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
	must(t, err)
	buf := make([]byte, 10)
	n, err := unix.Pread(fd, buf, 0)
	unix.Close(fd)
	must(t, err)
	if string(buf[:n]) != "content" {
		t.Errorf("read %q", buf[:n])
	}
	// The kernel announces the close when it gets to it.
	waitFor(t, func() bool {
		w.nodes.mu.Lock()
		defer w.nodes.mu.Unlock()
		return len(w.nodes.byIno) == 0
	})
	must(t, os.Remove(p))
	fd, err = unix.OpenByHandleAt(root, h, unix.O_RDONLY)
	wantErr(t, "handle of a removed file", err, unix.ESTALE)
	if err == nil {
		unix.Close(fd)
	}
}

// TestOpen_WhileReplacedByRename is what a program does that reads a file which another replaces: no open may fail.
func TestOpen_WhileReplacedByRename(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "conf")
		must(t, os.WriteFile(p, []byte("0"), 0o644))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := os.WriteFile(p+".new", []byte(fmt.Sprint(i)), 0o644); err != nil {
					t.Error(err)
					return
				}
				if err := os.Rename(p+".new", p); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for i := range 3000 {
			if b, err := os.ReadFile(p); err != nil || len(b) == 0 {
				t.Errorf("read %d: %q, %v", i, b, err)
				break
			}
		}
		close(stop)
		wg.Wait()
	})
}
