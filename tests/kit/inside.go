package kit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// insideEnv is set for the process in the name space of its own.
const insideEnv = "FRACTAL_KIT_INSIDE"

// Inside is for the beginning of a main or a TestMain. It has this program run again in a mount name space of its own, with the same arguments, and returns true, and the exit
// code, when that has ended: whatever ends it, no mount is left. Whoever makes a name space outside would get our mounts too, and a FUSE connection lives as long
// as one of them. In the name space it takes away what others had mounted (DropForeignMounts), and returns false; so it does where this process may not mount.
func Inside() (code int, done bool) {
	if os.Getenv(insideEnv) != "" {
		if err := DropForeignMounts(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
		return 0, false
	}
	if os.Getuid() != 0 {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM} // Go makes it private
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), true
	}
	fmt.Fprintln(os.Stderr, err)
	return 1, true
}
