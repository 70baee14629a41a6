package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/seal"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ButterFrom is where Buttervolume keeps its volumes, where its administrator did not say otherwise.
const ButterFrom = "/var/lib/buttervolume"

// ButterOptions say what is taken over from Buttervolume, and how.
type ButterOptions struct {
	From     string   // folder with its volumes/ and snapshots/; empty: ButterFrom
	Schedule string   // its schedule.csv; empty: looked for where it may be, and none is no error
	Zone     string   // time zone of the names of its snapshots; empty: UTC, as in its container
	Volumes  []string // NAME, or NAME=NEW for another name here; empty: all
	DryRun   bool     // look, and change nothing
}

// ButterResult says what was taken over, and what was not and why.
type ButterResult struct {
	From    string         `json:"from"`
	DryRun  bool           `json:"dry_run"`
	Volumes []ButterVolume `json:"volumes"`
	Jobs    []ButterJob    `json:"jobs"`
	Failed  int            `json:"failed"` // volumes that could not be taken over
}

// What became of a volume or a scheduled job of Buttervolume.
const (
	ButterImported = "imported"
	ButterWould    = "would import"
	ButterAlready  = "here already"
	ButterLeftOut  = "left out"
	ButterFailed   = "FAILED"
)

// ButterVolume is one volume of Buttervolume, and what became of it.
type ButterVolume struct {
	Name      string   `json:"name"`
	As        string   `json:"as"` // its name here
	Status    string   `json:"status"`
	Snapshots int      `json:"snapshots"` // that came along
	Notes     []string `json:"notes,omitempty"`
}

// importRecord says which subvolume of Buttervolume a volume was made of, so that no second one is made of it.
type importRecord struct {
	UUID    string `json:"uuid"`    // of the original
	Transid uint64 `json:"transid"` // BTRFS transaction up to which data holds the original's changes
}

func (i *importRecord) check() error {
	if i != nil && (!isUUID(i.UUID) || i.Transid == 0) {
		return errRecord
	}
	return nil
}

// importSuffix is that of a volume's folder while it is made. Open throws such a folder away.
const importSuffix = ".import"

// ImportButtervolume takes over volumes of Buttervolume with their snapshots, and its scheduled jobs, by BTRFS snapshots: nothing is copied, and
// its own stay as they are. Each volume gets a key of its own. Its snapshots become generations in the order of
// their times, the present state follows as the newest. It can be run again at any time: what is here already is left alone.
//
// A volume that cannot be taken over does not keep the others from it: its Status and Notes say what to do.
func (m *Manager) ImportButtervolume(ctx context.Context, o ButterOptions) (ButterResult, error) {
	res := ButterResult{From: o.From, DryRun: o.DryRun, Volumes: []ButterVolume{}, Jobs: []ButterJob{}}
	if res.From == "" {
		res.From = ButterFrom
	}
	fail := func(err error) (ButterResult, error) { return res, fmt.Errorf("import from Buttervolume: %w", err) }
	if err := m.ready(); err != nil {
		return fail(err)
	}
	if err := m.poolError(); err != nil {
		return fail(err)
	}
	zone, err := time.LoadLocation(o.Zone)
	if err != nil {
		return fail(fmt.Errorf("%w: %q is no time zone that this machine knows, such as Europe/Paris", ErrOption, clip(o.Zone)))
	}
	src, err := m.openButter(res.From, zone)
	if err != nil {
		return fail(err)
	}
	picks, err := src.pick(o.Volumes)
	if err != nil {
		return fail(err)
	}
	jobs, err := readButterJobs(o.Schedule, res.From)
	if err != nil {
		return fail(err) // before anything is done
	}
	names := map[string]string{} // of the volumes that are here now, theirs to ours
	for _, p := range picks {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		bv := m.importButter(src, p, o.DryRun)
		if bv.Status == ButterFailed {
			res.Failed++
		} else {
			names[p.name] = p.as
		}
		res.Volumes = append(res.Volumes, bv)
	}
	if len(o.Volumes) == 0 {
		res.Volumes = append(res.Volumes, src.orphans()...)
	}
	if res.Jobs, err = m.importButterJobs(jobs, names, o.DryRun); err != nil {
		return fail(err)
	}
	m.poke()
	return res, nil
}

// butter is a folder of Buttervolume.
type butter struct {
	dir       string
	zone      *time.Location
	volumes   []string                // by name
	snapshots map[string][]butterSnap // of a volume, ascending by time
	strange   map[string][]string     // names in snapshots/ that hold no time
	paths     map[uint64]string       // of subvolumes below the root of the file system, by id
	mounted   map[string]bool         // see mountedRoots
}

