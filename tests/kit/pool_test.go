package kit

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A mount name space that somebody makes while a pool is mounted keeps its loop device: the error has to say whose.
func TestMounters_NamesWhoHasADevice(t *testing.T) {
	p, err := NewPool(t.TempDir(), 256<<20)
	Must(t, err)
	devs, err := loopsUnder(p.File)
	Must(t, err)
	if len(devs) != 1 {
		t.Fatalf("%v", devs)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	Must(t, cmd.Start())
	end := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	defer end()
	mine := "process " + strconv.Itoa(cmd.Process.Pid) + " ("
	for dev := range devs {
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			who := strings.Join(mounters(dev), ", ")
			if strings.Contains(who, mine) {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s is mounted for %q, want %q", dev, who, mine)
			}
		}
	}
	end()
	Must(t, p.Close())
}
