package failover

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// layOutButter makes what Buttervolume leaves behind, with the commands that it runs itself: the volumes db<first> to db<end-1>, each with three snapshots.
func layOutButter(t *testing.T, dir string, first, end int) {
	t.Helper()
	out, err := exec.Command("bash", "-ec", `mkdir -p "$1/volumes" "$1/snapshots" "$1/config" && cd "$1"
		for v in $(seq $2 $(( $3 - 1 ))); do
			btrfs -q subvolume create volumes/db$v
			seq 1 20000 >volumes/db$v/same
			mkdir volumes/db$v/folder && ln volumes/db$v/same volumes/db$v/folder/other && chown -R 1000:1000 volumes/db$v/folder
			i=0; for at in 2024-01-31T12:00:00.123456 2024-02-29T00:00:00.000001 2025-12-31T23:59:59.999999; do
				i=$((i+1)); echo $v $i >volumes/db$v/f; btrfs -q subvolume snapshot -r volumes/db$v snapshots/db$v@$at
			done
			echo $v now >volumes/db$v/f
		done
		printf '%s\n' db0,snapshot,60,True db1,purge:1d:1y,60,False db2,synchronize:host,60,True >config/schedule.csv
		printf '%s\n' db3,purge:1d:100y,60,True >>config/schedule.csv`, "-", dir, fmt.Sprint(first), fmt.Sprint(end)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestButtervolume_IsTakenOverByADaemonThatIsKilledAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	dir := filepath.Join(a.root, "butter")
	butterVolumes := 4
	layOutButter(t, dir, 0, butterVolumes)
	before := describe(t, filepath.Join(dir, "volumes", "db0"))
	importing := []string{"import-buttervolume", "--from", dir, "--json"}

	there := func() (names []string) {
		var all []volume.Info
		kit.Must(t, json.Unmarshal([]byte(a.cli("volume", "ls", "--json")), &all))
		for _, v := range all {
			names = append(names, v.Name)
		}
		return names
	}
	folders := func() int {
		list, err := os.ReadDir(filepath.Join(a.root, "volumes"))
		kit.Must(t, err)
		return len(list)
	}
	cut := 0
	for n := 0; n < 40 && (cut < 3 || len(there()) < butterVolumes); n++ {
		if len(there()) == butterVolumes { // the machine was slow to kill it
			layOutButter(t, dir, butterVolumes, butterVolumes+2)
			butterVolumes += 2
		}
		done := make(chan result, 1)
		before := folders()
		go func() { done <- a.run("", importing...) }()
		// In the middle of a volume, or of the one after it.
		for end := time.Now().Add(time.Minute); folders() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the import does not begin")
			}
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		a.die()
		if r := <-done; r.err != nil {
			cut++
			if r.code == 0 || r.errs == "" && !strings.Contains(r.out, "error") {
				t.Errorf("killed, and it says %d, %q", r.code, r.errs)
			}
		}
		a.start()
		t.Logf("kill %d: %v are there", n+1, there())
	}
	if cut < 2 {
		t.Errorf("%d imports were cut off", cut)
	}
	var res volume.ButterResult
	kit.Must(t, json.Unmarshal([]byte(a.cli(importing...)), &res))
	for _, v := range res.Volumes {
		if v.Status != volume.ButterImported && v.Status != volume.ButterAlready || len(v.Notes) > 0 {
			t.Errorf("%+v", v)
		}
	}
	if got := there(); len(res.Volumes) != butterVolumes || len(got) != butterVolumes {
		t.Fatalf("%+v, %v", res, got)
	}
	if left, err := filepath.Glob(filepath.Join(a.root, "volumes", "*")); err != nil || len(left) != butterVolumes {
		t.Errorf("%v, %v", left, err)
	}
	same(t, "what Buttervolume has", before, describe(t, filepath.Join(dir, "volumes", "db0")))

	for n := range butterVolumes {
		name := fmt.Sprint("db", n)
		a.wait(name, "published", time.Minute, func(i volume.Info) bool { return i.Unpublished == 0 && i.LastReplicated != nil })
		var all []volume.SnapshotInfo
		kit.Must(t, json.Unmarshal([]byte(a.cli("snapshots", name, "--json")), &all))
		var times []string
		for _, s := range all {
			if !s.Remote {
				t.Errorf("%s: %+v is not published", name, s)
			}
			times = append(times, s.Created.UTC().Format(time.RFC3339))
		}
		if len(times) != 4 || !slices.Equal(times[:3], []string{"2024-01-31T12:00:00Z", "2024-02-29T00:00:00Z", "2025-12-31T23:59:59Z"}) {
			t.Errorf("%s: %v", name, times)
		}
		path := a.mount(name)
		if b, err := os.ReadFile(filepath.Join(path, "f")); string(b) != fmt.Sprintln(n, "now") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		a.cli("volume", "umount", name)
	}

	// Its jobs run.
	var jobs control.Schedule
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		kit.Must(t, json.Unmarshal([]byte(a.cli("scheduled", "--json")), &jobs))
		ran := 0
		for _, j := range jobs.Jobs {
			if !j.Ran.IsZero() && j.Failed == 0 {
				ran++
			}
		}
		if ran == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d jobs of 2 have run: %+v", ran, jobs)
		}
	}
	if len(jobs.Jobs) != 3 {
		t.Errorf("%+v", jobs)
	}

	// Another machine has them all, and the snapshot of a day.
	b := w.device("b", w.url)
	b.create("db1", a.cli("key", "export", "db1"))
	b.cli("restore", "db1", "2024-03-01T00:00:00Z")
	path := b.mount("db1")
	if got, err := os.ReadFile(filepath.Join(path, "f")); string(got) != "1 2\n" {
		t.Errorf("%q, %v", got, err)
	}
	want := describe(t, filepath.Join(dir, "snapshots", "db1@2024-02-29T00:00:00.000001"))
	same(t, "on another machine", want, describe(t, path))
	b.cli("volume", "umount", "db1")
}
