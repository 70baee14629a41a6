package fusefs

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// children are what runs in a process of its own, by name.
var children = map[string]func(args []string) error{}

func runChild(name string, args []string) error {
	fn := children[name]
	if fn == nil {
		return fmt.Errorf("no child %q", name)
	}
	return fn(args)
}

// child prepares this test binary to run children[name].
func child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	// The race detector would let each child sleep a second before it ends.
	cmd.Env = append(os.Environ(), childEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	return cmd
}

func runInChild(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := child(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("child %s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func init() { children["serve"] = serveChild }

// serveChild mounts args[0], a subvolume, at args[1] and serves it until its input ends. "through" as args[2]: without passthrough.
// It is how tools that are no part of this repository get a mount.
func serveChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	tree, err := treeOf(fd)
	if err != nil {
		return err
	}
	opt := Options{NoPassthrough: len(args) > 2 && args[2] == "through", Log: zerolog.New(os.Stderr)}
	f, err := Mount(tree, complete{}, args[1], opt)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return f.Unmount()
}
