package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

const insideEnv = "HISTORY_INSIDE"

// inside runs this program again in a mount name space of its own and returns its exit code: whatever ends us, no mount is left.
func inside() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM} // Go makes it private
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// enter is what every main of this package begins with. Where it returns true the process has done what it was started for.
func enter() (code int, done bool) {
	if c := os.Getenv(daemonEnv); c != "" {
		if err := daemon(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
		return 0, true
	}
	if os.Getuid() == 0 && os.Getenv(insideEnv) == "" {
		return inside(), true
	}
	if os.Getenv(insideEnv) != "" {
		if err := kit.DropForeignMounts(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
	}
	return 0, false
}
