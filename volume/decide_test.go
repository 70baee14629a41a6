package volume

import (
	"errors"
	"testing"
	"time"

	"fractal-lazy/hive"

	"github.com/google/uuid"
)

var (
	us   = uuid.MustParse("11111111-1111-4111-8111-111111111111")
	them = uuid.MustParse("22222222-2222-4222-8222-222222222222")
)

func TestDecideClaim_Table(t *testing.T) {
	down := errors.New("refused")
	seen := &mark{Generation: 3}
	base := &baseRecord{Generation: 3}
	for _, c := range []struct {
		name    string
		r       record
		set     settings
		hasData bool
		a       answer
		do      claim
		err     error
	}{
		{"new key, unknown volume", record{Made: true}, settings{}, false, answer{unknown: true}, claimCreate, nil},
		{"free", record{}, settings{}, false, answer{}, claimTake, nil},
		{"ours", record{}, settings{}, true, answer{writer: &us}, claimTake, nil},
		{"held", record{}, settings{}, true, answer{writer: &them}, claimRefuse, ErrHeld},
		{"held, taken over", record{}, settings{takeover: true}, true, answer{writer: &them}, claimTake, nil},
		{"forgotten by the Hive", record{Seen: seen}, settings{takeover: true}, true, answer{unknown: true}, claimRefuse, ErrRollback},
		{"no Hive, we wrote last", record{Writer: true, Known: true, Base: base}, settings{}, true, answer{err: down}, claimOffline, nil},
		{"no Hive, given back", record{Known: true, Base: base}, settings{}, true, answer{err: down}, claimRefuse, ErrNotReady},
		{"no Hive, given back, takeover is no answer to that", record{Known: true, Base: base}, settings{takeover: true}, true, answer{err: down}, claimRefuse, ErrNotReady},
		{"no Hive, writer, but no data", record{Writer: true, Known: true, Base: base}, settings{}, false, answer{err: down}, claimRefuse, ErrNotReady},
		{"no Hive, key made here", record{Made: true}, settings{}, false, answer{err: down}, claimOffline, nil},
		{"no Hive, key from elsewhere", record{}, settings{}, false, answer{err: down}, claimRefuse, ErrNotReady},
		{"no Hive, fenced", record{Made: true, Known: true, Base: base, Fence: &fenceRecord{}}, settings{}, true, answer{err: down}, claimRefuse, ErrNotReady},
	} {
		d := decideClaim(&c.r, &c.set, us, c.hasData, c.a)
		if d.do != c.do || !errors.Is(d.err, c.err) || (d.do == claimRefuse) != (d.err != nil) {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func TestDecideData_Table(t *testing.T) {
	at := func(gen uint64, by uuid.UUID) *hive.Manifest { return &hive.Manifest{Generation: gen, Machine: by} }
	base := &baseRecord{Generation: 3, Hash: at(3, us).Hash().String()}
	seen := &mark{Generation: 3, Hash: at(3, us).Hash().String()}
	pending := []snapRecord{{Kind: kindPending}}
	for _, c := range []struct {
		name             string
		r                record
		hasData, changed bool
		latest           *hive.Manifest
		do               dataPlan
		kind             string
		err              error
	}{
		{"nothing anywhere", record{}, false, false, nil, dataEmpty, "", nil},
		{"only here", record{}, true, true, nil, dataKeep, "", nil},
		{"only there", record{}, false, false, at(3, them), dataRestore, "", nil},
		{"equal", record{Base: base, Seen: seen}, true, false, at(3, us), dataKeep, "", nil},
		{"equal and changed here", record{Base: base, Seen: seen}, true, true, at(3, us), dataKeep, "", nil},
		{"newer there", record{Base: base, Seen: seen}, true, false, at(4, them), dataRestore, kindOld, nil},
		{"newer there, changed here", record{Base: base, Seen: seen}, true, true, at(4, them), dataRestore, kindDivergent, nil},
		{"never published here, published there", record{}, true, true, at(1, them), dataRestore, kindDivergent, nil},
		{"own upload", record{Base: base, Seen: seen, Snapshots: pending}, true, true, at(4, us), dataKeep, "", nil},
		{"own first upload", record{Snapshots: pending}, true, true, at(1, us), dataKeep, "", nil},
		{"ours, but not of this state", record{Base: base, Seen: seen, Snapshots: pending}, true, true, at(5, us), dataRestore, kindDivergent, nil},
		{"ours, but nothing waits", record{Base: base, Seen: seen}, true, true, at(4, us), dataRestore, kindDivergent, nil},
		{"older", record{Base: base, Seen: seen}, true, false, at(2, them), dataRefuse, "", ErrRollback},
		{"older, no data", record{Seen: seen}, false, false, at(2, them), dataRefuse, "", ErrRollback},
		{"none any more", record{Seen: seen}, true, false, nil, dataRefuse, "", ErrRollback},
		{"another of the same generation", record{Base: base, Seen: seen}, true, false, at(3, them), dataRefuse, "", ErrRollback},
	} {
		d := decideData(&c.r, us, c.hasData, c.changed, c.latest)
		if d.do != c.do || d.kind != c.kind || !errors.Is(d.err, c.err) || (d.do == dataRefuse) != (d.err != nil) {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func TestDecide_Table(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	used := situation{mounted: true, users: 1, hive: true, interval: time.Minute, lastSnap: now, lastAsk: now}
	rest := situation{hive: true, interval: time.Minute}
	for _, c := range []struct {
		name   string
		from   situation
		change func(s *situation)
		want   plan
		next   time.Duration // 0: not looked at
	}{
		{"nothing due", used, func(s *situation) { s.lastSnap, s.lastAsk = ago(50*time.Second), now }, plan{}, 10 * time.Second},
		{"interval", used, func(s *situation) { s.lastSnap = ago(time.Minute) }, plan{snapshot: true, publish: true}, 0},
		{"interval, but one waits", used, func(s *situation) { s.lastSnap, s.pending, s.retry = ago(time.Hour), 1, now.Add(time.Second) }, plan{}, time.Second},
		{"retry", used, func(s *situation) { s.pending, s.retry = 1, now }, plan{publish: true}, 0},
		{"asked in the backoff", used, func(s *situation) { s.pending, s.retry, s.asked = 1, now.Add(time.Hour), true }, plan{publish: true}, 0},
		{"fencing check", used, func(s *situation) { s.lastAsk = ago(time.Minute) }, plan{ask: true}, 0},
		{"fencing check without interval", used, func(s *situation) { s.interval, s.lastAsk = 0, ago(checkEvery) }, plan{ask: true}, 0},
		{"no Hive to ask", used, func(s *situation) { s.hive, s.lastAsk = false, ago(time.Hour) }, plan{}, time.Minute},
		{"no interval", used, func(s *situation) { s.interval, s.lastSnap = 0, ago(time.Hour) }, plan{}, checkEvery},
		{"fenced", used, func(s *situation) {
			s.fenced, s.pending, s.lastSnap, s.lastAsk = true, 1, ago(time.Hour), ago(time.Hour)
		}, plan{}, looksAgain},
		{"abandoned", used, func(s *situation) { s.users, s.since = 0, ago(linger) }, plan{takeDown: true}, 0},
		{"abandoned a moment ago", used, func(s *situation) { s.users, s.since = 0, now }, plan{}, time.Minute},
		{"abandoned and fenced", used, func(s *situation) { s.users, s.since, s.fenced = 0, ago(linger), true }, plan{takeDown: true}, 0},
		{"at rest", rest, func(s *situation) {}, plan{}, looksAgain},
		{"left by a killed daemon", rest, func(s *situation) { s.release = true }, plan{snapshot: true, publish: true, release: true}, 0},
		{"last upload, then release", rest, func(s *situation) { s.release, s.final, s.pending = true, true, 1 }, plan{publish: true, release: true}, 0},
		{"release only", rest, func(s *situation) { s.release, s.final = true, true }, plan{release: true}, 0},
		{"release waits", rest, func(s *situation) { s.release, s.final, s.pending, s.retry = true, true, 1, now.Add(time.Minute) }, plan{}, time.Minute},
		{"being mounted", rest, func(s *situation) { s.release, s.final, s.mounting = true, true, true }, plan{}, looksAgain},
		{"worker runs", used, func(s *situation) { s.pending, s.working = 1, true }, plan{}, looksAgain},
		{"something is left pinned", rest, func(s *situation) { s.unpin = true }, plan{unpin: true}, 0},
		{"something is left pinned by a fenced one", used, func(s *situation) { s.unpin, s.fenced, s.pending = true, true, 1 }, plan{unpin: true}, 0},
		{"pinned for what waits", rest, func(s *situation) { s.unpin, s.pending, s.retry = true, 1, now.Add(time.Second) }, plan{}, time.Second},
		{"left pinned, and tried just now", rest, func(s *situation) { s.unpin, s.unpinAt = true, now.Add(time.Minute) }, plan{}, time.Minute},
		{"something is left pinned at a second place", rest, func(s *situation) { s.remoteUnpin = true }, plan{remoteUnpin: true}, 0},
		{"the same, tried just now", used, func(s *situation) { s.fenced, s.remoteUnpin, s.remoteUnpinAt = true, true, now.Add(time.Minute) }, plan{}, time.Minute},
		{"a view", used, func(s *situation) { s.view, s.lastSnap, s.lastAsk = true, ago(time.Hour), ago(time.Hour) }, plan{}, looksAgain},
	} {
		s := c.from
		s.now = now
		c.change(&s)
		p := decide(s)
		got, next := p, p.next.Sub(now)
		got.why, got.next = "", time.Time{}
		if got != c.want || p.any() != (p.why != "") {
			t.Errorf("%s: %+v", c.name, p)
		}
		if c.next != 0 && next != c.next {
			t.Errorf("%s: next in %s, want %s", c.name, next, c.next)
		}
	}
}

func TestBackoff_GrowsToItsBound(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var b backoff
	last := time.Duration(0)
	for i := range 40 {
		b = b.failed(now, 0.5)
		d := b.until.Sub(now)
		if d < last || d > lastRetry || i == 0 && d != firstRetry {
			t.Fatalf("try %d: %s after %s", i, d, last)
		}
		last = d
	}
	if last != lastRetry {
		t.Fatalf("ends at %s", last)
	}
	if low, high := (backoff{}).failed(now, 0), (backoff{}).failed(now, 0.999); low.until.Sub(now) != 750*time.Millisecond || high.until.Sub(now) <= low.until.Sub(now) {
		t.Fatalf("%v %v", low, high)
	}
}
