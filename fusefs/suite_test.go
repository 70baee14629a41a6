package fusefs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExec_FromTheMount(t *testing.T) {
	w := newWorld(t)
	p := filepath.Join(w.mnt, "prog")
	run(t, "cp", "/bin/sleep", p)
	// Not from this process: it stands still until its child has read the program from the mount that it serves.
	cmd := exec.Command("sh", "-c", p+" 1; exit $?")
	must(t, cmd.Start())
	time.Sleep(300 * time.Millisecond)
	_, err := os.OpenFile(p, os.O_WRONLY, 0)
	wantErr(t, "write a running program", err, unix.ETXTBSY)
	must(t, cmd.Wait())
	must(t, os.WriteFile(p, []byte("#!/bin/sh\nexit 3\n"), 0o755))
	var exit *exec.ExitError
	if err := exec.Command("sh", "-c", p+"; exit $?").Run(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the script returned %v", err)
	}
}

func TestSyncOpen_IsNotPassedThroughWhileFilling(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	w := mountTest(t, src, res, Options{})
	f, err := os.OpenFile(filepath.Join(w.mnt, "f"), os.O_CREATE|os.O_RDWR|os.O_SYNC, 0o644)
	must(t, err)
	defer f.Close()
	before := res.syncs.Load()
	_, err = f.WriteString("durable")
	must(t, err)
	if res.syncs.Load() == before {
		t.Error("the write was acknowledged without the residency")
	}
}
