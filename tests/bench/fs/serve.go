package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/metrics"

	"github.com/rs/zerolog"
)

// mounted is a file system that a child serves.
type mounted struct {
	unmount func() error
	wait    func()
}

// child is the process that serves one mount: kind is "ours" or "loopback". It says "ready" on its output, and unmounts at SIGTERM.
func child(kind, dir, mountpoint, off, profile string) (err error) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT) // of the terminal: the bench says when
	var m *mounted
	if kind == "loopback" {
		m, err = mountLoopback(dir, mountpoint)
	} else {
		m, err = mountOurs(dir, mountpoint, off)
	}
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return errors.Join(err, m.unmount())
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return errors.Join(err, m.unmount())
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Println("ready")
	<-stop
	err = m.unmount()
	if err == nil {
		m.wait()
	}
	return err
}

// mountOurs shows the complete subvolume dir as volume.Manager does for a mounted volume, metrics included. off names the settings (settings.go)
// that are switched off, with commas.
func mountOurs(dir, mountpoint, off string) (*mounted, error) {
	tree, err := backing.OpenTree(dir)
	if err != nil {
		return nil, err
	}
	log := zerolog.New(os.Stderr)
	whole, err := lazy.Open(context.Background(), tree, nil, nil, lazy.Options{Volume: "bench", Log: log}) // without a mark: complete
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	opt := fusefs.Options{Log: log, Observe: metrics.New().Volume("bench").Op}
	for _, name := range strings.Split(off, ",") {
		if name == "" {
			continue
		}
		set, ok := settingNamed(name)
		if !ok {
			return nil, fmt.Errorf("no setting is called %q", name)
		}
		set.off(&opt)
	}
	f, err := fusefs.Mount(tree, whole, mountpoint, opt)
	if err != nil {
		return nil, errors.Join(err, whole.Close(), tree.Close())
	}
	return &mounted{unmount: func() error {
		if err := f.Unmount(); err != nil {
			return err
		}
		return errors.Join(whole.Close(), tree.Close())
	}, wait: f.Wait}, nil
}
