package volume

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
)

const mib = 1 << 20

func TestQuotaFor(t *testing.T) {
	for _, c := range []struct{ total, keep, used, charged, want uint64 }{
		{16 * mib, 16 * mib, 0, 0, 20 * mib},
		{16 * mib, 16 * mib, 10 * mib, 10 * mib, 20 * mib},
		{16 * mib, 16 * mib, 10 * mib, 50 * mib, 60 * mib}, // snapshots pin 40
		{16 * mib, 16 * mib, 10 * mib, 0, 10 * mib},        // older than the quotas
		{16 * mib, 40 * mib, 40 * mib, 40 * mib, 44 * mib}, // larger than its limit
		{16 * mib, 16 * mib, 18 * mib, 30 * mib, 32 * mib}, // past its limit
		{16 * mib, 16 * mib, 21 * mib, 30 * mib, 30 * mib},
		{1 << 40, 1 << 40, 0, 0, 1<<40 + maxMargin},
	} {
		if got := quotaFor(c.total, c.keep, c.used, c.charged); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	for _, c := range []struct{ total, keep, used, want uint64 }{
		{16 * mib, 0, 10 * mib, 16 * mib},
		{16 * mib, 0, 20 * mib, 16 * mib}, // got past its size
		{16 * mib, 0, 40 * mib, 40 * mib}, // came larger
		{16 * mib, 40 * mib, 43 * mib, 40 * mib},
		{16 * mib, 40 * mib, 30 * mib, 30 * mib},
		{16 * mib, 30 * mib, 34 * mib, 30 * mib},
		{16 * mib, 30 * mib, 5 * mib, 16 * mib},
		{16 * mib, 16 * mib, 40 * mib, 16 * mib},
	} {
		if got := keepFor(c.total, c.keep, c.used); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	for _, c := range []struct {
		charged, quota, now uint64
		due                 bool
	}{
		{10 * mib, 20 * mib, 10 * mib, false},
		{10 * mib, 20 * mib, 14 * mib, false},
		{10 * mib, 20 * mib, 15 * mib, true},
		{10 * mib, 20 * mib, 9*mib + 1, false},
		{10 * mib, 20 * mib, 9 * mib, true},
		{10 * mib, 10 * mib, 10*mib + 1, true},
		{10 * mib, 5 * mib, 10 * mib, false},
	} {
		if got := quotaIsDue(c.charged, c.quota, c.now); got != c.due {
			t.Errorf("%+v: %v", c, got)
		}
	}
	for _, c := range []struct {
		left, grown uint64
		want        time.Duration
	}{
		{100 * mib, 0, looksEvery},
		{100 * mib, mib, looksEvery},
		{100 * mib, 10 * mib, 100 * time.Millisecond},
		{mib, 10 * mib, looksOften},
		{0, 1, looksOften},
	} {
		if got := lookAgain(c.left, c.grown); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// fill runs a script in python that ends by a full volume, and returns what it prints.
func fill(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("python3", append([]string{"-c", "import errno, mmap, os, sys, time\n" + script}, args...)...).CombinedOutput()
	if err != nil && !strings.Contains(err.Error(), "bus error") && strings.TrimSpace(string(out)) != "EDQUOT" {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// writeOn writes 256 KiB at a time through one handle until it cannot any more.
const writeOn = `
try:
    f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    for n in range(int(sys.argv[2]) * 4): os.write(f, os.urandom(1 << 18))
    os.fsync(f)
except OSError as e: print(errno.errorcode[e.errno])
`

func (x *machine) du(name string) uint64 {
	x.t.Helper()
	data := x.vols[name].data()
	must(x.t, backing.SyncFS(data))
	n, err := backing.Occupied(data)
	must(x.t, err)
	return n
}

func (x *machine) within(name string, limit uint64) {
	x.t.Helper()
	if n := x.du(name); n > limit {
		x.t.Fatalf("the volume takes %d MiB, its limit is %d MiB", n/mib, limit/mib)
	}
}

func TestSize_IsHardForSmallVolumes(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "size=16MiB")
	dir := a.mount("db", "1")
	if got := fill(t, writeOn, dir+"/f", "64"); got != "ENOSPC" {
		t.Fatalf("64 MiB into 16: %q", got)
	}
	a.within("db", 16*mib)
	if i := a.info("db"); i.SizeSoft != "" || i.SizeUsed < 14*mib {
		t.Fatalf("%+v", i)
	}
	// What is there can be overwritten, and what is removed makes room.
	fill(t, `
f = os.open(sys.argv[1], os.O_RDWR)
for n in range(20): os.pwrite(f, os.urandom(1 << 16), n << 16)
os.fsync(f)
`, dir+"/f")
	shell(t, `rm "$1/f"`, dir)
	a.eventually("room again", func() bool {
		return exec.Command("sh", "-c", `head -c 8000000 /dev/urandom > "$1/g"`, "sh", dir).Run() == nil
	})
	a.within("db", 16*mib)
}

// Handles that the kernel writes without asking, mappings and preallocation meet the pool's quota.
func TestSize_HoldsForOpenPassthroughHandlesAndDirectMounts(t *testing.T) {
	for _, how := range []string{mountFUSE, mountDirect} {
		for name, script := range map[string]string{
			"write": writeOn,
			"mmap": `
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(f, int(sys.argv[2]) << 20)
m = mmap.mmap(f, 0)
for n in range(int(sys.argv[2]) * 4):
    m[n << 18:(n + 1) << 18] = os.urandom(1 << 18) # SIGBUS at the limit
print("all written")
`,
			"fallocate": `
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
try:
    for n in range(int(sys.argv[2])): os.posix_fallocate(f, n << 20, 1 << 20)
except OSError as e: print(errno.errorcode[e.errno])
`,
		} {
			t.Run(how+" "+name, func(t *testing.T) {
				w := newWorld(t)
				a := w.machine("a")
				a.unbind("db")
				a.create("db", "size=96MiB", "mount="+how)
				dir := a.mount("db", "1")
				a.mountedAs("db", how)
				got := fill(t, script, dir+"/f", "256")
				if name != "mmap" && got != "EDQUOT" && got != "ENOSPC" || got == "all written" {
					t.Fatalf("256 MiB into 96: %q", got)
				}
				a.within("db", 96*mib+minMargin+onTheWay)
				a.unmount("db", "1")
			})
		}
	}
}

// Who waits for the quota to be set anew each time it is used up gets no further than who does not.
func TestSize_HoldsForAPatientWriter(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "size=16MiB", "mount=direct")
	dir := a.mount("db", "1")
	got := fill(t, `
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
def write(n):
    for tries in range(10):
        try: return os.write(f, os.urandom(1 << 18)) and os.fsync(f)
        except OSError as e:
            if e.errno != errno.EDQUOT: raise
        time.sleep(0.4)
    sys.exit("EDQUOT")
for n in range(4 * 48): write(n)
print("all written")
`, dir+"/f")
	if got != "EDQUOT" {
		t.Errorf("48 MiB into 16: %q", got)
	}
	a.within("db", 16*mib+minMargin+onTheWay)
	if i := a.info("db"); i.SizeSoft != "" {
		t.Errorf("no quota: %s", i.SizeSoft)
	}
	shell(t, `rm "$1/f"`, dir)
	a.eventually("room again", func() bool {
		return exec.Command("sh", "-c", `head -c 8000000 /dev/urandom > "$1/g"`, "sh", dir).Run() == nil
	})
	a.unmount("db", "1")
}

// What only snapshots hold does not count: a volume of which all was rewritten many times is as full as ever.
func TestSize_SnapshotsDoNotCount(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "size=64MiB", "mount=direct")
	dir := a.mount("db", "1")
	v := a.vols["db"]
	const rewrite = `
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for n in range(20):
    for tries in range(100):
        try:
            os.pwrite(f, os.urandom(1 << 20), n << 20)
            if n % 4 == 3: os.fsync(f)
            break
        except OSError as e:
            if e.errno != errno.EDQUOT or tries == 99: raise
        time.sleep(0.2) # a writer that is faster than its quota is moved along is told that it is full
    if n % 4 == 3: time.sleep(0.2)
`
	for range 4 {
		if got := fill(t, rewrite, dir+"/f"); got != "" {
			t.Fatalf("%q", got)
		}
		_, err := a.snapshotNow(ctx(t), v)
		must(t, err)
	}
	if n := a.du("db"); n != 20*mib {
		t.Fatalf("the volume takes %d MiB", n/mib)
	}
	// About 80 MiB are charged by now, and the limit still holds.
	if n, err := backing.Charged(v.data()); err != nil || n < 70*mib {
		t.Fatalf("%d MiB are charged, %v: the test shows nothing", n/mib, err)
	}
	a.eventually("the quota follows", func() bool {
		l := v.live.size
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.quota-l.charged <= 48*mib && l.quota >= 100*mib
	})
	if got := fill(t, writeOn, dir+"/g", "128"); got != "EDQUOT" {
		t.Fatalf("%q", got)
	}
	a.within("db", 64*mib+minMargin+onTheWay)
	a.unmount("db", "1")
}

// A volume that is larger than its limit is fetched as a whole, mounted, and does not grow.
func TestSize_LargerVolumeIsFetchedAndDoesNotGrow(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	fill(t, writeOn, dir+"/f", "40")
	sum := shell(t, `sha256sum < "$1/f"`, dir)
	a.unmount("db", "1")
	a.released("db")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "size=16MiB", "prefetch=none")
	dir = b.mount("db", "1")
	if i := b.info("db"); i.SizeSoft != softFetching || i.SizeUsed < 40*mib || i.SizeUsed > 41*mib { // what is still remote counts once
		t.Fatalf("%+v", i)
	}
	if got := fill(t, writeOn, dir+"/g", "1"); got != "ENOSPC" {
		t.Fatalf("half fetched, 1 MiB more: %q", got)
	}
	must(t, b.Hydrate(ctx(t), "db", true, nil))
	if got := shell(t, `sha256sum < "$1/f"`, dir); got != sum {
		t.Fatal("other content")
	}
	b.eventually("the quota stands behind it", func() bool { return b.info("db").SizeSoft == "" })
	if got := fill(t, writeOn, dir+"/g", "1"); got != "ENOSPC" {
		t.Fatalf("complete, 1 MiB more: %q", got)
	}
	fill(t, `
f = os.open(sys.argv[1], os.O_RDWR)
for n in range(32): os.pwrite(f, os.urandom(1 << 16), n << 16)
os.fsync(f)
`, dir+"/f")
	if used, err := strconv.ParseUint(strings.TrimSpace(shell(t, `df --block-size=1 --output=avail "$1" | tail -n 1`, dir)), 10, 64); err != nil || used != 0 {
		t.Fatalf("%d bytes are available, %v", used, err)
	}
	shell(t, `rm -f "$1/g"; truncate -s 4M "$1/f"`, dir)
	b.eventually("room again", func() bool {
		return exec.Command("sh", "-c", `head -c 4000000 /dev/urandom > "$1/g"`, "sh", dir).Run() == nil
	})
}
