package lazy_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

var crashImages = flag.Int("images", 12, "how many crashes TestTree_SurvivesCommitsAtRandomMoments looks at")

const (
	crashFiles   = 4  // that are written
	crashDirs    = 40 // that are filled, and get a file each
	crashReaders = 5  // files in each, that are only read
)

// TestTree_SurvivesCommitsAtRandomMoments runs random operations on a
// half-fetched volume, while BTRFS commits what it has at random moments, without
// what is still only in memory. Right after some of these the image of the
// pool is cloned, which is what a crash would leave. Each clone is mounted, which
// replays the log, and opened with a new Tree. A sector of a file must then be what
// the last fsync left, or what was written there since; what nobody
// wrote is what the snapshot has. A BTRFS snapshot would not do in a clone's place:
// it writes all that is in memory first.
//
// With the build tag crashtest, -omit N shows that it fails without rule RN.
func TestTree_SurvivesCommitsAtRandomMoments(t *testing.T) {
	omitRule(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorld(t)
	c := newCrashWorld(t, w, seed)
	r := w.publish(c.src, replica.Base{})
	check(t, backing.CreateSubvolume(c.volume()))
	_, err := lazy.Create(context.Background(), c.volume(), w.store, w.key.Sealer(), r.Base.Root)
	check(t, err)
	v := w.open(c.volume(), lazy.Options{Prefetch: lazy.PrefetchNone})
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range c.files {
		wg.Go(func() { c.work(ctx, v, f) })
	}
	wg.Go(func() { c.create(ctx, v) })
	for range *crashImages {
		c.crash()
	}
	stop()
	wg.Wait()
	v.close()
	if t.Failed() {
		return
	}
	check(t, unix.Unmount(c.pool, 0))
	for i := range c.crashes {
		c.look(w, &c.crashes[i])
		if t.Failed() {
			t.Fatalf("wrong after crash %d of %d", i+1, len(c.crashes))
		}
	}
}

// version is what a sector, or the size of a file, was from an operation on.
type version struct {
	op   int
	data []byte // of a sector; without the zeros at its end
	size int
}

// crashFile is a file with all that it was.
type crashFile struct {
	name string
	rand *rand.Rand

	mu      sync.Mutex
	m       model
	op      int // the last that began
	synced  int // the last that an fsync made durable
	sectors map[int][]version
	sizes   []version
}

// begin notes what an operation that is about to begin will make of the file.
func (f *crashFile) begin(steps ...func(m *model)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op++
	for _, step := range steps {
		was := bytes.Clone(f.m.p)
		step(&f.m)
		f.noteLocked(was)
	}
}

func (f *crashFile) noteLocked(was []byte) {
	now := f.m.p
	f.sizes = append(f.sizes, version{op: f.op, size: len(now)})
	for i := 0; i*4096 < max(len(now), len(was)); i++ {
		a, b := sectorOf(was, i), sectorOf(now, i)
		if f.sectors[i] == nil || !bytes.Equal(a, b) {
			f.sectors[i] = append(f.sectors[i], version{op: f.op, data: bytes.Clone(b)})
		}
	}
}

func sectorOf(p []byte, i int) []byte {
	p = p[min(i*4096, len(p)):min((i+1)*4096, len(p))]
	return bytes.TrimRight(p, "\x00")
}

// allowed reports whether one of the versions that may be seen after a crash is right.
func allowed(all []version, synced, begun int, is func(v *version) bool) bool {
	for i := range all {
		if all[i].op > begun {
			break
		}
		over := i+1 < len(all) && all[i+1].op <= synced // replaced by what is durable
		if !over && is(&all[i]) {
			return true
		}
	}
	return false
}

// crash is a clone of the pool's image.
type crash struct {
	image         string
	synced, begun [crashFiles]int
	made          map[string]bool // files that were created and synced
}

type crashWorld struct {
	t       *testing.T
	src     string
	pool    string // mounted from image
	image   string
	rand    *rand.Rand
	files   []*crashFile
	crashes []crash

	mu   sync.Mutex
	made map[string]bool // by name: created; true: and synced
}

func newCrashWorld(t *testing.T, w *world, seed uint64) *crashWorld {
	c := &crashWorld{t: t, src: w.subvolume(), rand: rand.New(rand.NewPCG(seed, 0)), made: map[string]bool{}}
	for i := range crashFiles {
		f := &crashFile{name: fmt.Sprintf("f%d", i), rand: rand.New(rand.NewPCG(seed, uint64(i+1))), sectors: map[int][]version{}}
		p := noise(uint64(i), 300_000+200_000*i+777)
		for off := 16384 + 4096*i; off+12288 < len(p); off += 98304 { // holes
			clear(p[off : off+12288])
		}
		file, err := os.Create(filepath.Join(c.src, f.name))
		check(t, err)
		_, err = file.Write(p)
		check(t, err)
		for off := 16384 + 4096*i; off+12288 < len(p); off += 98304 {
			check(t, unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), 12288))
		}
		check(t, file.Close())
		f.m.p = p
		f.noteLocked(nil)
		c.files = append(c.files, f)
	}
	for d := range crashDirs {
		dir := filepath.Join(c.src, fmt.Sprintf("d%d", d))
		check(t, os.Mkdir(dir, 0o755))
		check(t, os.Mkdir(dir+"/sub", 0o755))
		for k := range crashReaders {
			check(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(k)), c.reader(d, k), 0o644))
			check(t, os.WriteFile(filepath.Join(dir, "sub", fmt.Sprint(k)), c.reader(d, k), 0o644))
		}
	}
	dir := t.TempDir()
	c.pool, c.image = filepath.Join(dir, "pool"), filepath.Join(w.dir+".images", "image")
	check(t, os.Mkdir(filepath.Dir(c.image), 0o700)) // beside the volumes, where files can be cloned
	p := backing.LoopPool{File: c.image, Dir: c.pool, Size: 512 << 20}
	check(t, p.Create(context.Background()))
	t.Cleanup(func() {
		_ = unix.Unmount(c.pool, 0) // no error is worth more than the test's own
		check(t, os.RemoveAll(filepath.Dir(c.image)))
	})
	return c
}