// openButter reads what is there, and makes sure that snapshots of it can be made in the pool.
func (m *Manager) openButter(dir string, zone *time.Location) (*butter, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%w: %q is not an absolute path", ErrOption, clip(dir))
	}
	b := &butter{dir: filepath.Clean(dir), zone: zone, snapshots: map[string][]butterSnap{}, strange: map[string][]string{}}
	list, err := os.ReadDir(b.volume(""))
	if err != nil {
		return nil, fmt.Errorf("%w: no volumes of Buttervolume there: %w; name the folder that holds its volumes/ and snapshots/ with --from, "+
			"by the path that the driver sees (a driver in a container sees what is mounted into it)", ErrOption, err)
	}
	theirs, err := backing.PoolStatus(b.volume(""))
	if err != nil {
		return nil, err
	}
	ours, err := backing.PoolStatus(m.o.Root)
	if err != nil {
		return nil, err
	}
	if theirs.FSType != "btrfs" || theirs.UUID != ours.UUID {
		return nil, fmt.Errorf("%w: %s is not on the BTRFS file system of the pool %s, and a BTRFS snapshot cannot leave its file system: either give the driver a "+
			"folder on that file system as its root (--root, FRACTAL_ROOT), or bring the volumes to this one first with `btrfs send | btrfs receive` into "+
			"volumes/ and snapshots/ of a folder here, and name that with --from; docs/BUTTERVOLUME.md has the commands", ErrOption, b.dir, m.o.Root)
	}
	for _, e := range list {
		if ok, err := backing.IsSubvolume(b.volume(e.Name())); err == nil && ok {
			b.volumes = append(b.volumes, e.Name())
		}
	}
	list, err = os.ReadDir(b.snapshot(""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range list {
		s, ok := parseButterSnap(e.Name(), zone)
		if sub, err := backing.IsSubvolume(b.snapshot(e.Name())); err != nil || !sub || s.host != "" {
			continue // one with a host is a second snapshot of the same, which says what was sent where
		}
		if !ok {
			b.strange[s.volume] = append(b.strange[s.volume], e.Name())
			continue
		}
		b.snapshots[s.volume] = append(b.snapshots[s.volume], s)
	}
	for _, all := range b.snapshots {
		slices.SortStableFunc(all, func(a, b butterSnap) int { return a.at.Compare(b.at) })
	}
	return b, b.lookForUse()
}

// lookForUse finds out what containers have mounted.
func (b *butter) lookForUse() error {
	b.paths, b.mounted = map[uint64]string{}, mountedRoots()
	if len(b.volumes) == 0 {
		return nil
	}
	all, err := backing.List(b.volume(b.volumes[0]))
	for _, s := range all {
		b.paths[s.ID] = "/" + strings.TrimPrefix(s.Path, "/")
	}
	return err
}

func (b *butter) volume(name string) string   { return filepath.Join(b.dir, "volumes", name) }
func (b *butter) snapshot(name string) string { return filepath.Join(b.dir, "snapshots", name) }

// orphans are the snapshots of volumes that are gone.
func (b *butter) orphans() (out []ButterVolume) {
	for _, name := range slices.Sorted(maps.Keys(b.snapshots)) {
		if !slices.Contains(b.volumes, name) {
			out = append(out, ButterVolume{Name: name, Status: ButterLeftOut, Notes: []string{fmt.Sprintf(
				"the volume was removed, and %d snapshots of it are there: `buttervolume restore %s` brings it back; then import again", len(b.snapshots[name]), name)}})
		}
	}
	return out
}

// butterPick is a volume to be taken over, and its name here.
type butterPick struct{ name, as string }

// pick reads the volumes that were asked for.
func (b *butter) pick(asked []string) (picks []butterPick, err error) {
	if len(asked) == 0 {
		asked = b.volumes
	}
	for _, a := range asked {
		name, as, given := strings.Cut(a, "=")
		if !given {
			as = name
		}
		if !slices.Contains(b.volumes, name) {
			return nil, fmt.Errorf("%w: Buttervolume has no volume %q under %s", ErrUnknown, clip(name), b.volume(""))
		}
		if slices.ContainsFunc(picks, func(p butterPick) bool { return p.name == name || p.as == as }) {
			return nil, fmt.Errorf("%w: %q is there twice", ErrOption, clip(a))
		}
		picks = append(picks, butterPick{name, as})
	}
	return picks, nil
}

// importButter takes one volume over, or says why it cannot be.
func (m *Manager) importButter(b *butter, p butterPick, dry bool) ButterVolume {
	out := ButterVolume{Name: p.name, As: p.as, Status: ButterFailed, Snapshots: len(b.snapshots[p.name])}
	note := func(format string, a ...any) { out.Notes = append(out.Notes, fmt.Sprintf(format, a...)) }
	if err := checkName(p.as); err != nil {
		note("%v; give it another name here: `fractal-lazy import-buttervolume '%s=NEW'`", err, p.name)
		return out
	}
	info, err := backing.Info(b.volume(p.name))
	if err != nil {
		note("%v", err)
		return out
	}
	m.loadMu.Lock() // one creation at a time
	defer m.loadMu.Unlock()
	origin := uuid.UUID(info.UUID).String()
	if v := m.importedFrom(origin); v != nil {
		out.Status, out.As, out.Snapshots = ButterAlready, v.name, 0
		if changed, _, err := backing.Changed(b.volume(p.name), v.record().Imported.Transid); err != nil {
			note("%v", err)
		} else if changed {
			note("the original was written to after it was taken over, and what was written is not here: either stop what uses the original, remove %s here, and import again, "+
				"or go on with %s and forget the original", v.name, v.name)
		}
		return out
	}
	m.mu.Lock()
	taken := m.vols[p.as] != nil
	m.mu.Unlock()
	if taken {
		note("another volume here has the name %s: give it another one: `fractal-lazy import-buttervolume %s=NEW`", p.as, p.name)
		return out
	}
	if n, err := backing.Nested(b.volume(p.name)); err != nil || n > 0 {
		if err == nil {
			err = fmt.Errorf("it holds %d subvolumes of its own, which a BTRFS snapshot leaves out: make folders of them first (move the subvolume aside, "+
				"`cp -a --reflink=always` it to its place)", n)
		}
		note("%v", err)
		return out
	}
	if len(b.snapshots[p.name]) >= maxSnapshots {
		note("it has %d snapshots, and a volume can wait for the upload of %d: purge some with `buttervolume purge` first", len(b.snapshots[p.name]), maxSnapshots-1)
		return out
	}
	for _, s := range b.strange[p.name] {
		note("%s is left out: there is no time in its name", clip(s))
	}
	if path := b.paths[info.ID]; path != "" && mountedBelow(b.mounted, path) {
		note("a container uses the original: what is taken over is what a power cut would leave, and what is written to the original from now on is not here")
	}
	if dry {
		out.Status = ButterWould
		return out
	}
	if err := m.enrolButter(b, p, origin); err != nil {
		note("%v", err)
		return out
	}
	out.Status = ButterImported
	return out
}

// importedFrom finds the volume that was made of a subvolume.
func (m *Manager) importedFrom(origin string) *vol {
	for _, v := range m.all() {
		if i := v.record().Imported; i != nil && i.UUID == origin {
			return v
		}
	}
	return nil
}

// enrolButter makes the volume. m.loadMu is held.
//
// Order: 1. volumes/<pubkey>.import with data and snapshots, BTRFS snapshots of the originals, and volume.json, which names the original;
// 2. all that to the disk; 3. the folder is renamed to volumes/<pubkey>, which makes it a volume; 4. that to the disk. A crash
// before 3 is on the disk leaves a folder that the next Open throws away, and the next import begins anew; one after it leaves the whole volume, which the next import
// knows by the original's UUID.
func (m *Manager) enrolButter(b *butter, p butterPick, origin string) (err error) {
	key, err := seal.GeneratePrivkey()
	if err != nil {
		return err
	}
	rec := &record{Name: p.as, Made: true, Created: m.now().UTC(), Release: m.pub != nil} // publish it now
	flags, err := rootFlags(b.volume(p.name))
	if err != nil {
		return err
	}
	if flags&flagNoCOW != 0 {
		rec.Options = map[string]string{"nocow": "true"}
	}
	set, err := parseSettings(rec.Options, max(m.o.Interval, 0))
	if err != nil {
		return err
	}
	home := filepath.Join(m.volumes(), key.Public().String())
	made := newVol(home+importSuffix, rec, key, key.Public(), set)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.toTrash(made.dir))
		}
	}()
	if err := os.MkdirAll(made.snaps(), 0o700); err != nil {
		return err
	}
	for _, s := range b.snapshots[p.name] { // 1
		id := newSnapshotID()
		if err := backing.Snapshot(b.snapshot(s.name), made.snap(id), true); err != nil {
			return err
		}
		rec.Snapshots = append(rec.Snapshots, snapRecord{ID: id, Kind: kindPending, Created: s.at.UTC()})
	}
	if err := backing.SyncFS(b.volume(p.name)); err != nil {
		return err
	}
	if err := backing.Snapshot(b.volume(p.name), made.data(), false); err != nil {
		return err
	}
	info, err := backing.Info(made.data())
	if err != nil {
		return err
	}
	rec.Imported = &importRecord{UUID: origin, Transid: info.CreatedTransid}
	if err := m.keepKey(rec, key); err != nil {
		return err
	}
	made.rec = *rec
	if err := made.update(func(*record) {}); err != nil {
		return err
	}
	if err := backing.SyncFS(made.dir); err != nil { // 2
		return err
	}
	if err := os.Rename(made.dir, home); err != nil { // 3
		return err
	}
	v := newVol(home, rec, key, key.Public(), set)
	m.mu.Lock()
	m.vols[v.name] = v
	m.mu.Unlock()
	m.logger(v, "import").Info().Str("of", b.volume(p.name)).Int("snapshots", len(rec.Snapshots)).Msg("volume of Buttervolume taken over")
	return syncDir(m.volumes()) // 4
}

// clearImports throws away what a crash left of volumes that were being taken over.
func (m *Manager) clearImports() error {
	left, err := filepath.Glob(filepath.Join(m.volumes(), "*"+importSuffix))
	return errors.Join(err, m.toTrash(left...))
}

// rootFlags returns the FS_IOC_GETFLAGS of a subvolume's root.
func rootFlags(path string) (uint32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open subvolume %s: %w", path, err)
	}
	defer unix.Close(fd)
	return backing.GetFlags(fd)
}
