package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// oneThread asks from one thread until the server has nobody wait while it answers that one; then it runs do on the same thread.
func oneThread(w *world, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir := filepath.Join(w.mnt, "d")
	for end := time.Now().Add(time.Minute); ; {
		if err := errors.Join(unix.Mkdir(dir, 0o755), unix.Rmdir(dir)); err != nil {
			return err
		}
		w.server.mu.Lock()
		readers := w.server.readers
		w.server.mu.Unlock()
		if readers == 1 && w.server.streak.Load() >= aloneAfter && w.server.numbers.Load() > 0 {
			return do()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d readers answer one thread", readers)
		}
	}
}

// As long as one thread asks, one reader answers, and there is no other.
func TestServer_OneReaderForOneThread(t *testing.T) {
	w := newWorld(t)
	must(t, oneThread(w, func() error {
		before := w.server.numbers.Load()
		for i := range 50 {
			name := filepath.Join(w.mnt, fmt.Sprint("n", i))
			if err := errors.Join(unix.Mkdir(name, 0o755), unix.Rmdir(name)); err != nil {
				return err
			}
		}
		if n := w.server.numbers.Load() - before; n < 100 {
			return fmt.Errorf("%d requests were worked on alone", n)
		}
		return nil
	}))
}

// Answers may be as long as the kernel lets them be.
func TestServer_LongAnswers(t *testing.T) {
	w := newWorld(t)
	target := strings.Repeat("0123456789abcdef", unix.PathMax/16)[:unix.PathMax-1]
	must(t, os.Symlink(target, filepath.Join(w.mnt, "link")))
	if got := run(t, "readlink", filepath.Join(w.mnt, "link")); strings.TrimSuffix(got, "\n") != target {
		t.Errorf("a link of %d bytes has %d", len(target), len(got))
	}
	file := filepath.Join(w.mnt, "file")
	run(t, "dd", "if=/dev/urandom", "of="+file, "bs=2M", "count=1", "iflag=fullblock")
	read := run(t, "sh", "-c", `dd if="$0" bs=2M iflag=direct status=none | cksum; cksum < "$0"`, file)
	if f := strings.Fields(read); len(f) != 4 || f[0] != f[2] {
		t.Errorf("cksum of 2 MiB, read at once and otherwise: %q", read)
	}
	long := strings.Repeat("v", 8000)
	must(t, unix.Setxattr(file, "user.long", []byte(long), 0))
	for i := range 100 {
		must(t, unix.Setxattr(file, fmt.Sprintf("user.%0200d", i), nil, 0))
	}
	got := make([]byte, 16384)
	if n, err := unix.Getxattr(file, "user.long", got); err != nil || string(got[:n]) != long {
		t.Errorf("xattr of %d bytes: %d, %v", len(long), n, err)
	}
	list := make([]byte, 65536)
	if n, err := unix.Listxattr(file, list); err != nil || n < 100*206 {
		t.Errorf("names of xattrs: %d bytes, %v", n, err)
	}
}

// A request of which nobody expected that it takes its time holds up nobody else: here one that waits for the end of a snapshot.
func TestServer_OthersAreAnsweredWhileOneAloneTakesItsTime(t *testing.T) {
	w := newWorld(t)
	must(t, os.WriteFile(filepath.Join(w.src, "there"), []byte("x"), 0o644))
	must(t, os.Mkdir(filepath.Join(w.src, "in"), 0o755)) // the kernel itself lets nobody look into a directory that something is made in
	for i := range 10 {                                  // somebody else on this machine who looks at all mounts, as df does, may ask in between: then nothing is alone
		if waitsAlone(t, w, filepath.Join(w.mnt, "in", fmt.Sprint("waits", i))) {
			return
		}
	}
	t.Error("a request of one thread was never worked on alone")
}

