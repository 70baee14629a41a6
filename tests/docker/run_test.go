//go:build docker

package docker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

func TestRun_WhatOneContainerWritesTheNextOneReads(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "first", "interval=off")
	e.run(t, []string{"-v", "first:/data"}, `
		mkdir -p /data/d; echo hello >/data/d/f; ln /data/d/f /data/hard; ln -s d/f /data/soft; chown 1000:1000 /data/d; chmod 2750 /data/d
		dd if=/dev/urandom of=/data/big bs=64k count=32 2>/dev/null; md5sum </data/big >/data/sum; mv /data/hard /data/d/harder`)
	out := e.run(t, []string{"-v", "first:/data", "-u", "1000:1000"}, `
		cat /data/soft; stat -c '%a %u %g %h' /data/d/f /data/d; md5sum </data/big | cat /data/sum - | sort -u | wc -l; ls /data /data/d`)
	if want := "hello\n644 0 0 2\n2750 1000 1000 1\n1\n/data:\nbig\nd\nsoft\nsum\n\n/data/d:\nf\nharder"; out != want {
		t.Errorf("read\n%s\nwant\n%s", out, want)
	}
}

func TestRun_AVolumeIsMadeByTheMountThatNamesIt(t *testing.T) {
	e := the.a
	up(t, e)
	t.Cleanup(func() { e.forget(t, "inline"); e.forget(t, "short") })
	e.run(t, []string{"--mount", "type=volume,src=inline,dst=/data,volume-driver=" + pluginName + ",volume-opt=interval=off,volume-opt=size=64MiB"},
		"echo x >/data/f; df -k /data | tail -n 1 | grep -q 65536")
	options, _ := e.status(t, "inline")["options"].(map[string]any)
	if options["interval"] != "off" || options["size"] != "67108864" {
		t.Errorf("options %v", options)
	}
	e.refused(t, []string{"size", "1MiB or more"}, runArgs([]string{"--mount",
		"type=volume,src=inline2,dst=/data,volume-driver=" + pluginName + ",volume-opt=size=lots"}, "true")...)
	e.run(t, []string{"-v", "short:/data", "--volume-driver", pluginName}, "echo x >/data/f")
	if got := e.docker(t, "volume", "inspect", "-f", "{{.Driver}}", "short"); got != pluginName+":latest" {
		t.Errorf("driver %s", got)
	}
}

// What is written to an open file passes by the plugin; the limit holds from the next measurement on.
func TestRun_SizeStopsAVolumeThatIsFull(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "small", "interval=off", "size=16MiB")
	id := e.docker(t, "run", "-d", "--network", "none", "-v", "small:/data", "busybox", "sh", "-c",
		"dd if=/dev/urandom of=/data/f bs=1M count=32; sync; exec sleep 600")
	defer e.docker(t, "rm", "-f", id)
	eventually(t, 30*time.Second, func() error {
		out, err := e.try("exec", id, "sh", "-c", "df -k /data | tail -n 1; rm -f /data/more; touch /data/more")
		if err == nil || !strings.Contains(err.Error(), "No space left") {
			return fmt.Errorf("32 MiB in a volume of 16: %s, %v", out, err)
		}
		return nil
	})
	e.docker(t, "exec", id, "sh", "-c", "rm /data/f; sync")
	eventually(t, 40*time.Second, func() error {
		_, err := e.try("exec", id, "sh", "-c", "echo again >/data/more; grep again /data/more")
		return err
	})
}

func TestRun_ContainersShareAVolumeAndTheLastOneUnmounts(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "shared", "interval=off")
	const n = 4
	var ids []string
	for i := range n {
		ids = append(ids, e.docker(t, "run", "-d", "--network", "none", "-v", "shared:/data", "busybox", "sh", "-c",
			fmt.Sprintf("for j in $(seq 50); do echo %d $j >>/data/log; mkdir -p /data/%d/$j; done; touch /data/done%d; exec sleep 600", i, i, i)))
	}
	eventually(t, time.Minute, func() error {
		out, err := e.try("exec", ids[0], "sh", "-c", "ls /data | grep -c done; wc -l </data/log; ls /data/3 | wc -l")
		if err == nil && out != "4\n200\n50" {
			err = fmt.Errorf("first container sees %q", out)
		}
		return err
	})
	for i, id := range ids {
		if got := len(e.status(t, "shared")["mounts"].([]any)); got != n-i {
			t.Errorf("%d mounts with %d containers", got, n-i)
		}
		e.docker(t, "rm", "-f", id)
	}
	e.state(t, "shared", "unmounted")
	if m := e.docker(t, "volume", "inspect", "-f", "{{.Mountpoint}}", "shared"); m != "" {
		t.Errorf("still mounted at %s", m)
	}
}