func (c *crashWorld) volume() string { return filepath.Join(c.pool, "data") }

// reader is the content of a file that is only read.
func (c *crashWorld) reader(dir, k int) []byte { return noise(uint64(1000+dir*10+k), 3000+k*9000) }

// work does random operations on f until ctx ends.
func (c *crashWorld) work(ctx context.Context, v *volume, f *crashFile) {
	h := v.openFile(f.name)
	defer h.close()
	for n := uint64(1); ctx.Err() == nil; n++ {
		if err := c.operate(h, f, n); err != nil {
			c.t.Errorf("%s: %v", f.name, err)
			return
		}
		time.Sleep(time.Duration(f.rand.IntN(3000)) * time.Microsecond)
	}
}

func (c *crashWorld) operate(h *handle, f *crashFile, n uint64) error {
	size := len(f.m.p) // only this goroutine changes it
	off := f.rand.IntN(size + 8192)
	switch f.rand.IntN(10) {
	case 0, 1, 2:
		p := noise(n<<2|3, 1+f.rand.IntN(20_000))
		if f.rand.IntN(2) == 0 { // whole sectors
			off, p = off&^4095, append(p, make([]byte, 4096-len(p)%4096)...)
		}
		end := off + len(p)
		// Longer first: an end that moved may be durable before what is there.
		f.begin(func(m *model) { m.truncate(uint64(max(end, size))) }, func(m *model) { m.write(uint64(off), p) })
		return h.write(uint64(off), p)
	case 3: // at the end
		p := noise(n<<2|3, 1+f.rand.IntN(6000))
		f.begin(func(m *model) { m.truncate(uint64(size + len(p))) }, func(m *model) { m.write(uint64(size), p) })
		return h.write(uint64(size), p)
	case 4:
		// Down to whole sectors only: BTRFS itself may show what was behind a
		// cut in the middle of one.
		to := uint64(max(off&^4095, 65536))
		f.begin(func(m *model) { m.truncate(to) })
		return h.truncate(to)
	case 5:
		to := uint64(size + f.rand.IntN(40_000))
		f.begin(func(m *model) { m.truncate(to) })
		return h.truncate(to)
	case 6, 7:
		n, mode := uint64(1+f.rand.IntN(30_000)), uint32(unix.FALLOC_FL_PUNCH_HOLE)
		if f.rand.IntN(2) == 0 {
			mode = unix.FALLOC_FL_ZERO_RANGE
		}
		f.begin(func(m *model) { m.zero(uint64(off), n, true) })
		return h.punch(uint64(off), n, mode|unix.FALLOC_FL_KEEP_SIZE)
	case 8:
		_, err := h.read(uint64(off), uint64(1+f.rand.IntN(40_000)))
		return err
	}
	f.mu.Lock()
	op := f.op
	f.mu.Unlock()
	if err := h.v.Sync(context.Background(), h.fd, func() error { return unix.Fsync(h.fd) }); err != nil {
		return err
	}
	f.mu.Lock()
	f.synced = op
	f.mu.Unlock()
	return nil
}

// create fills one directory after the other, makes a file in it and syncs
// that, and reads what else is there.
func (c *crashWorld) create(ctx context.Context, v *volume) {
	r := rand.New(rand.NewPCG(7, uint64(len(c.src))))
	for _, d := range r.Perm(crashDirs) {
		if ctx.Err() != nil {
			return
		}
		dir := fmt.Sprintf("d%d", d)
		if r.IntN(2) == 0 {
			dir += "/sub"
		}
		name := dir + "/new"
		check := func(err error) bool {
			if err != nil {
				c.t.Errorf("%s: %v", name, err)
			}
			return err == nil
		}
		if !check(v.Fill(context.Background(), v.ino(dir))) {
			return
		}
		c.mu.Lock()
		c.made[name] = false
		c.mu.Unlock()
		f, err := os.Create(filepath.Join(v.path, name))
		if !check(err) {
			return
		}
		_, err = f.Write([]byte(name))
		if err == nil {
			err = v.Sync(context.Background(), int(f.Fd()), f.Sync)
		}
		f.Close()
		if err == nil && r.IntN(2) == 0 {
			err = syncDir(v, filepath.Join(v.path, dir))
		}
		if !check(err) {
			return
		}
		c.mu.Lock()
		c.made[name] = true
		c.mu.Unlock()
		for k := range crashReaders {
			h := v.openFile(fmt.Sprintf("%s/%d", dir, k))
			got, err := h.read(0, 100_000)
			h.close()
			if !check(err) {
				return
			}
			if !bytes.Equal(got, c.reader(d, k)) {
				c.t.Errorf("%s/%d reads wrong before any crash", dir, k)
			}
		}
		time.Sleep(time.Duration(r.IntN(60_000)) * time.Microsecond)
	}
}

