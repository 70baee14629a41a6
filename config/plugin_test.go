package config

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// pluginConfig is what this test reads of config.json, Docker's description of the managed plugin.
type pluginConfig struct {
	Interface       struct{ Socket string }
	PropagatedMount string
	PIDHost         bool `json:"pidhost"`
	Mounts          []struct {
		Destination string
		Options     []string
	}
	Linux struct {
		Capabilities []string
		Devices      []struct{ Path string }
	}
	Env []struct {
		Name, Description, Value string
		Settable                 []string
	}
}

// fixed are the settings that nobody may change in the managed plugin, since other lines of config.json depend on them.
var fixed = map[string]string{
	"root":   "the destination of the state folder's mount",
	"socket": "Docker looks for the one that interface names",
	"mounts": "the propagated mount",
}

func TestPluginConfig_DeclaresEverySetting(t *testing.T) {
	b, err := os.ReadFile("../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var p pluginConfig
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	declared := map[string]int{}
	vars := map[string]string{}
	for i, e := range p.Env {
		if _, twice := declared[e.Name]; twice {
			t.Errorf("%s is declared twice", e.Name)
		}
		declared[e.Name] = i
		vars[e.Name] = e.Value
	}
	for _, s := range Settings() {
		i, there := declared[s.Env]
		delete(declared, s.Env)
		if why, ok := fixed[s.Name]; ok {
			if there && len(p.Env[i].Settable) > 0 {
				t.Errorf("%s is settable, but it is %s", s.Env, why)
			}
			continue
		}
		if !there {
			t.Errorf("%s is not declared", s.Env)
			continue
		}
		e := p.Env[i]
		if e.Description != s.Help {
			t.Errorf("%s is described as %q, want %q", s.Env, e.Description, s.Help)
		}
		if !slices.Equal(e.Settable, []string{"value"}) || e.Value != "" {
			t.Errorf("%s: value %q, settable %v: it has to be empty and settable, so that the file can have its say", s.Env, e.Value, e.Settable)
		}
	}
	for name := range declared {
		t.Errorf("%s is declared, and is no setting", name)
	}

	// What the plugin starts with fits the rest of the file.
	c, err := Load(Sources{Env: env(vars)})
	if err != nil {
		t.Fatal(err)
	}
	if c.Socket != "/run/docker/plugins/"+p.Interface.Socket || c.MountsDir() != p.PropagatedMount {
		t.Errorf("socket %s, mounts %s", c.Socket, c.MountsDir())
	}
	if len(p.Mounts) != 1 || p.Mounts[0].Destination != c.Root || !slices.Contains(p.Mounts[0].Options, "rbind") {
		t.Errorf("mounts %+v", p.Mounts)
	}
	if !p.PIDHost {
		t.Error("without the host's PIDs any signal fails a read that waits: tests/docker, TestRights")
	}
	if !slices.Equal(p.Linux.Capabilities, []string{"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}) || len(p.Linux.Devices) != 1 || p.Linux.Devices[0].Path != "/dev/fuse" {
		t.Errorf("rights %+v", p.Linux)
	}
}
