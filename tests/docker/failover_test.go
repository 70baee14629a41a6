//go:build docker

package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// writer makes files, each with a checksum, and counts them when they are on the disk.
const writer = `i=$(ls /data/sums 2>/dev/null | wc -l); mkdir -p /data/files /data/sums
while :; do
	i=$((i+1)); dd if=/dev/urandom of=/data/files/$i bs=1k count=$((i % 97 + 1)) 2>/dev/null
	md5sum /data/files/$i >/data/sums/$i.new; mv /data/sums/$i.new /data/sums/$i; echo $i
	usleep 5000
done`

// check reads every file that has a checksum and prints how many there are.
const check = `cd /data/sums; for s in *; do case $s in *.new) ;; *) md5sum -c -s $s || echo "wrong: $s";; esac; done; ls | grep -vc new`

func TestFailover_StoppedOnOneMachineAndStartedOnAnother(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	volume(t, a, "moved", "interval=off")
	a.docker(t, "run", "-d", "--name", "moved", "--network", "none", "-v", "moved:/data", "busybox", "sh", "-c", writer)
	defer a.try("rm", "-f", "moved")
	eventually(t, time.Minute, func() error { return atLeast(a, "moved", 60) })
	k := a.cli(t, "key", "export", "moved")
	volume(t, b, "moved", "privkey="+k, "interval=off")
	b.refused(t, []string{"another machine holds the volume"}, runArgs([]string{"-v", "moved:/data"}, "true")...)

	a.docker(t, "stop", "-t", "0", "moved")
	var n, got int
	fmt.Sscan(a.docker(t, "logs", "--tail", "1", "moved"), &n)
	a.state(t, "moved", "unmounted")
	out := b.run(t, []string{"-v", "moved:/data"}, check)
	// The writer may have been killed between its last file and saying so.
	if _, err := fmt.Sscanf(out, "%d", &got); err != nil || got < n || got > n+1 {
		t.Errorf("B has %s files, A wrote %d", out, n)
	}
	b.state(t, "moved", "unmounted")
	// And back.
	a.docker(t, "start", "moved")
	eventually(t, time.Minute, func() error { return atLeast(a, "moved", 100) })
}

func atLeast(e *engine, container string, n int) error {
	out, err := e.try("logs", "--tail", "1", container)
	if err != nil {
		return err
	}
	var got int
	if _, err := fmt.Sscan(out, &got); err != nil || got < n {
		return fmt.Errorf("%s made %q files", container, out)
	}
	return nil
}

func TestFailover_MachineDiesAndAnotherTakesOver(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	volume(t, a, "taken", "interval=off")
	a.docker(t, "run", "-d", "--name", "taken", "--network", "none", "-v", "taken:/data", "busybox", "sh", "-c", writer)
	eventually(t, time.Minute, func() error { return atLeast(a, "taken", 60) })
	k := a.cli(t, "key", "export", "taken")
	var before int
	fmt.Sscan(a.docker(t, "logs", "--tail", "1", "taken"), &before)
	a.cli(t, "flush", "taken")
	kit.Must(t, a.die())

	volume(t, b, "taken", "privkey="+k, "interval=off", "takeover=always")
	began := time.Now()
	b.docker(t, "run", "-d", "--name", "taken", "--network", "none", "-v", "taken:/data", "busybox", "sh", "-c", writer)
	defer b.try("rm", "-f", "taken")
	t.Logf("running on B %s after it was asked for", time.Since(began).Round(time.Millisecond))
	out := b.run(t, []string{"-v", "taken:/data:ro"}, strings.Replace(check, "ls | grep -vc new", "true", 1))
	if out != "" {
		t.Errorf("checksums on B: %s", out)
	}
	eventually(t, time.Minute, func() error { return atLeast(b, "taken", before+20) })

	// The old machine comes back: it has lost the volume, says so, and keeps what it had.
	kit.Must(t, a.start())
	a.state(t, "taken", "fenced")
	st := a.status(t, "taken")
	if d, _ := st["divergent"].([]any); len(d) != 1 || st["fenced_by"] == nil {
		t.Errorf("A's view: %v", st)
	}
	_, err := a.try("start", "taken")
	if err == nil || !strings.Contains(err.Error(), "another machine holds the volume") {
		t.Errorf("A starts its container: %v", err)
	}
	a.docker(t, "rm", "-f", "taken")
	a.refused(t, []string{"data exists only here"}, "volume", "rm", "taken")
	b.cli(t, "flush", "taken")
}
