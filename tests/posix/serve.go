package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"

	"golang.org/x/sys/unix"
)

// mountType is what mount(8) has after "fuse." to find our helper.
const mountType = "fractal-posix"

// order is what the mount helper asks of the process that serves.
type order struct {
	Volume, Dir string
	Options     []string
}

// mountServer mounts for the helper.
type mountServer struct {
	stages map[string]*stage // by volume
	listen net.Listener

	mu   sync.Mutex
	open map[string]*mounted // by volume
	errs []error
	wg   sync.WaitGroup
}

func newMountServer(stages map[string]*stage, socket string) (*mountServer, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	m := &mountServer{stages: stages, listen: l, open: map[string]*mounted{}}
	m.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.answer(c) })
		}
	})
	return m, nil
}

// close takes all mounts away, by force, and waits. It returns what went wrong while they served.
func (m *mountServer) close() error {
	m.listen.Close()
	m.mu.Lock()
	for _, v := range m.open {
		m.errs = append(m.errs, v.fs.Abort())
	}
	m.mu.Unlock()
	m.wg.Wait()
	return errors.Join(m.errs...)
}

func (m *mountServer) answer(c net.Conn) {
	defer c.Close()
	var o order
	err := json.NewDecoder(c).Decode(&o)
	if err == nil {
		err = m.mount(o)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	_ = json.NewEncoder(c).Encode(text) // the helper is gone: nobody to tell
}

// patience is how long a new mount waits for the end of the one before.
const patience = 10 * time.Second

func (m *mountServer) mount(o order) error {
	opt, flags, remount, err := options(o.Options)
	if err != nil {
		return err
	}
	if remount {
		return unix.Mount("", o.Dir, "", unix.MS_REMOUNT|flags, "")
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		if m.open[o.Volume] == nil {
			break // still locked
		}
		m.mu.Unlock()
		if time.Now().After(end) {
			return fmt.Errorf("volume %s is mounted: %w", o.Volume, unix.EBUSY)
		}
	}
	defer m.mu.Unlock()
	s := m.stages[o.Volume]
	if s == nil {
		return fmt.Errorf("there is no volume %q: %w", o.Volume, unix.ENODEV)
	}
	v, err := s.mount(o.Volume, o.Dir, lazy.Options{Prefetch: lazy.PrefetchNone}, opt)
	if err != nil {
		return err
	}
	m.open[o.Volume] = v
	m.wg.Go(func() {
		err := v.wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.errs = append(m.errs, err)
		delete(m.open, o.Volume)
	})
	if flags&^unix.MS_RDONLY != 0 {
		return unix.Mount("", o.Dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	}
	return nil
}

// mountFlags are the options that belong to every file system.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME,
	"rw": 0, "suid": 0, "dev": 0, "exec": 0, "defaults": 0,
}

// options reads mount options; what we do not have is an error, as with BTRFS.
func options(list []string) (opt fusefs.Options, flags uintptr, remount bool, err error) {
	for _, o := range list {
		flag, ok := mountFlags[o]
		switch {
		case ok:
			flags |= flag
		case o == "remount":
			remount = true
		case o == "through":
			opt.NoPassthrough = true
		default:
			return opt, 0, false, fmt.Errorf("mount option %q: %w", o, unix.EINVAL)
		}
	}
	opt.ReadOnly = flags&unix.MS_RDONLY != 0
	return opt, flags, remount, nil
}

// helper is /sbin/mount.fuse.fractal-posix: VOLUME DIR [-o OPTIONS].
func helper(socket string, args []string) error {
	var o order
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-o" && i+1 < len(args):
			i++
			o.Options = append(o.Options, strings.FieldsFunc(args[i], func(r rune) bool { return r == ',' })...)
		case args[i] == "-t" && i+1 < len(args):
			i++
		case strings.HasPrefix(args[i], "-"):
		case o.Volume == "":
			o.Volume = args[i]
		case o.Dir == "":
			o.Dir = args[i]
		}
	}
	if o.Dir == "" {
		return fmt.Errorf("mount helper: %q names no volume and no folder", args)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(o); err != nil {
		return err
	}
	var text string
	if err := json.NewDecoder(c).Decode(&text); err != nil {
		return err
	}
	if text != "" {
		return errors.New(text)
	}
	return nil
}

// writeHelper makes the file that mount(8) runs.
func writeHelper(path, self, socket string) error {
	return os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\nexec %s helper %s \"$@\"\n", self, socket)), 0o755)
}
