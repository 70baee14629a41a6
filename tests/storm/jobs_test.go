package storm

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// die kills the worker, and waits for the next one.
func (d *device) die() {
	d.t.Helper()
	before := len(d.pauses())
	pid := d.worker()
	if pid == 0 {
		d.t.Fatal("no worker runs")
	}
	kit.Must(d.t, syscall.Kill(pid, syscall.SIGKILL))
	d.wait("the next worker", func() error {
		if now := len(d.pauses()); now <= before {
			return fmt.Errorf("%d were ready", now)
		}
		return nil
	})
}

func (d *device) inspect(name string) (i volume.Info) {
	d.t.Helper()
	var out string
	d.wait("an answer", func() (err error) { // while the pool is opened there is none
		out, err = d.whole("volume", "inspect", name, "--json")
		return err
	})
	kit.Must(d.t, json.Unmarshal([]byte(out), &i))
	return i
}

func (d *device) whole(args ...string) (string, error) {
	out, err := exec.Command(d.bin, append([]string{"--socket", d.socket}, args...)...).Output()
	return string(out), err
}

// during starts a command, has the worker die once its volume is as it should be, and gives the command again until it is done. It
// returns how often it was given.
func (d *device) during(name string, is func(volume.Info) bool, args ...string) (given int) {
	d.t.Helper()
	done := make(chan error, 1)
	again := func() {
		given++
		go func() { _, err := d.whole(args...); done <- err }()
	}
	again()
	var err error
	ended := false
	d.wait(strings.Join(args, " ")+" to be under way", func() error {
		select {
		case err = <-done:
			ended = true
			return nil
		default:
		}
		if i := d.inspect(name); !is(i) {
			return fmt.Errorf("the volume is %s", i.State)
		}
		return nil
	})
	d.die()
	if !ended {
		err = <-done
	}
	for end := time.Now().Add(patience); err != nil; {
		if time.Now().After(end) {
			d.t.Fatalf("%v is never done: %v", args, err)
		}
		time.Sleep(20 * time.Millisecond)
		again()
		err = <-done
	}
	return given
}

// mountsAt counts the mounts at path.
func mountsAt(t *testing.T, path string) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	kit.Must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[4] == path {
			n++
		}
	}
	return n
}

func anyTime(volume.Info) bool {
	time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
	return true
}

