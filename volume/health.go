package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// healthTimeout bounds each question to the network that Health asks.
const healthTimeout = 5 * time.Second

// Health looks at everything that volumes need. It asks the network, and takes
// a few seconds at most.
func (m *Manager) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	checks := []func(context.Context) Check{m.checkPool, checkFuse, checkPassthrough, m.checkHive, m.checkTime, m.checkStore, m.checkMounts, m.checkKeys, m.checkHolder}
	h := Health{OK: true, Checks: make([]Check, len(checks))}
	var wg sync.WaitGroup
	for i, do := range checks {
		wg.Go(func() { h.Checks[i] = do(ctx) })
	}
	wg.Wait()
	for _, c := range h.Checks {
		h.OK = h.OK && (c.OK || c.Name == "passthrough")
	}
	return h
}

// check makes a line of an outcome; good describes success.
func check(name, good string, err error) Check {
	if err != nil {
		return Check{Name: name, Detail: err.Error()}
	}
	return Check{Name: name, OK: true, Detail: good}
}

func (m *Manager) checkPool(context.Context) Check {
	if err := m.ready(); err != nil {
		return check("pool", "", err)
	}
	s, err := backing.PoolStatus(m.o.Root)
	if err == nil {
		err = s.Check()
	}
	return check("pool", fmt.Sprintf("%s: BTRFS, %d MiB of %d MiB free", m.o.Root, s.Free>>20, s.Size>>20), err)
}

// checkHolder is never a fault: a holder is for those who want one.
func (m *Manager) checkHolder(context.Context) Check {
	if m.d.Keep != nil && m.d.Keep.Outlives() {
		return check("holder", "mounts outlive the driver", nil)
	}
	return check("holder", "none: mounts end with the driver", nil)
}

func checkFuse(context.Context) Check { return check("fuse", "/dev/fuse opens", checkFUSE()) }

// checkPassthrough goes by the version, as the kernel tells only at a mount what it can do.
func checkPassthrough(context.Context) Check {
	var u unix.Utsname
	err := unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if err == nil {
		_, err = fmt.Sscanf(release, "%d.%d", &major, &minor)
	}
	if err == nil && (major < 6 || major == 6 && minor < 9) {
		err = fmt.Errorf("Linux %s has no FUSE passthrough: all works, but complete files are slower; 6.9 and later have it", release)
	}
	return check("passthrough", "Linux "+release+" has FUSE passthrough", err)
}

func (m *Manager) checkHive(ctx context.Context) Check {
	if m.d.Hive == nil {
		return check("hive", "", errNoHive)
	}
	err := m.d.Hive.Health(ctx)
	if err == nil {
		// Asking for a volume that nobody has the key of shows whether the token is taken.
		_, err = m.d.Hive.Volume(ctx, seal.Pubkey{})
		if errors.Is(err, hive.ErrNotFound) {
			err = nil
		}
	}
	return check("hive", "the Hive answers, and takes the token", err)
}

func (m *Manager) checkStore(ctx context.Context) Check {
	if m.d.Store == nil {
		return check("store", "", errNoStore)
	}
	_, err := m.d.Store.Has(ctx, []cid.Cid{store.Sum(store.Raw, nil)})
	return check("store", "the block store answers", err)
}

// checkTime holds the clock against the Hive's.
func (m *Manager) checkTime(ctx context.Context) Check {
	at := m.hiveTime(ctx)
	if at.IsZero() {
		return check("clock", "no Hive says what time it is", nil)
	}
	var err error
	if doubt := clockDoubt(m.now(), at, 0); doubt != "" {
		err = errors.New(doubt)
	}
	return check("clock", "within a day of the Hive's", err)
}

// mountOf returns the mount that path is on.
func mountOf(all []mountLine, path string) (on mountLine) {
	for _, l := range all {
		below := path == l.path || strings.HasPrefix(path+"/", strings.TrimSuffix(l.path, "/")+"/")
		if below && len(l.path) >= len(on.path) {
			on = l // the last one is on top
		}
	}
	return on
}

// checkShared returns ErrNotReady where mounts have to reach another mount name space, and would not.
func (m *Manager) checkShared() error {
	if !m.o.SharedMounts {
		return nil
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	if on := mountOf(all, m.o.Mounts); !on.shared {
		return fmt.Errorf("%w: the folder for mounts %s is not on a shared mount: containers would see an empty folder there, and what they write would be in no volume; "+
			"run `mount --make-rshared %s`, or, in a managed plugin, give config.json its propagatedMount back", ErrNotReady, m.o.Mounts, on.path)
	}
	return nil
}

// checkMounts looks at the mount folder: it has to be there, and, in a managed
// Docker plugin, on a shared mount, or containers see empty folders.
func (m *Manager) checkMounts(context.Context) Check {
	all, err := mounts()
	if err == nil {
		_, err = os.Stat(m.o.Mounts)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("the folder for mounts %s is not there; run `mkdir -p %s`", m.o.Mounts, m.o.Mounts)
	}
	on := mountOf(all, m.o.Mounts)
	served := map[string]bool{}
	for _, l := range all {
		served[l.path] = true
	}
	if err == nil {
		err = m.checkShared()
	}
	for _, i := range m.List() {
		if i.Mountpoint != "" && !served[filepath.Clean(i.Mountpoint)] && err == nil {
			err = fmt.Errorf("volume %s is not mounted any more at %s: somebody unmounted it; unmount it here too, and mount it again", i.Name, i.Mountpoint)
		}
	}
	good := m.o.Mounts + " is on a shared mount"
	if !on.shared {
		good = m.o.Mounts + " is not on a shared mount: mounts do not reach other mount name spaces; where they have to, run `mount --make-rshared " + on.path + "`"
	}
	return check("mounts", good, err)
}
