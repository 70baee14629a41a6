package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

const insideEnv = "MODEL_INSIDE"

// inside runs this program again in a mount name space of its own and returns its exit code. Whoever makes a name space
// outside would get our mounts too, and a FUSE connection lives as long as one of them; and whatever ends us, no mount is left.
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

// furnish makes the name space one's own: the mounts of others are not kept alive by it.
func furnish() {
	if os.Getenv(insideEnv) == "" {
		return
	}
	if err := kit.DropForeignMounts(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
