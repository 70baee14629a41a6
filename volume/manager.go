package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/metrics"
	"fractal-lazy/pace"
	"fractal-lazy/replica"
	"fractal-lazy/schedule"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// Deps are the parts that main names.
type Deps struct {
	Store   store.Store  // nil: not configured
	Hive    *hive.Client // nil: not configured
	Log     zerolog.Logger
	Now     func() time.Time // nil: time.Now
	Remotes Remotes          // nil: there are none
	// Metrics gets the figures of the volumes; nil: nobody collects them.
	Metrics *metrics.Set
	// Keep holds mounts beyond this process; nil: they end with it.
	Keep Keeper
}

// Options of a Manager. The zero value of each is a default, but for Root.
type Options struct {
	Root     string        // the pool
	Mounts   string        // folder of mount points; empty: Root/mnt
	Interval time.Duration // default time between snapshots; 0: 60 s; negative: none but at unmount and on demand
	Upload   uint64        // bytes a second of all uploads together; 0: no limit
	Download uint64        // the same of fetching in the background, and of Verify
	Machine  uuid.UUID     // zero: read from (or made at) Root/machine-id
	// SharedMounts: nothing is mounted unless Mounts is on a shared mount.
	SharedMounts bool
	// PassphraseFile has the passphrase of this machine, with which the keys in volume.json are sealed; empty: there is none.
	PassphraseFile string
	// PlainKeys: the passphrase opens what is sealed, and nothing is sealed any more.
	PlainKeys bool
	Trash     time.Duration // how long removed volumes stay in Root/trash; 0: until the next moment of leisure
}

// answerIn is how long Mount and Unmount wait before they leave the work to
// the background. Docker gives up, and forgets, after 30 s.
const answerIn = 20 * time.Second

