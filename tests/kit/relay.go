package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Link is what a Relay makes of the loopback.
type Link struct {
	RTT  time.Duration // round trip, half of it each way
	Up   int64         // bit/s from the client to the server; 0 is without limit
	Down int64         // bit/s from the server to the client; 0 is without limit
}

// UnplugMode says what an unplugged link does to its connections.
type UnplugMode int

const (
	// Cut resets the connections there are, and new ones.
	Cut UnplugMode = iota
	// Hang keeps them, and new ones, and moves no byte until Plug.
	Hang
)

// Relay passes TCP connections on to one address over a link. The
// bandwidth of each direction is shared by all its connections, in turns of a small
// chunk; a chunk leaves when those before it have left, and arrives half a round trip
// later. What waits to leave is bounded (linkQueue), then the sender is slowed
// down. Connecting takes a round trip. Loss and slow start are not modelled.
//
// Its methods may be called from many goroutines.
type Relay struct {
	target   string
	listener *net.TCPListener
	up, down *lane
	bytes    [2]atomic.Int64 // delivered: up, down

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[*relayConn]struct{}
	cut   bool
	open  chan struct{} // closed while bytes may move
}

// NewRelay listens on a free port of the loopback and passes connections on
// to target, "host:port".
func NewRelay(target string, link Link) (*Relay, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("start relay: %w", err)
	}
	r := &Relay{target: target, listener: l, up: newLane(), down: newLane(),
		conns: map[*relayConn]struct{}{}, open: make(chan struct{})}
	close(r.open)
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.Set(link)
	r.wg.Add(1)
	go r.accept()
	return r, nil
}

// Addr is where clients connect to, "127.0.0.1:port".
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Set changes the link, at once for all that has not yet left.
func (r *Relay) Set(link Link) {
	r.up.set(link.Up, link.RTT/2)
	r.down.set(link.Down, link.RTT/2)
}

// Bytes returns how many bytes have arrived so far: up at the server, down at
// the clients.
func (r *Relay) Bytes() (up, down int64) { return r.bytes[0].Load(), r.bytes[1].Load() }

// Unplug stops the link, until Plug.
func (r *Relay) Unplug(mode UnplugMode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.open:
		r.open = make(chan struct{})
	default:
	}
	r.cut = mode == Cut
	if r.cut {
		for c := range r.conns {
			c.reset()
		}
	}
}

// Plug lets bytes move again.
func (r *Relay) Plug() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = false
	select {
	case <-r.open:
	default:
		close(r.open)
	}
}

// Close resets all connections, gives the port back, and waits.
func (r *Relay) Close() error {
	r.stop()
	err := r.listener.Close()
	r.mu.Lock()
	for c := range r.conns {
		c.reset()
	}
	r.mu.Unlock()
	r.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// plugged waits until bytes may move.
func (r *Relay) plugged(ctx context.Context) error {
	r.mu.Lock()
	open := r.open
	r.mu.Unlock()
	select {
	case <-open:
		return nil
	default:
	}
	select {
	case <-open:
		return r.plugged(ctx) // it may have been unplugged again
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Relay) accept() {
	defer r.wg.Done()
	for {
		client, err := r.listener.AcceptTCP()
		if err != nil {
			if r.ctx.Err() != nil {
				return
			}
			time.Sleep(time.Millisecond) // out of descriptors: try again
			continue
		}
		c := &relayConn{r: r, client: client}
		c.ctx, c.stop = context.WithCancel(r.ctx)
		r.mu.Lock()
		refuse := r.cut || r.ctx.Err() != nil
		if !refuse {
			r.conns[c] = struct{}{}
			r.wg.Add(1)
		}
		r.mu.Unlock()
		if refuse {
			c.reset()
			continue
		}
		go func() {
			defer r.wg.Done()
			c.run()
			r.mu.Lock()
			delete(r.conns, c)
			r.mu.Unlock()
		}()
	}
}

// relayConn is one connection through the relay.
type relayConn struct {
	r      *Relay
	client *net.TCPConn
	ctx    context.Context
	stop   context.CancelFunc

	mu     sync.Mutex
	server *net.TCPConn // nil until dialled
}

// reset ends the connection the hard way, for both sides. More than once does no harm.
func (c *relayConn) reset() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range []*net.TCPConn{c.client, c.server} {
		if s != nil {
			s.SetLinger(0) // fails on a closed one only
			s.Close()
		}
	}
}

// close ends a connection whose two directions have ended: what they passed on last
// still arrives, which a reset would throw away.
func (c *relayConn) close() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client.Close() // closed already where it was reset
	c.server.Close()
}

func (c *relayConn) run() {
	accepted := time.Now()
	if c.r.plugged(c.ctx) != nil {
		c.reset()
		return
	}
	var d net.Dialer
	s, err := d.DialContext(c.ctx, "tcp", c.r.target)
	if err != nil {
		c.reset()
		return
	}
	c.mu.Lock()
	c.server = s.(*net.TCPConn)
	c.mu.Unlock()
	defer c.close()
	for _, s := range []*net.TCPConn{c.client, c.server} {
		// So that little waits in the kernel, beside the link's own queue.
		s.SetReadBuffer(relaySocketBuffer)
		s.SetWriteBuffer(relaySocketBuffer)
	}
	// A real client could not send before its SYN was answered.
	handshake := accepted.Add(c.r.up.latency() + c.r.down.latency())
	var wg sync.WaitGroup
	wg.Go(func() { c.pump(c.client, c.server, c.r.up, &c.r.bytes[0], handshake) })
	wg.Go(func() { c.pump(c.server, c.client, c.r.down, &c.r.bytes[1], handshake) })
	wg.Wait()
}

const relaySocketBuffer = 256 << 10

// pump carries one direction, until its end, which it passes on.
func (c *relayConn) pump(from, to *net.TCPConn, l *lane, count *atomic.Int64, start time.Time) {
	queue := make(chan packet, 1024)
	var flight flight
	flight.init(l)
	var wg sync.WaitGroup
	wg.Go(func() { c.deliver(to, queue, &flight, count) })
	defer wg.Wait()
	defer close(queue)
	if sleepUntil(c.ctx, start) != nil {
		return
	}
	for {
		b := make([]byte, l.chunk())
		n, err := from.Read(b)
		if n > 0 {
			if c.r.plugged(c.ctx) != nil || flight.enter(c.ctx, n) != nil {
				return
			}
			at, err := l.send(c.ctx, n)
			if err != nil {
				return
			}
			if c.enqueue(queue, packet{b[:n], at}) != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) || c.enqueue(queue, packet{nil, time.Now().Add(l.latency())}) != nil {
				c.reset()
			}
			return
		}
	}
}

func (c *relayConn) enqueue(queue chan<- packet, p packet) error {
	select {
	case queue <- p:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// deliver writes what has arrived.
func (c *relayConn) deliver(to *net.TCPConn, queue <-chan packet, flight *flight, count *atomic.Int64) {
	for p := range queue {
		if sleepUntil(c.ctx, p.at) != nil || c.r.plugged(c.ctx) != nil {
			return
		}
		if p.data == nil {
			if to.CloseWrite() != nil {
				c.reset()
			}
			return
		}
		if _, err := to.Write(p.data); err != nil {
			c.reset()
			return
		}
		flight.leave(len(p.data))
		count.Add(int64(len(p.data)))
	}
}
