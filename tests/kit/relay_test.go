package kit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server answers each connection by its first byte: 'e' echoes, 's' sends
// forever, 'r' reads forever.
func server(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				var what [1]byte
				if _, err := io.ReadFull(c, what[:]); err != nil {
					return
				}
				switch what[0] {
				case 'e':
					io.Copy(c, c)
				case 's':
					io.Copy(c, zeros{})
				case 'r':
					io.Copy(io.Discard, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func relay(t *testing.T, link Link) *Relay {
	t.Helper()
	r, err := NewRelay(server(t), link)
	Must(t, err)
	t.Cleanup(func() { Must(t, r.Close()) })
	return r
}

func dial(t *testing.T, r *Relay, what string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	Must(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, what)
	Must(t, err)
	return c
}

// patience is how long a busy machine has to show that a link is not far too slow: what other processes take is no fault of the link.
const patience = time.Minute

// bound measures a link until one figure is not better than want by more than a tenth, which is what a link is for, and one is
// within a factor of three. How much worse they are depends on who else uses the machine; better they are for a moment when what it held up
// arrives all at once. higher says that more is faster.
func bound(t *testing.T, what string, want float64, higher bool, measure func() float64) {
	t.Helper()
	var got []float64
	held, usable := false, false
	for end := time.Now().Add(patience); !(held && usable) && (len(got) < 5 || time.Now().Before(end)); {
		v := measure()
		got = append(got, v)
		slow := v / want
		if higher {
			slow = want / v
		}
		held, usable = held || slow > 0.9, usable || slow < 3
		if len(got) >= 5 && !held {
			break // it does not keep to it
		}
	}
	t.Logf("%s: %.3f, want %.3f", what, got, want)
	if !held || !usable {
		t.Errorf("%s: %.3f, want %.3f or somewhat worse", what, got, want)
	}
}

// pings returns the median round trip of a few small messages in ms.
func pings(t *testing.T, c net.Conn) float64 {
	t.Helper()
	var times []float64
	b := make([]byte, 1)
	for range 9 {
		start := time.Now()
		_, err := c.Write(b)
		Must(t, err)
		_, err = io.ReadFull(c, b)
		Must(t, err)
		times = append(times, time.Since(start).Seconds()*1000)
	}
	return median(times)
}

func TestRelay_MeetsRoundTripTime(t *testing.T) {
	r := relay(t, Link{RTT: 20 * time.Millisecond, Up: 100e6, Down: 100e6})
	c := dial(t, r, "e")
	bound(t, "round trip, ms", 20, false, func() float64 { return pings(t, c) })
	// A new connection pays for its handshake as well.
	bound(t, "connect and round trip, ms", 40, false, func() float64 {
		start := time.Now()
		c := dial(t, r, "ex")
		_, err := io.ReadFull(c, make([]byte, 1))
		Must(t, err)
		return time.Since(start).Seconds() * 1000
	})
	r.Set(Link{RTT: 60 * time.Millisecond})
	bound(t, "round trip after a change, ms", 60, false, func() float64 { return pings(t, c) })
}

func TestRelay_MeetsBandwidthSharedByItsConnections(t *testing.T) {
	for _, n := range []int{1, 8} {
		r := relay(t, Link{RTT: 20 * time.Millisecond, Up: 50e6, Down: 100e6})
		for range n {
			down, up := dial(t, r, "s"), dial(t, r, "r")
			go io.Copy(io.Discard, down)
			go io.Copy(up, zeros{})
		}
		time.Sleep(100 * time.Millisecond)
		rate := func(which int) float64 {
			get := func() int64 { up, down := r.Bytes(); return []int64{up, down}[which] }
			start, before := time.Now(), get()
			time.Sleep(400 * time.Millisecond)
			return float64(get()-before) * 8 / 1e6 / time.Since(start).Seconds()
		}
		bound(t, "down, Mbit/s", 100, true, func() float64 { return rate(1) })
		bound(t, "up, Mbit/s", 50, true, func() float64 { return rate(0) })
		r.Set(Link{RTT: 20 * time.Millisecond, Up: 10e6, Down: 20e6})
		time.Sleep(100 * time.Millisecond)
		bound(t, "down after a change, Mbit/s", 20, true, func() float64 { return rate(1) })
		bound(t, "up after a change, Mbit/s", 10, true, func() float64 { return rate(0) })
	}
}

func TestRelay_LatencyUnderLoadIsTheQueue(t *testing.T) {
	r := relay(t, Link{RTT: 20 * time.Millisecond, Up: 100e6, Down: 100e6})
	for range 4 {
		go io.Copy(io.Discard, dial(t, r, "s"))
	}
	c := dial(t, r, "e")
	time.Sleep(100 * time.Millisecond)
	// The queue holds 10 ms, and four others have their turns.
	bound(t, "round trip under load, ms", 22, false, func() float64 { return pings(t, c) })
}

func TestRelay_PassesBytesAndHalfClosesUnchanged(t *testing.T) {
	r := relay(t, Link{RTT: 2 * time.Millisecond, Down: 800e6})
	c := dial(t, r, "e").(*net.TCPConn)
	sent := bytes.Repeat([]byte("0123456789abcdef\n"), 200_000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(sent), err)
	}
	up, down := r.Bytes()
	if up != int64(len(sent))+1 || down != int64(len(sent)) {
		t.Errorf("counted %d up, %d down of %d", up, down, len(sent))
	}
}

func TestRelay_CutResetsAndRefusesUntilPlug(t *testing.T) {
	r := relay(t, Link{})
	c := dial(t, r, "ex")
	b := make([]byte, 1)
	_, err := io.ReadFull(c, b)
	Must(t, err)
	r.Unplug(Cut)
	if _, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after the cut: %v", err)
	}
	if c, err := net.Dial("tcp", r.Addr()); err == nil {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(b); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read of a new connection: %v", err)
		}
		c.Close()
	}
	r.Plug()
	c = dial(t, r, "ex")
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("after plugging in again: %v", err)
	}
}

