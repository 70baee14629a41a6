package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A longer form: go test ./cli -run Archive_Memory -archive.mib 1024 -archive.files 200000, or `make bench-archive`.
var (
	archiveMiB   = flag.Int("archive.mib", 256, "size of the volume whose export and import TestArchive_MemoryIsFlat measures")
	archiveFiles = flag.Int("archive.files", 0, "number of small files of another such volume; 0: none")
)

// growth is how much more memory the large one may take at most, beside an eighth of it: less than what it has more of data.
const growth = 64 << 20

// peaks of the resident memory, in bytes: of both daemons, and of both commands.
type peaks struct{ exporter, export, importer, imports int64 }

func TestArchive_MemoryIsFlat(t *testing.T) {
	url, other := startHive(t), startHive(t)
	measure := func(name, script string, n int) peaks {
		t.Helper()
		a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
		b := startDevice(t, nil, "--hive", other, "--ipfs", other, "--token", newToken(), "--interval", "off")
		a.run("volume", "create", name).want(t, ExitOK)
		path := a.mounted(t, name)
		out, err := exec.Command("sh", "-ec", script, "sh", path, fmt.Sprint(n)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		a.run("flush", name).want(t, ExitOK)
		a.run("volume", "umount", name).want(t, ExitOK)
		key := filepath.Join(t.TempDir(), "key")
		must(t, os.WriteFile(key, []byte(a.run("key", "export", name).want(t, ExitOK).out), 0o600))
		a.restart() // what the upload took is no part of it
		a.forgetPeak()
		b.forgetPeak()
		from, to := a.command("export", name, "-"), b.command("import", "-", name, "-o", "privkey-file="+key)
		r, w, err := os.Pipe()
		must(t, err)
		var says bytes.Buffer
		from.Stdout, to.Stdin, to.Stdout, to.Stderr = w, r, &says, &says
		must(t, to.Start())
		must(t, from.Start())
		w.Close()
		r.Close()
		if err := from.Wait(); err != nil {
			t.Error(err)
		}
		if err := to.Wait(); err != nil || !strings.Contains(says.String(), "It is the newest") {
			t.Fatalf("%v: %s", err, says.String())
		}
		p := peaks{a.peak(), maxrss(from), b.peak(), maxrss(to)}
		const m = 1 << 20
		t.Logf("%s %d: %s peaks: exporting daemon %d MiB, export %d MiB, importing daemon %d MiB, import %d MiB", name, n, strings.TrimSpace(says.String()),
			p.exporter/m, p.export/m, p.importer/m, p.imports/m)
		b.run("volume", "rm", name).want(t, ExitOK)
		a.run("volume", "rm", name).want(t, ExitOK)
		a.term()
		b.term()
		return p
	}
	compare := func(what, script string, n int) {
		small, large := measure(what, script, n/8), measure(what, script, n)
		for who, p := range map[string][2]int64{"exporting daemon": {small.exporter, large.exporter}, "export": {small.export, large.export},
			"importing daemon": {small.importer, large.importer}, "import": {small.imports, large.imports}} {
			if p[1]-p[0] > growth {
				t.Errorf("%s, %d %s: peak of %d bytes, and of %d with an eighth of it", who, n, what, p[1], p[0])
			}
		}
	}
	compare("mib", `dd if=/dev/urandom of="$1/big" bs=1M count="$2" status=none`, *archiveMiB)
	if *archiveFiles > 0 {
		compare("files", `cd "$1"; i=0; while [ $i -lt "$2" ]; do [ $((i%1000)) != 0 ] || { mkdir d$i; cd d$i; }; echo $i > f$i; i=$((i+1)); [ $((i%1000)) != 0 ] || cd ..; done`, *archiveFiles)
	}
}

// command is the program with a command for the device.
func (d *device) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1", "FRACTAL_SOCKET="+d.socket)
	c.Stderr = os.Stderr
	return c
}

func maxrss(c *exec.Cmd) int64 { return c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10 }

// forgetPeak begins the measurement of the daemon's peak.
func (d *device) forgetPeak() {
	d.t.Helper()
	must(d.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.worker()), []byte("5"), 0))
}

// peak is the daemon's since forgetPeak.
func (d *device) peak() (n int64) {
	d.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.worker()))
	must(d.t, err)
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &n); err == nil {
			return n << 10
		}
	}
	d.t.Fatalf("no VmHWM in %s", b)
	return 0
}
