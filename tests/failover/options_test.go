package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

func TestFailover_OptionsAreRefusedWithTheirNames(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	names := []string{"privkey", "interval", "chunk-size", "compression", "nocow", "size", "snapshot", "prefetch", "fetch-timeout", "takeover", "mount"}
	a.refused(2, append(names, "colour"), "volume", "create", "v", "-o", "colour=red")
	a.refused(2, append(names, "Interval"), "volume", "create", "v", "-o", "Interval=60s") // no guessing
	for _, x := range []struct {
		option string
		says   []string
	}{
		{"interval=soon", []string{"interval", "soon", "off"}},
		{"interval=1ms", []string{"interval", "1ms", "5s"}},
		{"chunk-size=1GiB", []string{"chunk-size", "64KiB", "128KiB", "256KiB", "512KiB"}},
		{"compression=best", []string{"compression", "none", "fastest", "default", "better"}},
		{"nocow=perhaps", []string{"nocow", "true", "false"}},
		{"size=large", []string{"size", "large"}},
		{"size=-1", []string{"size"}},
		{"snapshot=yesterday", []string{"snapshot", "generation", "hash", "time"}},
		{"snapshot=0", []string{"snapshot", "generation"}},
		{"prefetch=some", []string{"prefetch", "all", "metadata", "none"}},
		{"fetch-timeout=never", []string{"fetch-timeout", "0"}},
		{"fetch-timeout=-2s", []string{"fetch-timeout"}},
		{"takeover=perhaps", []string{"takeover", "released", "always"}},
		{"mount=bind", []string{"mount", "fuse", "direct"}},
		{"takeover=", []string{"takeover", "released", "always"}},
		{"interval", []string{"KEY=VALUE"}},
	} {
		a.refused(2, x.says, "volume", "create", "v", "-o", x.option)
	}
	// An error is one JSON document where JSON was asked for.
	r := a.run("", "volume", "create", "v", "-o", "takeover=perhaps", "--json")
	var e struct {
		Error, Code string
		Exit        int
	}
	if err := json.Unmarshal([]byte(r.out), &e); err != nil || r.code != 2 || e.Exit != 2 || e.Code == "" || !strings.Contains(e.Error, "released") {
		t.Errorf("as JSON: %d, %v, %s", r.code, err, r.out)
	}
	for _, name := range []string{"", ".", "..", "a/b", "-v", "a b", "ü", strings.Repeat("n", 300)} {
		a.refused(2, nil, "volume", "create", "--", name)
	}
	if out := a.cli("volume", "ls", "--quiet"); out != "" {
		t.Errorf("volumes were made: %q", out)
	}
	a.cli("volume", "create", "v", "-o", "takeover=always", "-o", "fetch-timeout=30s", "-o", "prefetch=metadata", "-o", "size=1GiB")
	got := a.inspect("v").Options
	for k, want := range map[string]string{"takeover": "always", "fetch-timeout": "30s", "prefetch": "metadata", "size": "1073741824",
		"interval": "off", "chunk-size": "256 KiB", "compression": "default", "nocow": "false"} {
		if got[k] != want {
			t.Errorf("option %s is %q, want %q", k, got[k], want)
		}
	}
	a.refused(3, []string{"no such volume"}, "volume", "mount", "w")
}

// While A uses the volume, B is refused; when A unmounts it, all is published
// and the writer is given back, and B needs no force.
func TestFailover_ReleasedByUnmount(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a", w.url), w.device("b", w.url)
	mount, key := a.newVolume("v")
	write(t, mount+"/file", "first")
	a.flush("v")
	pubkey := a.inspect("v").Pubkey
	if got := w.writer(pubkey); got != a.machine() {
		t.Errorf("writer %q while A has it mounted, want A %s", got, a.machine())
	}
	b.create("v", key)
	b.refused(4, []string{"another machine holds the volume", a.machine(), "unmount it there", "takeover=always"}, "volume", "mount", "v")

	a.cli("volume", "mount", "v", "--id", "second user")
	write(t, mount+"/file", "last words")
	a.cli("volume", "umount", "v")
	if got := w.writer(pubkey); got != a.machine() {
		t.Errorf("writer %q while a second user is there, want A", got)
	}
	a.cli("volume", "umount", "v", "--id", "second user")
	i := a.inspect("v")
	if i.State != volume.StateUnmounted || i.Unpublished != 0 || i.Mountpoint != "" || i.Generation != 2 {
		t.Errorf("A after its unmount: %+v", i)
	}
	if got := w.writer(pubkey); got != "" {
		t.Errorf("writer %q after the unmount, want nobody", got)
	}
	mountB := b.mount("v")
	if got := read(t, mountB+"/file"); got != "last words" {
		t.Errorf("B reads %q", got)
	}
	write(t, mountB+"/file", "from B")
	a.refused(4, []string{b.machine()}, "volume", "mount", "v")
	b.cli("volume", "umount", "v")
	if got := read(t, a.mount("v")+"/file"); got != "from B" {
		t.Errorf("A reads %q after B's turn", got)
	}
	// A kind end of the daemon is an unmount as well.
	write(t, mount+"/file", "before the end")
	w.stop(a.daemon)
	if got := read(t, b.mount("v")+"/file"); got != "before the end" {
		t.Errorf("B reads %q after the end of A's daemon", got)
	}
}

