//go:build docker

package docker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// A direct mount needs no driver: the container does not even wait, and the next driver has what it wrote meanwhile published. Docker takes the mount's place
// away when it disables the plugin; a driver that took the volume for unmounted would give it back, and restore or remove it, under who uses it.
func TestDirect_PluginDisabledAndKilledUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "plain", "interval=5s", "mount=direct")
	n := acknowledging(t, e, "plain")
	if how := e.status(t, "plain")["mount"]; how != "direct" {
		t.Fatalf("mounted %v", how)
	}
	stays := func() {
		t.Helper()
		st := e.status(t, "plain")
		if m, _ := st["mounts"].([]any); len(m) != 1 || st["mount"] != "direct" || st["state"] != "complete" {
			t.Fatalf("%v", st)
		}
		before, _ := st["generation"].(float64)
		eventually(t, time.Minute, func() error { // what it writes is published as before
			if now, _ := e.status(t, "plain")["generation"].(float64); now <= before {
				return fmt.Errorf("generation %v", now)
			}
			return nil
		})
		if out := e.run(t, []string{"-v", "plain:/data:ro"}, "head -n 1 /data/log"); out != "1" {
			t.Errorf("another container reads %q", out)
		}
	}
	for range 2 {
		e.docker(t, "plugin", "disable", "-f", pluginName)
		n = acknowledged(t, e, "plain", n) // nobody serves it
		e.docker(t, "plugin", "enable", pluginName)
		n = acknowledged(t, e, "plain", n)
		stays()
	}
	killPlugin(t, e, "plain")
	n = acknowledged(t, e, "plain", n)
	stays()
	acknowledged(t, e, "plain", n)
	e.docker(t, "rm", "-f", "plain")
	e.state(t, "plain", "unmounted")
	e.docker(t, "volume", "rm", "plain")
}

// A container that ends while the plugin is away cannot say so: the volume counts as used, and the refusal says what to do.
func TestDirect_ContainerThatEndedMeanwhileIsTakenAwayByHand(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "left", "interval=off", "mount=direct")
	e.docker(t, "run", "-d", "--name", "left", "--network", "none", "-v", "left:/data", "busybox", "sleep", "600")
	t.Cleanup(func() { e.try("rm", "-f", "left") })
	e.docker(t, "plugin", "disable", "-f", pluginName)
	e.docker(t, "rm", "-f", "left")
	e.docker(t, "plugin", "enable", pluginName)
	var ids []any
	eventually(t, time.Minute, func() error {
		if ids, _ = e.status(t, "left")["mounts"].([]any); len(ids) != 1 {
			return errors.New("the volume has not one user")
		}
		return nil
	})
	id, ok := ids[0].(string)
	if !ok {
		kit.Must(t, fmt.Errorf("mount ids %v", ids))
	}
	e.refused(t, []string{"in use", "volume umount --id " + id + " left"}, "volume", "rm", "left")
	e.cli(t, "volume", "umount", "--id", id, "left")
	e.state(t, "left", "unmounted")
	e.docker(t, "volume", "rm", "left")
}