// The worker dies while a mount, an unmount, a snapshot, an upload, a hydration are under way: what was asked for is done afterwards, once.
func TestStorm_JobsGoOnWithTheNextWorker(t *testing.T) {
	s := newStorm(t)
	hive, err := url.Parse(s.url)
	kit.Must(t, err)
	line, err := kit.NewRelay(hive.Host, kit.Link{RTT: 2 * time.Millisecond})
	kit.Must(t, err)
	t.Cleanup(func() { line.Close() })
	a := s.device("a", "http://"+line.Addr())
	a.run("volume", "create", "db")
	path := filepath.Join(a.root, "mnt", "db")

	// Mounts, each by another user of the volume, and the same one twice.
	var ids []string
	for i := range 4 {
		id := fmt.Sprintf("user%d", i)
		ids = append(ids, id)
		a.during("db", anyTime, "volume", "mount", "db", "--id", id)
		if got := a.inspect("db"); !slices.Equal(got.Mounts, ids) || got.Mountpoint != path || mountsAt(t, path) != 1 {
			t.Fatalf("mounted by %v at %q, %d mounts are there; want %v", got.Mounts, got.Mountpoint, mountsAt(t, path), ids)
		}
	}
	fill := func(name string, mib int) {
		t.Helper()
		if out, err := exec.Command("bash", "-ec", `head -c "$2"M /dev/urandom >"$1"; sync "$1"`, "-", filepath.Join(path, name), fmt.Sprint(mib)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}

	// A snapshot that is asked for, and its upload.
	fill("first", 6)
	line.Set(kit.Link{RTT: 2 * time.Millisecond, Up: 16e6})
	for range 2 {
		a.during("db", func(i volume.Info) bool { return i.UploadBytes > 0 || i.Unpublished > 0 }, "flush", "db")
	}
	if i := a.inspect("db"); i.Unpublished != 0 || i.UploadLag != nil && *i.UploadLag != 0 && i.Generation == 0 {
		t.Errorf("after the flush: %+v", i)
	}

	// Unmounts: the last one takes a snapshot and uploads it, through several deaths.
	fill("second", 4)
	sums, err := exec.Command("bash", "-ec", `cd "$1"; sha256sum *`, "-", path).Output()
	kit.Must(t, err)
	for len(ids) > 1 {
		a.during("db", anyTime, "volume", "umount", "db", "--id", ids[0])
		ids = ids[1:]
		if got := a.inspect("db"); !slices.Equal(got.Mounts, ids) || mountsAt(t, path) != 1 {
			t.Fatalf("mounted by %v, want %v", got.Mounts, ids)
		}
	}
	line.Set(kit.Link{RTT: 2 * time.Millisecond, Up: 8e6})
	umount := make(chan error, 1)
	go func() { _, err := a.whole("volume", "umount", "db", "--id", ids[0]); umount <- err }()
	a.wait("the last upload", func() error {
		if i := a.inspect("db"); i.State != volume.StateUploading {
			return fmt.Errorf("the volume is %s", i.State)
		}
		return nil
	})
	deaths := 0
	for ; deaths < 5 && a.inspect("db").State == volume.StateUploading; deaths++ {
		a.die()
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
	}
	<-umount // the worker that it had asked is dead
	if deaths < 2 {
		t.Errorf("%d deaths during the last upload, want more", deaths)
	}
	a.run("volume", "umount", "db", "--id", ids[0]) // given again, it has nothing to do
	line.Set(kit.Link{RTT: 2 * time.Millisecond})
	a.wait("the end of the upload", func() error {
		if i := a.inspect("db"); i.State != volume.StateUnmounted || i.Unpublished != 0 {
			return fmt.Errorf("%s, %d unpublished: %s", i.State, i.Unpublished, i.UploadError)
		}
		return nil
	})
	if i := a.inspect("db"); len(i.Mounts) != 0 || i.Mountpoint != "" || mountsAt(t, path) != 0 {
		t.Errorf("after the last unmount: %+v", i)
	}

	// Another machine gets the volume without taking it over, and its hydration goes on by itself.
	key := filepath.Join(s.dir, "key")
	kit.Must(t, os.WriteFile(key, []byte(a.run("key", "export", "db")), 0o600))
	line.Set(kit.Link{RTT: 2 * time.Millisecond, Down: 24e6})
	b := s.device("b", "http://"+line.Addr())
	b.run("volume", "create", "db", "-o", "privkey-file="+key)
	b.during("db", anyTime, "volume", "mount", "db")
	left := b.inspect("db").BytesRemote
	deaths = 0
	for b.inspect("db").State == volume.StateHydrating && deaths < 6 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		b.die()
		deaths++
		if now := b.inspect("db").BytesRemote; now > left {
			t.Errorf("%d bytes are remote after %d deaths, and were %d before", now, deaths, left)
		} else {
			left = now
		}
	}
	t.Logf("%d deaths during the hydration", deaths)
	line.Set(kit.Link{})
	b.wait("the end of the hydration", func() error {
		if i := b.inspect("db"); i.State != volume.StateComplete {
			return fmt.Errorf("%s, %d bytes are remote", i.State, i.BytesRemote)
		}
		return nil
	})
	got, err := exec.Command("bash", "-ec", `cd "$1"; sha256sum *`, "-", b.inspect("db").Mountpoint).Output()
	kit.Must(t, err)
	if string(got) != string(sums) {
		t.Errorf("the other machine has\n%s, want\n%s", got, sums)
	}
	b.run("verify", "db", "--all")
	b.run("volume", "umount", "db", "--wait", "3m")
	if i := b.inspect("db"); len(i.Mounts) != 0 || i.State != volume.StateUnmounted {
		t.Errorf("after the unmount: %+v", i)
	}
}
