//go:build docker

package docker

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPlugin_AnswersAndHasTheRightsItNeedsAndNoMore(t *testing.T) {
	e := the.a
	up(t, e)
	var st struct {
		Ready  bool
		Health struct {
			OK     bool
			Checks []struct {
				Name, Detail string
				OK           bool
			}
		}
		Settings []struct{ Name, Value, Source string }
	}
	text := e.cli(t, "status", "--json")
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	if !st.Ready || !st.Health.OK {
		t.Errorf("health: %s", text)
	}
	for _, c := range st.Health.Checks {
		if !c.OK || c.Name == "mounts" && !strings.HasSuffix(c.Detail, "is on a shared mount") {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
	if strings.Contains(text, the.token) {
		t.Error("status shows the token")
	}
	t.Log(e.docker(t, "plugin", "inspect", "-f", "{{json .Config.Linux}}", pluginName))
}
