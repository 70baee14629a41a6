package lazy

import (
	"time"

	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

func statxTime(t wire.Time) unix.StatxTimestamp {
	return unix.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
}

func wireTime(t unix.StatxTimestamp) wire.Time { return wire.Time{Sec: t.Sec, Nsec: t.Nsec} }

func timespec(t wire.Time) unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }

func toWire(t time.Time) wire.Time {
	return wire.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// stampClock is the clock that change times are taken from. It ticks every
// few milliseconds only, and is late by up to one tick.
func stampClock() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return time.Now() // not on a kernel with FUSE passthrough
	}
	return time.Unix(ts.Unix())
}

// waitStamped returns when the change time of an inode that is changed from
// then on is after t, or, where the clock was set back meanwhile, long before.
func waitStamped(t time.Time) {
	for {
		now := stampClock()
		if d := t.Sub(now); d < 0 || d > time.Second {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// setMtime sets the access and modification time of the inode behind fd.
func setMtime(fd int, t wire.Time) error {
	ts := []unix.Timespec{timespec(t), timespec(t)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), ts, 0)
}