func TestRelay_HangHoldsBytesUntilPlug(t *testing.T) {
	r := relay(t, Link{})
	old := dial(t, r, "ex")
	b := make([]byte, 1)
	_, err := io.ReadFull(old, b)
	Must(t, err)
	r.Unplug(Hang)
	_, err = io.WriteString(old, "y")
	Must(t, err)
	young := dial(t, r, "ez")
	for _, c := range []net.Conn{old, young} {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read while it hangs: %v", err)
		}
		c.SetReadDeadline(time.Time{})
	}
	r.Plug()
	for c, want := range map[net.Conn]string{old: "y", young: "z"} {
		if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
			t.Errorf("after plugging in again: %q, %v, want %q", b, err, want)
		}
	}
}

func TestRelay_CloseEndsEverythingWhileItHangsAndIsFull(t *testing.T) {
	r, err := NewRelay(server(t), Link{Down: 1000, Up: 1000})
	Must(t, err)
	for range 4 {
		go io.Copy(io.Discard, dial(t, r, "s"))
		go io.Copy(dial(t, r, "r"), zeros{})
	}
	time.Sleep(20 * time.Millisecond)
	r.Unplug(Hang)
	dial(t, r, "e")
	done := make(chan error)
	go func() { done <- r.Close() }()
	select {
	case err := <-done:
		Must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
}

func TestSleepUntil_IsExactAndEndsWithItsContext(t *testing.T) {
	bound(t, "sleep, ms", 3, false, func() float64 {
		start := time.Now()
		Must(t, sleepUntil(context.Background(), start.Add(3*time.Millisecond)))
		return time.Since(start).Seconds() * 1000
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := sleepUntil(ctx, time.Now().Add(time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
}

func median(v []float64) float64 {
	s := append([]float64{}, v...)
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s[len(s)/2]
}
