package failover

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// reader is a process that reads a file.
type reader struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	errs bytes.Buffer
	done chan error
}

func startReader(t *testing.T, path string) *reader {
	t.Helper()
	r := &reader{cmd: exec.Command("cat", path), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	kit.Must(t, r.cmd.Start())
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() { r.cmd.Process.Kill() })
	return r
}

// waits fails the test where the reader ends within d.
func (r *reader) waits(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case err := <-r.done:
		t.Fatalf("the reader ended: %v, %d bytes, %s", err, r.out.Len(), r.errs.String())
	case <-time.After(d):
	}
}

func (r *reader) ends(t *testing.T, d time.Duration, want []byte) {
	t.Helper()
	select {
	case err := <-r.done:
		if err != nil || !bytes.Equal(r.out.Bytes(), want) {
			t.Errorf("the reader ended with %v and %d bytes of %d: %s", err, r.out.Len(), len(want), r.errs.String())
		}
	case <-time.After(d):
		t.Fatalf("the reader still waits after %v", d)
	}
}

// The network goes away, by being cut or by swallowing everything, and comes
// back: readers wait, are seen to wait, can be killed, and go on.
func TestFailover_NetworkGoneAndBack(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v")
	contents := map[string][]byte{}
	for i, name := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		contents[name] = noise(uint64(i), 3<<20+i) // large ones are served while they fill
		kit.Must(t, os.WriteFile(mount+"/"+name, contents[name], 0o644))
	}
	a.flush("v")
	a.die()

	link := w.relay(kit.Link{RTT: 2 * time.Millisecond})
	b := w.device("b", "http://"+link.Addr())
	b.create("v", key, "takeover=always", "prefetch=none")
	mount = b.mount("v")
	if _, err := os.ReadDir(mount); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []struct {
		name  string
		mode  kit.UnplugMode
		files [2]string
	}{{"cut", kit.Cut, [2]string{"1", "2"}}, {"swallowing everything", kit.Hang, [2]string{"3", "4"}}} {
		t.Logf("the network is %s", mode.name)
		link.Unplug(mode.mode)
		unplugged := time.Now()
		killed, waiting := startReader(t, mount+"/"+mode.files[0]), startReader(t, mount+"/"+mode.files[1])
		i := b.wait("v", "stalled", 20*time.Second, func(i volume.Info) bool { return i.StalledSince != nil })
		t.Logf("seen to stall after %v: %s", time.Since(unplugged).Round(10*time.Millisecond), i.StalledWhy)
		if i.StalledSince.Before(unplugged.Add(-time.Second)) || i.StalledWhy == "" {
			t.Errorf("stalled since %v, unplugged at %v: %q", i.StalledSince, unplugged, i.StalledWhy)
		}
		killed.waits(t, 500*time.Millisecond)
		start := time.Now()
		kit.Must(t, killed.cmd.Process.Kill())
		select {
		case <-killed.done:
			if took := time.Since(start); took > time.Second {
				t.Errorf("the reader died %v after SIGKILL", took)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the reader cannot be killed")
		}
		// What is known needs no network.
		if st, err := os.Stat(mount + "/1"); err != nil || st.Size() != 3<<20 {
			t.Errorf("stat without a network: %v", err)
		}
		waiting.waits(t, 500*time.Millisecond)
		link.Plug()
		waiting.ends(t, 30*time.Second, contents[mode.files[1]])
		b.wait("v", "no longer stalled", 10*time.Second, func(i volume.Info) bool { return i.StalledSince == nil })
	}

	t.Log("the block store dies, and another one takes its place")
	link.Unplug(kit.Hang)
	r := startReader(t, mount+"/5")
	r.waits(t, 500*time.Millisecond)
	w.hive.Kill9()
	w.startHive()
	link.Plug()
	r.ends(t, 40*time.Second, contents["5"])

	c := w.device("c", "http://"+link.Addr())
	c.create("v", key, "takeover=always", "prefetch=none", "fetch-timeout=2s")
	mount = c.mount("v")
	if _, err := os.ReadDir(mount); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]kit.UnplugMode{"6": kit.Cut, "7": kit.Hang} {
		link.Unplug(mode)
		start := time.Now()
		_, err := os.ReadFile(mount + "/" + name)
		if took := time.Since(start); !errors.Is(err, unix.EIO) || took < 2*time.Second || took > 10*time.Second {
			t.Errorf("unplugged (mode %d), fetch-timeout=2s: %v after %v, want EIO after 2 s", mode, err, took)
		}
		link.Plug()
		if got, err := os.ReadFile(mount + "/" + name); err != nil || !bytes.Equal(got, contents[name]) {
			t.Errorf("plugged in again (mode %d), fetch-timeout=2s: %v", mode, err)
		}
	}
}
