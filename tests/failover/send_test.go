package failover

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// site is a second place, with a Hive and a block store of its own, and a machine that knows no other.
type site struct {
	*world
	*device
}

func newSite(t *testing.T) site {
	w := newWorld(t)
	return site{w, w.device("b", w.url)}
}

// wantThere mounts the volume at the second place and looks at its files.
func (s site) wantThere(key string, files map[string]string) {
	t := s.device.t
	t.Helper()
	s.create("db", key)
	dir := s.mount("db")
	for name, text := range files {
		if got := read(t, filepath.Join(dir, name)); got != text {
			t.Errorf("%s holds %q at the second place, want %q", name, got, text)
		}
	}
	s.cli("hydrate", "--wait", "db")
	s.cli("volume", "umount", "db")
	s.cli("volume", "rm", "db")
}

func TestSend_ToASecondPlaceByURL(t *testing.T) {
	w, far := newWorld(t), newSite(t)
	a := w.device("a", w.url)
	kit.Must(t, os.WriteFile(filepath.Join(a.root, "remotes.json"), fmt.Appendf(nil,
		`{"version": 1, "remotes": {"nas": {"hive": %q, "ipfs": %q, "token": %q}}}`, far.world.url, far.world.url, far.token), 0o600))
	dir, key := a.newVolume("db")
	write(t, filepath.Join(dir, "file"), "one")
	if out := a.cli("send", "nas", "db"); !strings.Contains(out, "generation 1") {
		t.Error(out)
	}
	far.wantThere(key, map[string]string{"file": "one"})

	write(t, filepath.Join(dir, "file2"), "two")
	a.cli("flush", "db")
	write(t, filepath.Join(dir, "file3"), "three")
	a.cli("flush", "db")
	a.cli("send", "nas", "db@2")
	a.cli("schedule", "replicate:nas", "60", "db") // due at once
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(a.cli("scheduled"), "ok") || strings.Contains(a.cli("scheduled"), "  -  ") {
		if time.Now().After(deadline) {
			t.Fatalf("the scheduled replication never ran: %s", a.cli("scheduled"))
		}
		time.Sleep(200 * time.Millisecond)
	}
	far.wantThere(key, map[string]string{"file": "one", "file2": "two", "file3": "three"})
	a.refused(6, []string{"nowhere", "remotes.json", "nas"}, "send", "nowhere", "db")
	a.refused(2, []string{"remotes.json"}, "send", "no where", "db")
	a.refused(3, []string{"nobody"}, "send", "nas", "nobody")
	a.refused(3, []string{"99"}, "send", "nas", "db@99")
}

// TestSend_ThroughSSH with a real sshd, which allows the key `receive` and nothing else.
func TestSend_ThroughSSH(t *testing.T) {
	w, far := newWorld(t), newSite(t)
	a := w.device("a", w.url)
	s := startSSHD(t, far, a)
	dir, key := a.newVolume("db")
	write(t, filepath.Join(dir, "file"), "one")
	write(t, filepath.Join(dir, "big"), strings.Repeat("0123456789", 300000))
	a.refused(6, []string{"known", "ssh-keyscan"}, "send", s.remote, "db")
	s.trust()
	if out := a.cli("send", s.remote, "db"); !strings.Contains(out, "generation 1") {
		t.Error(out)
	}
	far.wantThere(key, map[string]string{"file": "one"})
	if out := a.cli("send", s.remote, "db"); !strings.Contains(out, "0 B in 0 blocks") {
		t.Errorf("nothing is new, but %s", out)
	}
	s.replaceHostKey()
	a.refused(6, []string{"NOT", "known_hosts"}, "send", s.remote, "db")
}

// sshd is a real one on loopback.
type sshd struct {
	t      *testing.T
	dir    string
	ssh    string // folder of the sender's keys
	port   int
	remote string
	proc   *kit.Process
	w      *world
}

func startSSHD(t *testing.T, far site, sender *device) *sshd {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	s := &sshd{t: t, dir: far.path("sshd"), ssh: filepath.Join(sender.root, "ssh"), port: l.Addr().(*net.TCPAddr).Port, w: far.world}
	kit.Must(t, l.Close())
	s.remote = fmt.Sprintf("ssh://root@127.0.0.1:%d", s.port)
	kit.Must(t, os.MkdirAll("/run/sshd", 0o755)) // Debian's sshd wants it
	kit.Must(t, os.Mkdir(s.dir, 0o700))
	kit.Must(t, os.Mkdir(s.ssh, 0o700))
	keygen(t, filepath.Join(s.ssh, "id_ed25519"))
	keygen(t, s.path("host"))
	pub, err := os.ReadFile(filepath.Join(s.ssh, "id_ed25519.pub"))
	kit.Must(t, err)
	// What a person would have in the daemon's environment stands in a file of that machine.
	kit.Must(t, os.WriteFile(filepath.Join(far.root, "config.json"),
		fmt.Appendf(nil, `{"hive": %q, "ipfs": %q, "token": %q}`, far.world.url, far.world.url, far.token), 0o600))
	kit.Must(t, os.WriteFile(s.path("authorized_keys"), fmt.Appendf(nil, "command=\"%s receive --root %s\",restrict %s", plainBinary, far.root, pub), 0o600))
	kit.Must(t, os.WriteFile(s.path("config"), fmt.Appendf(nil, `ListenAddress 127.0.0.1
Port %d
HostKey %s
AuthorizedKeysFile %s
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
`, s.port, s.path("host"), s.path("authorized_keys")), 0o600))
	s.start()
	t.Cleanup(func() { s.proc.Kill9() })
	kit.Must(t, os.WriteFile(filepath.Join(s.ssh, "known_hosts"), nil, 0o600))
	return s
}

func (s *sshd) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sshd) start() {
	s.t.Helper()
	var err error
	s.proc, err = kit.Start(kit.ProcessOptions{Path: "/usr/sbin/sshd", Args: []string{"-D", "-e", "-f", s.path("config")}, Log: s.path("log")})
	kit.Must(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	kit.Must(s.t, s.proc.WaitHealthy(ctx, func(context.Context) error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			c.Close()
		}
		return err
	}))
}

// trust writes the host's key where the sender looks for it.
func (s *sshd) trust() {
	s.t.Helper()
	pub, err := os.ReadFile(s.path("host.pub"))
	kit.Must(s.t, err)
	kit.Must(s.t, os.WriteFile(filepath.Join(s.ssh, "known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.port, pub), 0o600))
}

// replaceHostKey is what somebody in between would have to do.
func (s *sshd) replaceHostKey() {
	s.t.Helper()
	s.proc.Kill9()
	kit.Must(s.t, os.Remove(s.path("host")))
	kit.Must(s.t, os.Remove(s.path("host.pub")))
	keygen(s.t, s.path("host"))
	s.start()
}

func keygen(t *testing.T, file string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}