// waitsAlone has dir made during a snapshot, by a thread that was the only one to ask. alone: so the request was worked on, and others were answered beside it.
func waitsAlone(t *testing.T, w *world, dir string) (alone bool) {
	ready, frozen, thaw, made := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		made <- oneThread(w, func() error {
			close(ready)
			<-frozen
			return unix.Mkdir(dir, 0o755)
		})
	}()
	select {
	case <-ready:
	case err := <-made:
		t.Fatal(err)
	}
	froze := make(chan error, 1)
	go func() { froze <- w.Freeze(func() error { close(frozen); <-thaw; return nil }) }()
	<-frozen
	// The lookups before it are over, and it waits: the number stays.
	for end := time.Now().Add(10 * time.Second); !alone && time.Now().Before(end); {
		n := w.server.alone.Load()
		time.Sleep(200 * time.Millisecond)
		alone = n != 0 && n == w.server.alone.Load()
	}
	if alone {
		looked := make(chan error, 1)
		go func() {
			var st unix.Stat_t
			looked <- unix.Lstat(filepath.Join(w.mnt, "there"), &st)
		}()
		select {
		case err := <-looked:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("a lookup waits for the end of a snapshot")
		}
	}
	if len(made) > 0 {
		t.Errorf("mkdir ended during a snapshot")
	}
	close(thaw) // whatever was wrong: a thread that waits for this process cannot be killed
	if err := errors.Join(<-made, <-froze); err != nil {
		t.Error(err)
	}
	return alone
}

// Threads that ask at the same time are answered at the same time, also where some wait for very long.
func TestServer_ManyWaitAtTheSameTime(t *testing.T) {
	const many = 40
	w := newWorld(t)
	frozen, thaw := make(chan struct{}), make(chan struct{})
	froze := make(chan error, 1)
	go func() { froze <- w.Freeze(func() error { close(frozen); <-thaw; return nil }) }()
	<-frozen
	errs, made := make(chan error, many), make(chan error, many)
	for i := range many {
		must(t, os.Mkdir(filepath.Join(w.src, fmt.Sprint("d", i)), 0o755))
	}
	for i := range many {
		go func() { made <- os.Mkdir(filepath.Join(w.mnt, fmt.Sprint("d", i), "d"), 0o755) }()
		go func() { _, err := os.Lstat(filepath.Join(w.mnt, fmt.Sprint("f", i))); errs <- err }()
	}
	for range many {
		select {
		case err := <-errs:
			if !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("lookups wait for the end of a snapshot")
		}
	}
	close(thaw)
	for range many {
		must(t, <-made)
	}
	must(t, <-froze)
	rooms.mu.Lock()
	defer rooms.mu.Unlock()
	if n := len(rooms.free); n > keptRooms {
		t.Errorf("%d MiB are kept for requests", n)
	}
}

// What the library cannot answer gets an answer all the same: nobody waits for ever.
func TestServer_AnswersWhatTheLibraryRefuses(t *testing.T) {
	w := newWorld(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	s := &server{f: w.FS, fd: pair[0], proto: fuse.NewProtocolServer(w.FS, w.mountOptions())}
	request := make([]byte, headerSize+32)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint32(request[headerOpcode:], opIoctl)
	binary.NativeEndian.PutUint64(request[8:], 4711)
	binary.NativeEndian.PutUint32(request[ioctlOutSize:], 1<<30)
	s.answer(new(reader), request)
	reply := make([]byte, 100)
	n, err := unix.Read(pair[1], reply)
	must(t, err)
	if code := int32(binary.NativeEndian.Uint32(reply[4:])); n != replyHeader || code != -int32(unix.EIO) || binary.NativeEndian.Uint64(reply[8:]) != 4711 {
		t.Errorf("%d bytes, error %d", n, code)
	}
}

// A process that removes very many files in a short time has only some of them kept open for a moment.
func TestVictims_AreFewAndSoonGone(t *testing.T) {
	w := newWorld(t)
	for i := range 2000 {
		must(t, os.WriteFile(filepath.Join(w.src, "f"+string(rune('0'+i%10))+strings.Repeat("x", i/10)), nil, 0o644))
	}
	names, err := os.ReadDir(w.src)
	must(t, err)
	for _, n := range names {
		must(t, os.Remove(filepath.Join(w.mnt, n.Name())))
		w.victims.mu.Lock()
		queued := len(w.victims.queue)
		w.victims.mu.Unlock()
		if queued > victimLimit {
			t.Fatalf("%d removed files are kept open", queued)
		}
	}
	waitFor(t, func() bool {
		w.victims.mu.Lock()
		defer w.victims.mu.Unlock()
		return len(w.victims.queue) == 0 && !w.victims.closing
	})
}