// Manager owns the volumes of one pool. Safe for concurrent use.
type Manager struct {
	d      Deps
	o      Options
	log    zerolog.Logger
	now    func() time.Time
	pub    *replica.Publisher // nil where the store or the Hive is not configured
	store  store.Store        // never nil
	up     *pace.Line         // what uploads share
	down   *pace.Line         // what background fetching shares
	boot   string
	answer time.Duration // answerIn
	busy   time.Duration // busyFor
	record time.Duration // recordFor

	life   context.Context // ends with Close; everything in the background runs under it
	end    context.CancelFunc
	jobs   sync.WaitGroup
	wake   chan struct{}    // the scheduler has something to look at
	loadMu sync.Mutex       // one load at a time; taken before mu
	keys   keyring          // loadMu guards it
	held   map[string]*held // mounts of the process before this one, by key; loadMu guards it

	mu       sync.Mutex // guards all below; taken before any vol.mu
	loaded   bool
	lock     *os.File // keeps other daemons off this root
	machine  uuid.UUID
	vols     map[string]*vol
	making   map[string]*vol  // clones that are no volumes yet, by name; what they take content from must stay
	sched    *schedule.Runner // nil: schedErr says why
	schedErr error
	noPass   error // why the passphrase of this machine cannot be read
	ending   bool  // Close has begun: nothing is mounted any more
	closed   bool  // and nothing is begun in the background
	running  bool  // Run
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

const maxName = 200 // bytes; the mount point bears the name

func checkName(name string) error {
	if len(name) > maxName || !validName.MatchString(name) {
		return fmt.Errorf("%w: %q: use letters, digits, '_', '.' and '-', a letter or digit first, at most %d of them", ErrName, clip(name), maxName)
	}
	return nil
}

// Open makes a Manager of the volumes under o.Root. It fails for options that
// cannot work, never for a missing BTRFS, Hive or store: those come as
// ErrNotReady from the calls that need them, until they are there.
func Open(ctx context.Context, d Deps, o Options) (*Manager, error) {
	if !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("root folder %q is not an absolute path", o.Root)
	}
	o.Root = filepath.Clean(o.Root)
	if o.Mounts == "" {
		o.Mounts = filepath.Join(o.Root, "mnt")
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	m := &Manager{d: d, o: o, log: d.Log, now: d.Now, store: d.Store, boot: bootID(), answer: answerIn, busy: busyFor, record: recordFor,
		wake: make(chan struct{}, 1), vols: map[string]*vol{}, making: map[string]*vol{}, machine: o.Machine}
	m.up, m.down = pace.NewLine(o.Upload), pace.NewLine(o.Download)
	m.life, m.end = context.WithCancel(context.Background())
	if m.store == nil {
		m.store = noStore{}
	}
	if d.Hive != nil && d.Store != nil {
		m.pub = replica.New(replica.Deps{Store: d.Store, Hive: d.Hive, Nodes: filepath.Join(o.Root, "nodes"), Log: d.Log})
	}
	if err := m.ready(); err != nil {
		m.log.Warn().Err(err).Str("op", "open").Msg("volumes cannot be used yet")
	}
	return m, ctx.Err()
}

// ready loads the volumes as soon as the pool is there. ErrNotReady says what is missing.
func (m *Manager) ready() error {
	m.mu.Lock()
	loaded, closed := m.loaded, m.closed
	m.mu.Unlock()
	switch {
	case closed:
		return fmt.Errorf("%w: the driver is stopping", ErrNotReady)
	case loaded:
		return nil
	}
	m.loadMu.Lock()
	defer m.loadMu.Unlock()
	m.mu.Lock()
	loaded = m.loaded
	m.mu.Unlock()
	if loaded {
		return nil
	}
	return m.load()
}

// poolError tells why the root folder cannot hold volumes.
func (m *Manager) poolError() error { return CheckRoot(m.o.Root) }

// CheckRoot returns ErrNotReady, with what mends it, where root cannot hold volumes.
func CheckRoot(root string) error {
	err := backing.CheckPool(root)
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: the state folder %s: %w; `fractal-lazy pool create --size 20G` makes a pool there", ErrNotReady, root, err)
}

// lookup finds a volume by name.
func (m *Manager) lookup(name string) (*vol, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := m.ready(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vols[name]
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return v, nil
}

func (m *Manager) all() []*vol {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Collect(maps.Values(m.vols))
	slices.SortFunc(out, func(a, b *vol) int { return strings.Compare(a.name, b.name) })
	return out
}

// allAndMaking is all, with the clones that are being made.
func (m *Manager) allAndMaking() []*vol {
	m.mu.Lock()
	making := slices.Collect(maps.Values(m.making))
	m.mu.Unlock()
	return append(making, m.all()...) // in this order: one that is made meanwhile is in the second
}

// background runs do in a goroutine that Close waits for. It reports false
// once Close has begun.
func (m *Manager) background(do func(ctx context.Context)) bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	m.jobs.Add(1)
	m.mu.Unlock()
	go func() {
		defer m.jobs.Done()
		do(m.life)
	}()
	return true
}

// poke makes the scheduler look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// logger is that of one volume and operation.
func (m *Manager) logger(v *vol, op string) *zerolog.Logger {
	l := m.log.With().Str("volume", v.name).Str("op", op).Logger()
	return &l
}

// Close stops everything: it unmounts, takes final snapshots, and while ctx
// lasts and Run runs, uploads them and gives the volumes back. What is left
// then goes on after the next Open. Mounts that are in use and that go on without this process stay (leave); those of FUSE are
// served until it ends, and the pool stays locked as long. Close is called once; Run returns by it.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.ending {
		m.mu.Unlock()
		return nil
	}
	m.ending = true
	m.mu.Unlock()
	var errs []error
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, v := range m.all() {
		wg.Go(func() {
			// The local part gets its time even where ctx has none left: it is
			// what keeps the data together.
			down, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerIn)
			defer cancel()
			err := m.close(ctx, down, v)
			// A volume that was taken over has nothing left to publish or to give
			// back, and its log and state say so: that is no failure to stop.
			if err != nil && !errors.Is(err, ErrFenced) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.end()
	m.jobs.Wait()
	serving := false
	for _, v := range m.all() {
		switch {
		case v.live == nil:
		case v.live.how == mountDirect:
			errs = append(errs, v.live.letGo())
		default:
			serving = m.d.Keep != nil && m.d.Keep.Outlives()
		}
	}
	m.mu.Lock()
	if m.lock != nil && !serving { // else the next daemon waits for the end of this process
		m.lock.Close()
		m.lock = nil
	}
	m.mu.Unlock()
	return errors.Join(errs...)
}

// close ends the use of one volume; down bounds the local part of it.
func (m *Manager) close(ctx, down context.Context, v *vol) error {
	left, err := m.leave(down, v, ctx.Err() == nil)
	upload := ctx.Err() == nil && m.isRunning() && m.pub != nil // without a Hive there is nothing to wait for
	switch {
	case err != nil:
		return err
	case left && upload:
		v.mutate(func() { v.asked = true })
		m.poke()
		return m.waitPublished(ctx, v, nil)
	case left:
		return nil
	}
	v.mutate(func() { clear(v.ids) })
	if err := m.takeDown(down, v, ctx.Err() == nil); err != nil || !upload || v.lockedWhy() != "" {
		return err
	}
	return m.waitReleased(ctx, v)
}

// endingError refuses what must not begin once Close has.
func (m *Manager) endingError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ending {
		return fmt.Errorf("%w: the driver is stopping", ErrNotReady)
	}
	return nil
}

func (m *Manager) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

// id returns the identity of this machine.
func (m *Manager) id() uuid.UUID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.machine
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
