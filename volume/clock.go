package volume

import (
	"context"
	"fmt"
	"time"
)

// A purge goes by the clock, and a clock that has jumped ahead, by an empty battery or before NTP has set it, makes every snapshot old. So the clock is held against
// the Hive's, and where that cannot be had, a scheduled purge against when it ran last.

const (
	// clockOff is by how much the clock may differ from the Hive's.
	clockOff = 24 * time.Hour
	// clockLate is by how much a job may come later than its timer explains, where no Hive says what time it is. A machine may have been off so long.
	clockLate = 7 * 24 * time.Hour
)

// clockDoubt tells why nothing may be removed by the clock, which says now; empty: it may. hive is the time there, zero where it is not known; late is by how much
// a scheduled run is later, or earlier, than its history explains, and zero for one that a person asked for. It is a pure function.
func clockDoubt(now, hive time.Time, late time.Duration) string {
	switch off := now.Sub(hive); {
	case hive.IsZero() && (late > clockLate || late < -clockLate):
		return fmt.Sprintf("the clock says %s, which is %.0f days off from what the job's last run makes likely, and no Hive says what time it is: "+
			"look at the clock, then set the schedule again (`fractal-lazy schedule`), or purge by hand", showTime(now), late.Abs().Hours()/24)
	case !hive.IsZero() && (off > clockOff || off < -clockOff):
		return fmt.Sprintf("the clock says %s, and the Hive's %s: set the clock first; with a wrong one a purge removes what is to be kept", showTime(now), showTime(hive))
	}
	return ""
}

func showTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// checkClock returns ErrNotReady where nothing may be removed by the clock. late is that of clockDoubt.
func (m *Manager) checkClock(ctx context.Context, late time.Duration) error {
	if doubt := clockDoubt(m.now(), m.hiveTime(ctx), late); doubt != "" {
		return fmt.Errorf("%w: nothing is removed: %s", ErrNotReady, doubt)
	}
	return nil
}

// hiveTime is zero where the Hive does not say.
func (m *Manager) hiveTime(ctx context.Context) time.Time {
	if m.d.Hive == nil {
		return time.Time{}
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	at, err := m.d.Hive.Time(ask)
	if err != nil {
		return time.Time{}
	}
	return at
}
