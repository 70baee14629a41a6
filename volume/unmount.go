package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// busyFor is how long a mount that is still in use may resist before it is
// detached, then before its connection is cut, and then before Unmount gives up.
const busyFor = 4 * time.Second

// Unmount takes id from the users of the volume; an id that is not among them
// is no error. With the last one the mount goes, a final snapshot is taken, and
// the worker uploads it and gives the writer back, in the background: see
// WaitReleased. ErrBusy: taking down lasts longer than answerIn, and goes on.
func (m *Manager) Unmount(ctx context.Context, name, id string) error {
	v, err := m.lookup(name)
	if err != nil {
		return err
	}
	var known, last bool
	v.mutate(func() {
		_, known = v.ids[id]
		v.dropIDLocked(id, m.now())
		last = len(v.ids) == 0 && v.live != nil
	})
	if known {
		err = v.saveIDs(m.boot)
	}
	if !last {
		return err
	}
	if err != nil { // as on a full disk, which must not keep the mount: without it the ids mean nothing
		m.logger(v, "unmount").Warn().Err(err).Msg("it is unmounted all the same")
	}
	done := make(chan error, 1)
	ok := m.background(func(ctx context.Context) { done <- m.takeDown(ctx, v, true) })
	if !ok {
		return v.wrap(fmt.Errorf("%w: the driver is stopping", ErrNotReady))
	}
	t := time.NewTimer(m.answer)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return v.wrap(ctx.Err())
	case <-t.C:
		return v.wrap(fmt.Errorf("%w: the unmount goes on in the background", ErrBusy))
	}
}

// dropIDLocked takes id from the users, and notes when the last one went.
func (v *vol) dropIDLocked(id string, now time.Time) {
	delete(v.ids, id)
	if len(v.ids) == 0 {
		v.since = now
	}
}

// takeDown unmounts a volume that nobody uses any more, and takes the final
// snapshot where final is set. A user that comes first wins: then nothing is done.
//
// Order: 1. the record says that the volume is to be released; 2. unmount, which
// also ends fetching; 3. the final snapshot. After a crash at any point the
// next Open finds "to be released", takes the snapshot that is missing, and goes on. It does so without 1 as well: so where 1 fails, as on a full disk, the
// volume is unmounted all the same.
func (m *Manager) takeDown(ctx context.Context, v *vol, final bool) error {
	if err := v.enter(ctx, stepUnmount); err != nil {
		return err
	}
	defer m.poke()
	defer v.leave()
	v.mu.Lock()
	l := v.live
	if l == nil || len(v.ids) > 0 {
		v.mu.Unlock()
		return nil
	}
	v.closing = true
	v.mu.Unlock()
	start := time.Now()

	st := l.lazy.Status()
	err := v.update(func(r *record) {
		r.Release = r.Writer && r.Fence == nil && !v.isView()
		if st.Complete {
			r.Source = ""
		}
		r.Totals.Complete, r.Totals.BytesRemote, r.Totals.FilesRemote = st.Complete, st.BytesRemote, st.FilesRemote
	})
	if err != nil {
		m.logger(v, "unmount").Warn().Err(err).Msg("it is unmounted all the same")
	}
	if err := m.unserve(l); err != nil {
		v.mutate(func() { v.since = m.now() }) // the scheduler tries again
		return v.wrap(err)
	}
	v.mutate(func() {
		v.live, v.closing, v.claimed, v.offline, v.final = nil, false, false, "", false
		v.retry = backoff{}
	})
	m.logger(v, "unmount").Info().Dur("took", time.Since(start)).Msg("volume unmounted")
	if v.isView() || !final {
		return nil
	}
	r := v.record()
	kind := kindPending
	if r.Fence != nil {
		kind = kindDivergent
	}
	if _, err := m.takeSnapshot(ctx, v, kind); err != nil && !v.waits() { // of a clone that is not all here there is none
		return v.wrap(fmt.Errorf("final snapshot: %w", err)) // the worker tries again
	}
	v.mutate(func() { v.final = true })
	return nil
}

// unserve ends the mount, the fetching, and closes everything.
func (m *Manager) unserve(l *live) error {
	minor := fuseMinor(l.path)
	if l.how == mountFUSE {
		m.dropKept(cloneKey(l.key)) // the connection ends with the last copy of the mount
	}
	err := l.fs.Unmount()
	for end := time.Now().Add(m.busy); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		err = l.fs.Unmount()
	}
	if err != nil {
		// Nobody has a right to it any more: out of the name space with it.
		if err := l.fs.Abort(); err != nil {
			return err
		}
		gone := make(chan struct{})
		go func() { l.fs.Wait(); close(gone) }() // ends with the connection
		select {
		case <-gone:
		case <-time.After(m.busy):
			cutFUSE(minor)
			select {
			case <-gone:
			case <-time.After(m.busy):
				return fmt.Errorf("%w: processes still have files of %s open: end them", ErrInUse, l.path)
			}
		}
	}
	if l.how == mountFUSE {
		m.dropKept(l.key)
	}
	l.cancel()
	l.wg.Wait()
	err = l.lazy.Close()
	return errors.Join(err, l.tree.Close(), removeEmpty(l.path))
}

// removeEmpty removes a mount point; one that something else is in stays.
func removeEmpty(path string) error {
	err := os.Remove(path)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// mountLine is what mountinfo says of one mount.
type mountLine struct {
	minor  int
	path   string
	fsType string
	shared bool
}

// mounts reads /proc/self/mountinfo; see proc(5).
func mounts() ([]mountLine, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []mountLine
	for line := range strings.Lines(string(b)) {
		head, tail, ok := strings.Cut(line, " - ")
		f := strings.Fields(head)
		if !ok || len(f) < 6 {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		n, _ := strconv.Atoi(minor)
		l := mountLine{minor: n, path: unescape(f[4]), fsType: strings.SplitN(tail, " ", 2)[0]}
		for _, o := range f[6:] {
			l.shared = l.shared || strings.HasPrefix(o, "shared:")
		}
		out = append(out, l)
	}
	return out, nil
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// fuseMinor returns the number of the FUSE connection mounted at path; 0: none.
func fuseMinor(path string) int {
	all, err := mounts()
	if err != nil {
		return 0
	}
	n := 0
	for _, l := range all {
		if l.path == path && strings.HasPrefix(l.fsType, "fuse") {
			n = l.minor // the last one is on top
		}
	}
	return n
}

// cutFUSE aborts a FUSE connection: whoever still uses it gets ENOTCONN. Where
// the kernel's control files are not mounted nothing happens.
func cutFUSE(minor int) {
	if minor != 0 {
		_ = os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", minor), []byte("1"), 0)
	}
}