func syncDir(v *volume, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return v.Sync(context.Background(), int(f.Fd()), f.Sync)
}

// crash commits what BTRFS has, without what is not written back yet, and
// clones the image a moment later.
func (c *crashWorld) crash() {
	time.Sleep(time.Duration(20+c.rand.IntN(100)) * time.Millisecond)
	if c.rand.IntN(2) == 0 { // else the log has all since the last one
		fd, err := unix.Open(c.pool, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		check(c.t, err)
		defer unix.Close(fd)
		id, err := backing.StartSync(fd)
		check(c.t, err)
		check(c.t, backing.WaitSync(fd, id))
		time.Sleep(time.Duration(c.rand.IntN(30)) * time.Millisecond)
	}

	k := crash{image: fmt.Sprintf("%s-%d", c.image, len(c.crashes)), made: map[string]bool{}}
	for i, f := range c.files {
		f.mu.Lock()
		k.synced[i] = f.synced
		f.mu.Unlock()
	}
	c.mu.Lock()
	for name, synced := range c.made {
		k.made[name] = synced
	}
	c.mu.Unlock()
	from, err := os.Open(c.image)
	check(c.t, err)
	defer from.Close()
	to, err := os.Create(k.image)
	check(c.t, err)
	defer to.Close()
	check(c.t, unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
	for i, f := range c.files {
		f.mu.Lock()
		k.begun[i] = f.op
		f.mu.Unlock()
	}
	c.crashes = append(c.crashes, k)
}

// look mounts a clone and compares all that is in it with what it may be.
func (c *crashWorld) look(w *world, k *crash) {
	t := c.t
	out, err := exec.Command("mount", "-t", "btrfs", "-o", "loop,noatime", k.image, c.pool).CombinedOutput()
	if err != nil {
		t.Fatalf("mount %s: %v: %s", k.image, err, out)
	}
	v := w.open(c.volume(), lazy.Options{Prefetch: lazy.PrefetchNone})
	defer func() {
		v.close()
		check(t, unix.Unmount(c.pool, 0))
		check(t, os.Remove(k.image))
	}()
	for i, f := range c.files {
		h := v.openFile(f.name)
		got, err := h.read(0, 4<<20)
		h.close()
		check(t, err)
		f.compare(t, got, k.synced[i], k.begun[i])
	}
	for d := range 2 * crashDirs {
		dir := fmt.Sprintf("d%d", d/2) + []string{"", "/sub"}[d%2]
		d := d / 2
		check(t, v.Fill(context.Background(), v.ino(dir)))
		for n := range crashReaders {
			name := fmt.Sprintf("%s/%d", dir, n)
			h := v.openFile(name)
			got, err := h.read(0, 100_000)
			h.close()
			check(t, err)
			if want := c.reader(d, n); !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d, first difference at %d", name, len(got), len(want), differs(got, want))
			}
		}
	}
	for name, synced := range k.made {
		got, err := os.ReadFile(filepath.Join(v.path, name))
		if synced && (err != nil || string(got) != name) {
			t.Errorf("%s was synced: %q, %v", name, got, err)
		}
	}
}

func (f *crashFile) compare(t *testing.T, got []byte, synced, begun int) {
	t.Helper()
	if !allowed(f.sizes, synced, begun, func(v *version) bool { return v.size == len(got) }) {
		t.Errorf("%s: size %d is none that it may have", f.name, len(got))
	}
	for i := 0; i*4096 < len(got); i++ {
		here := got[i*4096 : min((i+1)*4096, len(got))]
		if !allowed(f.sectors[i], synced, begun, func(v *version) bool {
			return bytes.Equal(bytes.TrimRight(here, "\x00"), bytes.TrimRight(v.data[:min(len(v.data), len(here))], "\x00"))
		}) {
			was := "something else"
			if len(bytes.TrimRight(here, "\x00")) == 0 {
				was = "zeros"
			}
			t.Errorf("%s: sector %d is %s; operation %d was synced, %d had begun, changes were %v", f.name, i, was, synced, begun, ops(f.sectors[i]))
		}
	}
}

func ops(all []version) (out []int) {
	for i := range all {
		out = append(out, all[i].op)
	}
	return out
}
