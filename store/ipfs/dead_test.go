package ipfs

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A network that loses packets without a word cannot be made on the loopback,
// so it is the connection's own setting that is looked at.
func TestTransport_ConnectionsToADeadPeerFail(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := transport().DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for name, opt := range map[string]struct {
			option int
			want   int
		}{
			"TCP_USER_TIMEOUT, ms": {unix.TCP_USER_TIMEOUT, int(deadAfter / time.Millisecond)},
			"TCP_KEEPIDLE, s":      {unix.TCP_KEEPIDLE, 10},
			"TCP_KEEPINTVL, s":     {unix.TCP_KEEPINTVL, 5},
			"TCP_KEEPCNT":          {unix.TCP_KEEPCNT, 4},
		} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt.option); err != nil || got != opt.want {
				t.Errorf("%s = %d, %v, want %d", name, got, err, opt.want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
