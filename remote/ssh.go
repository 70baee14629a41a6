package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	scheme     = "ssh://"
	dialLimit  = 20 * time.Second // to connect, and again to log in
	knownHosts = "known_hosts"
	// command is what the other machine runs. Options of its driver are read from there.
	command = "fractal-lazy receive"
)

var keyFiles = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// host is ssh://[user@]host[:port].
type host struct{ user, addr string }

func parseHost(text string) (host, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme+"://" != scheme || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return host{}, fmt.Errorf("%w: not of the form ssh://[user@]host[:port]", ErrUnknown)
	}
	h := host{user: "root", addr: net.JoinHostPort(u.Hostname(), "22")}
	if u.User != nil {
		if _, set := u.User.Password(); set || u.User.Username() == "" {
			return host{}, fmt.Errorf("%w: no password may stand in it; keys are in ROOT/ssh", ErrUnknown)
		}
		h.user = u.User.Username()
	}
	if p := u.Port(); p != "" {
		h.addr = net.JoinHostPort(u.Hostname(), p)
	}
	return h, nil
}

// DialSSH runs `fractal-lazy receive` on the machine name, ssh://[user@]host[:port], with the keys in dir. The error is ErrConnect
// where it cannot be reached or refuses us, and says what is to be done.
func DialSSH(ctx context.Context, dir, name string) (*Link, error) {
	h, err := parseHost(name)
	if err != nil {
		return nil, err
	}
	conf, err := clientConfig(dir, h)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConnect, name, err)
	}
	c, err := dial(ctx, h, conf)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConnect, name, explain(err, dir, h))
	}
	l, err := start(c)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrConnect, name, err)
	}
	return l, nil
}

func clientConfig(dir string, h host) (*ssh.ClientConfig, error) {
	check, err := knownhosts.New(filepath.Join(dir, knownHosts))
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w; `ssh-keyscan HOST >>%s` makes the file, when you have compared the key", err, filepath.Join(dir, knownHosts))
	}
	var keys []ssh.Signer
	for _, f := range keyFiles {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k, err := ssh.ParsePrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", filepath.Join(dir, f), err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key in %s: `ssh-keygen -t ed25519 -N '' -f %s` makes one; its .pub belongs into the other machine's authorized_keys",
			dir, filepath.Join(dir, keyFiles[0]))
	}
	return &ssh.ClientConfig{User: h.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}, HostKeyCallback: check,
		HostKeyAlgorithms: algorithms(check, h), Timeout: dialLimit}, nil
}

// algorithms asks the host for the kind of key that is known of it, and not for another one that it has as well.
func algorithms(check ssh.HostKeyCallback, h host) (out []string) {
	var known *knownhosts.KeyError
	err := check(h.addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	if !errors.As(err, &known) {
		return nil
	}
	for _, k := range known.Want {
		if t := k.Key.Type(); t == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, t)
		}
	}
	return out
}

// noKey is a key that no host has: asking for it tells which ones are known.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

func dial(ctx context.Context, h host, conf *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := (&net.Dialer{Timeout: dialLimit, KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", h.addr)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if err := conn.SetDeadline(time.Now().Add(dialLimit)); err != nil {
		conn.Close()
		return nil, err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, h.addr, conf)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		c.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// explain says what to do about a host that cannot be trusted or does not trust us.
func explain(err error, dir string, h host) error {
	var known *knownhosts.KeyError
	switch {
	case errors.As(err, &known) && len(known.Want) == 0:
		return fmt.Errorf("its key is not known: compare it, then `ssh-keyscan -p PORT HOST >>%s`", filepath.Join(dir, knownHosts))
	case errors.As(err, &known):
		return fmt.Errorf("its key is NOT the one in %s: it was installed anew, or somebody stands in between", filepath.Join(dir, knownHosts))
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("it takes none of the keys in %s for %s: add the .pub to its authorized_keys", dir, h.user)
	}
	return err
}

func start(c *ssh.Client) (*Link, error) {
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	said := &tail{}
	s.Stderr = said
	if err := s.Start(command); err != nil {
		return nil, err
	}
	l := NewLink(&pipe{Reader: out, Writer: in, all: c})
	l.said = said.text
	return l, nil
}

// pipe is both directions of a session as one stream.
type pipe struct {
	io.Reader
	io.Writer
	all io.Closer
}

// Close ends the connection: the other side sees the end of its input. (To close only that, while something is written, is a data race within package ssh.)
func (p *pipe) Close() error { return p.all.Close() }
