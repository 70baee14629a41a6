package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// device is a loop device, which goes away with its last user.
type device struct {
	path string
	fd   int
}

// attach makes a loop device of file.
func attach(file string) (*device, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	for {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		d := &device{path: fmt.Sprintf("/dev/loop%d", n)}
		if d.fd, err = unix.Open(d.path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("open %s: %w", d.path, err)
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(d.fd, &config)
		if err == nil {
			return d, nil
		}
		unix.Close(d.fd)
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("attach %s: %w", d.path, err)
		}
	}
}

// mount mounts the BTRFS on d at dir. From then on the mount alone keeps d.
func (d *device) mount(dir, options string) error {
	defer unix.Close(d.fd)
	if options != "" {
		options = "," + options
	}
	// nodiscard: what the device logs are writes and flushes.
	if err := unix.Mount(d.path, dir, "btrfs", unix.MS_NOATIME, "nodiscard"+options); err != nil {
		return fmt.Errorf("mount %s: %w", d.path, err)
	}
	return nil
}

// unmount unmounts dir, which somebody may hold for a moment still.
func unmount(dir string) error {
	var err error
	for range 250 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
	}
	return nil
}

// format makes a BTRFS in the new sparse file of size bytes. Metadata is there
// once: a second copy would hide what a lost write does.
func format(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.btrfs", "--quiet", "--nodiscard", "--sectorsize", "4096", "--metadata", "single", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.btrfs: %w: %s", err, out)
	}
	return nil
}

// load reads the pages of a sparse file.
func load(file string) (disk, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d := make(disk, st.Size()/page)
	for off := int64(0); off < st.Size(); {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, err
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		for off = data &^ (page - 1); off < hole; off += page {
			p := new([page]byte)
			if _, err := f.ReadAt(p[:], off); err != nil {
				return nil, err
			}
			if *p != ([page]byte{}) {
				d[off/page] = p
			}
		}
	}
	return d, nil
}

// store writes the pages to a new sparse file.
func (d disk) store(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(d)) * page); err != nil {
		return err
	}
	for i, p := range d {
		if p == nil {
			continue
		}
		if _, err := f.WriteAt(p[:], int64(i)*page); err != nil {
			return err
		}
	}
	return nil
}
