//go:build docker

package docker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// envDir tells the child in which folder its world is.
const envDir = "FRACTAL_TEST_WORLD"

// envShort has the short form run: where no engine can run, it says so and ends without a failure.
const envShort = "FRACTAL_DOCKER_SHORT"

// exitCannot is the child's code when this machine cannot run an engine.
const exitCannot = 77

// TestMain runs the tests in a child, so that cleaning up does not depend on how they end.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		os.Exit(runChild(m, dir))
	}
	os.Exit(runParent())
}

func runParent() int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start Docker engines: run them as root")
		return 1
	}
	short := os.Getenv(envShort) != ""
	programs := []string{"docker", "dockerd", "containerd", "runc", "busybox", "ip", "nsenter", "mkfs.btrfs"}
	if !short {
		programs = append(programs, "docker-registry", "docker-compose", "qemu-aarch64-static")
	}
	for _, program := range programs {
		_, err := exec.LookPath(program)
		if err != nil && short {
			fmt.Println("no Docker engine here:", err) // `go test` calls it a package without tests, and our summary skipped
			return 0
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err.Error()+": `make test-docker` installs what is needed")
			return 1
		}
	}
	sweepDead()
	dir := worldDir(os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// An interrupt reaches the child as well; this process stays to clean up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	code, err := runAndReap(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 2
	}
	if left := sweep(dir); code == exitCannot {
		return 0
	} else if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left by the tests, and taken away now:\n  %s\n", strings.Join(left, "\n  "))
		if code == 0 {
			code = 1
		}
	}
	return code
}

// runAndReap runs the child. What loses its parent below it becomes this process's and is waited for here: dockerd takes a containerd that died
// with the dockerd before it for one that runs, until somebody has waited for it, and not every PID 1 does.
func runAndReap(dir string) (code int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the reaper: %w", err)
	}
	runtime.LockOSThread() // Pdeathsig goes by the thread
	child, err := os.StartProcess(os.Args[0], os.Args, &os.ProcAttr{
		Env: append(os.Environ(), envDir+"="+dir), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == child.Pid && ws.Signaled():
			return 0, fmt.Errorf("the tests were ended by signal %v", ws.Signal())
		case pid == child.Pid:
			return ws.ExitStatus(), nil
		}
	}
}

// reap waits for whatever ended, once the child is gone.
func reap() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.EINTR && pid <= 0 {
			return
		}
	}
}

func runChild(m *testing.M, dir string) int {
	var err error
	if the, err = newWorld(dir); err != nil {
		the.close()
		if errors.Is(err, errCannot) && os.Getenv(envShort) != "" {
			fmt.Println(err)
			return exitCannot
		}
		fmt.Fprintln(os.Stderr, "set-up of the tests:", err)
		return 1
	}
	code := m.Run()
	if err := the.close(); err != nil {
		fmt.Fprintln(os.Stderr, "end of the tests:", err)
		return 1
	}
	return code
}

// worldDir is short, since sockets' paths are bounded, and not on a tmpfs.
func worldDir(pid int) string { return "/tmp/fld-" + strconv.Itoa(pid) }

// sweepDead takes away the worlds whose test program is gone.
func sweepDead() {
	dirs, _ := filepath.Glob("/tmp/fld-*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(dir, "/tmp/fld-"))
		if err == nil && pid != os.Getpid() && syscall.Kill(pid, 0) == syscall.ESRCH {
			sweep(dir)
		}
	}
}