// A snapshot can be mounted by its generation, its hash, or a time, beside the
// volume in use; it is read-only and leaves the writer alone.
func TestFailover_SnapshotOption(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v")
	for n := 1; n <= 3; n++ {
		write(t, mount+"/file", fmt.Sprintf("generation %d", n))
		write(t, fmt.Sprintf("%s/new in %d", mount, n), "")
		a.flush("v")
		time.Sleep(1100 * time.Millisecond) // a manifest's time is in seconds
	}
	pubkey := a.inspect("v").Pubkey
	var all []volume.SnapshotInfo
	kit.Must(t, json.Unmarshal([]byte(a.cli("snapshots", "v", "--json")), &all))
	if len(all) != 3 {
		t.Fatalf("snapshots: %+v", all)
	}
	b := w.device("b", w.url)
	second := all[1]
	for i, x := range []struct {
		option string
		want   int
	}{
		{"1", 1}, {"2", 2}, {"3", 3},
		{second.Hash, 2},
		{second.Created.UTC().Format(time.RFC3339), 2},
		{second.Created.UTC().Truncate(time.Second).Add(999 * time.Millisecond).Format(time.RFC3339Nano), 2},
		{second.Created.UTC().Format("2006-01-02 15:04:05"), 2},
		{strconv.FormatInt(second.Created.Unix(), 10), 2},
		{time.Now().Add(time.Hour).UTC().Format(time.RFC3339), 3},
	} {
		d := []*device{a, b}[i%2]
		name := fmt.Sprint("view", i)
		d.create(name, key, "snapshot="+x.option)
		view := d.mount(name)
		if got := read(t, view+"/file"); got != fmt.Sprintf("generation %d", x.want) {
			t.Errorf("snapshot=%s: %q, want that of generation %d", x.option, got, x.want)
		}
		if _, err := os.Stat(fmt.Sprintf("%s/new in %d", view, x.want+1)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("snapshot=%s: a file of the next generation: %v", x.option, err)
		}
		if err := os.WriteFile(view+"/file", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("snapshot=%s: writing: %v", x.option, err)
		}
		if err := os.Remove(view + "/file"); !errors.Is(err, unix.EROFS) {
			t.Errorf("snapshot=%s: removing: %v", x.option, err)
		}
		if i := d.inspect(name); i.State != volume.StateSnapshot || i.Generation != uint64(x.want) {
			t.Errorf("snapshot=%s: state %s, generation %d", x.option, i.State, i.Generation)
		}
		if got := w.writer(pubkey); got != a.machine() {
			t.Errorf("snapshot=%s: the writer is %q, want A", x.option, got)
		}
		d.cli("volume", "umount", name)
	}
	// What is not there is refused at mount.
	for _, option := range []string{"99", strings.Repeat("0", len(second.Hash)), "2001-01-01 00:00"} {
		b.create("none", key, "snapshot="+option)
		b.refused(3, []string{"no snapshot", option}, "volume", "mount", "none")
		b.cli("volume", "rm", "none")
	}
	b.refused(2, []string{"key"}, "volume", "create", "keyless", "-o", "snapshot=1")
	// The volume in use noticed nothing.
	write(t, mount+"/file", "generation 4")
	a.flush("v")
	if i := a.inspect("v"); i.Generation != 4 || i.Fenced {
		t.Errorf("A after the views: generation %d, fenced %v", i.Generation, i.Fenced)
	}
}