func TestRun_ReadOnlyMountsAreReadOnlyForTheirContainerAlone(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "ro", "interval=off")
	writer := e.docker(t, "run", "-d", "--network", "none", "-v", "ro:/data", "busybox", "sh", "-c", "echo one >/data/f; exec sleep 600")
	defer e.docker(t, "rm", "-f", writer)
	for _, option := range [][]string{{"-v", "ro:/data:ro"}, {"--mount", "type=volume,src=ro,dst=/data,readonly"}} {
		out := e.run(t, option, "cat /data/f; touch /data/g 2>&1 || true; rm /data/f 2>&1 || true; chmod 0 /data/f 2>&1 || true")
		if !strings.HasPrefix(out, "one\n") || strings.Count(out, "Read-only file system") != 3 {
			t.Errorf("%v: %s", option, out)
		}
	}
	e.docker(t, "exec", writer, "sh", "-c", "echo two >/data/f")
}

func TestRun_AnEmptyVolumeGetsTheContentOfTheImage(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "copied", "interval=off")
	const look = "cd /content; cat from-image below/deep link; stat -c '%n %a %u %F' . from-image below below/deep link"
	image := e.run(t, nil, look)
	got := e.run(t, []string{"-v", "copied:/content"}, look)
	if got != image {
		t.Errorf("the volume has\n%s\nthe image has\n%s", got, image)
	}
	e.run(t, []string{"-v", "copied:/content"}, "rm /content/from-image; echo changed >/content/below/deep")
	if out := e.run(t, []string{"-v", "copied:/content"}, "ls /content; cat /content/link"); out != "below\nlink\nchanged" {
		t.Errorf("a volume that is not empty was copied to again: %q", out)
	}
	volume(t, e, "not-copied", "interval=off")
	if out := e.run(t, []string{"--mount", "type=volume,src=not-copied,dst=/content,volume-nocopy"}, "ls -A /content"); out != "" {
		t.Errorf("volume-nocopy: %q", out)
	}
}

func TestRun_ComposeFileOfTheDocs(t *testing.T) {
	e := the.a
	up(t, e)
	dir := e.path("compose")
	kit.Must(t, os.MkdirAll(dir, 0o755))
	file := filepath.Join(dir, "docker-compose.yaml")
	kit.Must(t, os.WriteFile(file, []byte(composeFile), 0o644))
	compose := func(args ...string) string {
		cmd := exec.Command("docker-compose", append([]string{"-p", "app", "-f", file}, args...)...)
		cmd.Env = e.env()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker-compose %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { compose("down", "-t", "0"); e.forget(t, "app_files") })
	compose("up", "-d")
	compose("up", "-d") // it looks whether the volume that is there is the one that the file describes
	eventually(t, 30*time.Second, func() error {
		out, err := e.try("exec", "app_reader_1", "cat", "/files/f")
		if err == nil && out != "from the writer" {
			err = fmt.Errorf("reader sees %q", out)
		}
		return err
	})
	options, _ := e.status(t, "app_files")["options"].(map[string]any)
	if options["interval"] != "5m0s" {
		t.Errorf("options %v", options)
	}
}

// composeFile is the shape of docs/DOCKER.md's example, with what there is without a network.
const composeFile = `version: "3.4"
services:
  writer:
    image: busybox
    network_mode: none
    command: ["sh", "-c", "echo from the writer >/files/f; exec sleep 600"]
    volumes: ["files:/files"]
  reader:
    image: busybox
    network_mode: none
    command: ["sleep", "600"]
    volumes: ["files:/files:ro"]
volumes:
  files:
    driver: fractal-lazy:latest
    driver_opts:
      interval: 5m
`
