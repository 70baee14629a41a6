package cli

import (
	"encoding/json"
	"net"
	"os"
	"strings"

	"fractal-lazy/plugin"
	"fractal-lazy/plugin/supervise"
	"fractal-lazy/volume"

	"github.com/rs/zerolog"
)

// keeper is what a worker has the supervisor keep: its sockets, and its mounts. Without a supervisor nothing is kept.
type keeper struct {
	keep   *supervise.Keep
	log    zerolog.Logger
	mounts []volume.Kept
	others map[string]supervise.Item
}

var _ volume.Keeper = (*keeper)(nil)

const (
	socketKey  = "socket/"
	metricsKey = "metrics/"
)

// attach finds the supervisor and what it kept.
func attach(log zerolog.Logger) (*keeper, error) {
	keep, err := supervise.Attach()
	if err != nil {
		return nil, err
	}
	k := &keeper{keep: keep, log: log, others: map[string]supervise.Item{}}
	for _, i := range keep.Items() {
		if i.Blocks {
			k.mounts = append(k.mounts, volume.Kept{Key: i.Key, Data: i.Data, Files: i.Files})
		} else {
			k.others[i.Key] = i
		}
	}
	return k, nil
}

// Kept implements volume.Keeper.
func (k *keeper) Kept() []volume.Kept {
	all := k.mounts
	k.mounts = nil
	return all
}

// Keep implements volume.Keeper.
func (k *keeper) Keep(m volume.Kept) error {
	return k.keep.Put(supervise.Item{Key: m.Key, Data: m.Data, Files: m.Files, Blocks: true})
}

// Drop implements volume.Keeper.
func (k *keeper) Drop(key string) error { return k.keep.Drop(key) }

// Outlives implements volume.Keeper.
func (k *keeper) Outlives() bool { return k.keep.Outlives() }

// Ready implements volume.Keeper.
func (k *keeper) Ready(err error) {
	if err != nil {
		k.log.Error().Err(err).Msg("this version cannot go on with the mounts of the one before")
		os.Exit(ExitFailure)
	}
	if err := k.keep.Ready(); err != nil {
		k.log.Error().Err(err).Msg("cannot tell the supervisor")
	}
}

// listen has s listen on socket: on the one of the worker before this, whose callers wait already, or on a new one, which is kept.
func (k *keeper) listen(s *plugin.Server, socket string) error {
	key := socketKey + socket
	for old, i := range k.others {
		if !strings.HasPrefix(old, socketKey) {
			continue
		}
		delete(k.others, old)
		var made plugin.Made
		err := json.Unmarshal(i.Data, &made)
		if err == nil && old == key && len(i.Files) == 1 {
			err = s.Adopt(socket, i.Files[0], made)
		}
		for _, f := range i.Files {
			f.Close()
		}
		if err == nil && old == key {
			return nil
		}
		k.log.Warn().Err(err).Str("socket", strings.TrimPrefix(old, socketKey)).Msg("the socket of before is given up")
		if err := k.keep.Drop(old); err != nil {
			return err
		}
	}
	if err := s.Listen(socket); err != nil {
		return err
	}
	f, made, err := s.Socket()
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return k.keep.Put(supervise.Item{Key: key, Data: b, Files: []*os.File{f}})
}

// listenTCP is net.Listen("tcp", addr), on the listener of the worker before this where there is one.
func (k *keeper) listenTCP(addr string) (net.Listener, error) {
	key := metricsKey + addr
	for old, i := range k.others {
		if !strings.HasPrefix(old, metricsKey) {
			continue
		}
		delete(k.others, old)
		var l net.Listener
		var err error
		if old == key && len(i.Files) == 1 {
			l, err = net.FileListener(i.Files[0])
		}
		for _, f := range i.Files {
			f.Close()
		}
		if l != nil && err == nil {
			return l, nil
		}
		if err := k.keep.Drop(old); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if f, err := l.(*net.TCPListener).File(); err == nil {
		err = k.keep.Put(supervise.Item{Key: key, Files: []*os.File{f}})
		f.Close()
		if err != nil {
			k.log.Warn().Err(err).Msg("the port for metrics is not kept")
		}
	}
	return l, nil
}
