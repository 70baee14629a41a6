package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// insideEnv is set for the process in the name space of its own.
const insideEnv = "POSIX_INSIDE"

// inside runs this program again in a mount name space of its own, with the same arguments.
func inside() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return cmd.Run()
}

// users are those that xfstests asks for.
const users = "fsgqa:*:31415:31415::/tmp:/bin/bash\n123456-fsgqa:*:31416:31416::/tmp:/bin/bash\nfsgqa2:*:31417:31417::/tmp:/bin/bash\n"

// furnish gives the name space the mount helper and the users; dir is for the files. The
// machine outside does not see it, and everything goes with the last process.
func furnish(dir, socket string) error {
	if err := kit.DropForeignMounts(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	sbin, err := filepath.EvalSymlinks("/sbin")
	if err != nil {
		return err
	}
	upper, work := filepath.Join(dir, "sbin"), filepath.Join(dir, "sbin-work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755), writeHelper(filepath.Join(upper, "mount.fuse."+mountType), self, socket)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", sbin, "overlay", 0, "lowerdir="+sbin+",upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("overlay over %s, for the mount helper: %w", sbin, err)
	}
	var groups strings.Builder
	for line := range strings.Lines(users) {
		f := strings.Split(line, ":")
		fmt.Fprintf(&groups, "%s:x:%s:\n", f[0], f[3])
	}
	return errors.Join(addTo(dir, "/etc/passwd", users), addTo(dir, "/etc/group", groups.String()), shortType(dir))
}

// shortType makes df show our mounts as "fuse", which is the only name of the type that xfstests takes for FSTYP=fuse.
func shortType(dir string) error {
	df, err := exec.LookPath("df")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(df)
	if err != nil {
		return err
	}
	real, script := filepath.Join(dir, "df"), filepath.Join(dir, "df.sh")
	text := fmt.Sprintf("#!/bin/bash\nset -o pipefail\n%s \"$@\" | sed 's/ fuse\\.fractal-lazy / fuse /'\n", real)
	if err := errors.Join(os.WriteFile(real, b, 0o755), os.WriteFile(script, []byte(text), 0o755)); err != nil {
		return err
	}
	return unix.Mount(script, df, "", unix.MS_BIND, "")
}

// addTo shows file with more at its end.
func addTo(dir, file, more string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(name, append(old, more...), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(name, file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show users in %s: %w", file, err)
	}
	return nil
}
