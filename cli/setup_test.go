package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/config"
	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// check returns a line of the daemon's health.
func (d *device) check(name string) volume.Check {
	d.t.Helper()
	st := decode[control.Status](d.t, d.run("status", "--json").want(d.t, ExitOK))
	for _, c := range st.Health.Checks {
		if c.Name == name {
			return c
		}
	}
	d.t.Fatalf("health says nothing of %s: %+v", name, st.Health)
	return volume.Check{}
}

// A pool that is mounted after the daemon came, as after a reboot in the wrong order, brings its settings with it.
func TestSetUp_PoolThatComesLateBringsItsSettings(t *testing.T) {
	root := t.TempDir() // not BTRFS
	socket := filepath.Join(t.TempDir(), "s.sock")
	d := &device{t: t, root: root, socket: socket}
	d.begin()
	for _, args := range [][]string{{"volume", "ls"}, {"volume", "create", "db"}, {"volume", "mount", "db"}} {
		d.run(args...).want(t, ExitNotReady, "BTRFS", "fractal-lazy pool create --size 20G", root)
	}
	d.run("status", "--check").want(t, ExitNotReady, "pool create")

	pool, err := os.MkdirTemp(poolDir, "late-")
	must(t, err)
	url := startHive(t)
	b, err := json.Marshal(map[string]string{"hive": url, "ipfs": url, "token": newToken(), "interval": "off"})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(pool, config.FileName), b, 0o600))
	must(t, unix.Mount(pool, root, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		d.term()
		must(t, unix.Unmount(root, 0))
	})
	eventually(t, "the daemon works", func() bool { return d.run("status", "--check").code == ExitOK })
	d.run("volume", "create", "db").want(t, ExitOK)
	path := strings.TrimSpace(d.run("volume", "mount", "db").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "f"), []byte("x"), 0o644))
	if s := decode[volume.SnapshotInfo](t, d.run("flush", "db", "--json").want(t, ExitOK)); !s.Remote {
		t.Errorf("not published by the settings of the pool: %+v", s)
	}
	d.run("volume", "umount", "db").want(t, ExitOK)
}

// Without /dev/fuse, and in a mount name space that nobody shares.
func TestSetUp_NoFUSEAndNoSharedMountsAreSaidAndMended(t *testing.T) {
	dev := t.TempDir()
	mounts := t.TempDir()
	hide := []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", `mount --bind "$0" /dev; exec "$@"`, dev}
	d := startDeviceIn(t, hide, "--interval", "off", "--mounts", "shared:"+mounts)
	if c := d.check("fuse"); c.OK || !strings.Contains(c.Detail, "/dev/fuse cannot be opened") || !strings.Contains(c.Detail, "modprobe fuse") {
		t.Errorf("%+v", c)
	}
	if c := d.check("mounts"); c.OK || !strings.Contains(c.Detail, "not on a shared mount") || !strings.Contains(c.Detail, "mount --make-rshared") {
		t.Errorf("%+v", c)
	}
	d.run("volume", "create", "db").want(t, ExitOK)
	d.run("volume", "mount", "db").want(t, ExitNotReady, "volume db", "/dev/fuse cannot be opened", "modprobe fuse")
	must(t, unix.Mknod(filepath.Join(dev, "fuse"), unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))))
	d.run("volume", "mount", "db").want(t, ExitNotReady, "volume db", "not on a shared mount", "mount --make-rshared", "propagatedMount")
	out, err := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.cmd.Process.Pid), "sh", "-ec", `mount --bind "$0" "$0"; mount --make-rshared "$0"`, mounts).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.run("volume", "mount", "db").want(t, ExitOK)
	for _, name := range []string{"fuse", "mounts"} {
		if c := d.check(name); !c.OK {
			t.Errorf("%+v", c)
		}
	}
	d.run("volume", "umount", "--no-wait", "db").want(t, ExitOK)
}

// Neither Hive nor block store answers at first.
func TestSetUp_NoHiveAndNoIPFSAreSaidAndMended(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	url := "http://" + addr
	d := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	for _, name := range []string{"hive", "store"} {
		if c := d.check(name); c.OK || !strings.Contains(c.Detail, addr) || !strings.Contains(c.Detail, "refused") {
			t.Errorf("%+v", c)
		}
	}
	key := strings.TrimSpace(run(nil, nil, "key", "generate").out)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(key), 0o600))
	d.run("volume", "create", "theirs", "-o", "privkey-file="+file).want(t, ExitOK)
	d.run("volume", "mount", "theirs").want(t, ExitNotReady, "volume theirs", addr, "refused")

	// What was made here needs nobody, until it is to be published.
	d.run("volume", "create", "ours").want(t, ExitOK)
	path := strings.TrimSpace(d.run("volume", "mount", "ours").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "f"), []byte("x"), 0o644))
	d.run("volume", "umount", "ours", "--wait", "2s").want(t, ExitNotReady, "volume ours is not given back after 2s", addr, "refused", "in the background")

	startHive(t, "--listen", addr)
	d.run("volume", "umount", "ours", "--wait", "1m").want(t, ExitOK)
	if i := decode[volume.Info](t, d.run("volume", "inspect", "ours", "--json")); i.State != volume.StateUnmounted || i.LastReplicated == nil {
		t.Errorf("%+v", i)
	}
	d.run("volume", "mount", "theirs").want(t, ExitOK)
	d.run("volume", "umount", "theirs", "--wait", "1m").want(t, ExitOK)
	for _, name := range []string{"hive", "store"} {
		if c := d.check(name); !c.OK {
			t.Errorf("%s", fmt.Sprintf("%+v", c))
		}
	}
}
