package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/volume"

	"github.com/spf13/cobra"
)

// Every command says clearly what is wrong with what it was given, ends with the code for it, and changes nothing: volumes, snapshots and jobs are what they were.
func TestCommands_EachRefusesWhatIsWrongAndLosesNothing(t *testing.T) {
	token := newToken()
	hive := startHive(t)
	d := startDevice(t, nil, "--hive", hive, "--ipfs", hive, "--token", token, "--interval", "off")
	d.run("volume", "create", "db").want(t, ExitOK)
	dir := strings.TrimSpace(d.run("volume", "mount", "db").want(t, ExitOK).out)
	for _, text := range []string{"one", "two"} {
		must(t, os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644))
		d.run("flush", "db").want(t, ExitOK)
	}
	d.run("schedule", "purge:1d", "1440", "db").want(t, ExitOK)
	tmp := t.TempDir()
	text := filepath.Join(tmp, "text")
	must(t, os.WriteFile(text, []byte("this is neither a key nor a snapshot"), 0o600))

	key := filepath.Join(tmp, "key")
	must(t, os.WriteFile(key, []byte(run(nil, nil, "key", "generate").want(t, ExitOK).out), 0o600))
	// state is all that a refused command must leave alone.
	state := func() string {
		t.Helper()
		var v []volume.Info
		must(t, json.Unmarshal([]byte(d.run("--json", "volume", "ls").want(t, ExitOK).out), &v))
		s := d.run("--json", "snapshots", "db").want(t, ExitOK).out + d.run("--json", "scheduled").want(t, ExitOK).out
		for _, i := range v {
			s += i.Name + " " + i.Pubkey + " " + strings.Join(i.Mounts, ",") + "\n"
		}
		b, err := os.ReadFile(filepath.Join(dir, "f"))
		must(t, err)
		return s + string(b)
	}
	eventually(t, "the job ran at once", func() bool { return strings.Contains(d.run("--json", "scheduled").out, `"ran"`) })
	before := state()
	var tried []string

	const no, none = "no such volume", "no such snapshot"
	long := strings.Repeat("n", 300)
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{ExitUnknown, no, []string{"browse", "none", "1"}},
		{ExitUnknown, none, []string{"browse", "db", "99"}},
		{ExitUnknown, none, []string{"browse", "db", "1999-01-01 00:00"}},
		{ExitUnknown, no, []string{"clone", "none", "new"}},
		{ExitUsage, "a letter or a digit", []string{"clone", "db", "../new"}},
		{ExitConflict, "exists", []string{"clone", "db", "db"}},
		{ExitUnknown, no, []string{"diff", "none", "1"}},
		{ExitUnknown, none, []string{"diff", "db", "1", "99"}},
		{ExitUnknown, no, []string{"export", "none", filepath.Join(tmp, "e")}},
		{ExitUnknown, none, []string{"export", "db", "99", filepath.Join(tmp, "e")}},
		{ExitFailure, "no such file", []string{"export", "db", filepath.Join(tmp, "no", "e")}},
		{ExitConflict, "exists", []string{"export", "db", text}},
		{ExitUnknown, no, []string{"flush", "none"}},
		{ExitUsage, "letter or digit first", []string{"flush", "a/b"}},
		{ExitUsage, "", []string{"hive", "--listen", "nowhere:port", "--data", tmp}},
		{ExitUsage, "", []string{"hold", "extra"}},
		{ExitUnknown, no, []string{"hydrate", "none"}},
		{ExitUnknown, no, []string{"import", text, "none"}},
		{ExitDamaged, "not the offline copy", []string{"import", text, "db"}},
		{ExitFailure, "no such file", []string{"import", filepath.Join(tmp, "no"), "db"}},
		{ExitUsage, "no volumes of Buttervolume", []string{"import-buttervolume", "--from", tmp}},
		{ExitUnknown, no, []string{"key", "export", "none"}},
		{ExitUsage, "", []string{"key", "generate", "extra"}},
		{ExitFailure, "not a key", []string{"key", "import", "new", text}},
		{ExitConflict, "exists", []string{"key", "import", "db", key}},
		{ExitFailure, "not a key", []string{"key", "pubkey", text}},
		{ExitFailure, "not a key", []string{"key", "secret", text}},
		{ExitUsage, "size", []string{"pool", "create", "--size", "1"}},
		{ExitUsage, "", []string{"pool", "status", "extra"}},
		{ExitUnknown, no, []string{"purge", "none", "1h"}},
		{ExitUsage, "use \"2h\"", []string{"purge", "db", "2h:2h"}},
		{ExitUsage, "not a retention pattern", []string{"purge", "db", "soon"}},
		{ExitUsage, "not a retention pattern", []string{"purge", "db", "--", "-1h"}},
		{ExitUsage, "not a retention pattern", []string{"purge", "db", "99999999999999999999y"}},
		{ExitUsage, "", []string{"receive", "extra"}},
		{ExitUnknown, no, []string{"restore", "none", "1"}},
		{ExitUnknown, none, []string{"restore", "db", "99", "new"}},
		{ExitConflict, "in use", []string{"restore", "db", "1"}},
		{ExitUnknown, none, []string{"restore", "db", "tomorrow", "new"}},
		{ExitConflict, "exists", []string{"restore", "db", "1", "db"}},
		{ExitUnknown, no, []string{"rm", "none", "1"}},
		{ExitUnknown, none, []string{"rm", "db", "99"}},
		{ExitUnknown, "in that second", []string{"rm", "db", "2099-01-01 00:00"}},
		{ExitConflict, "newest", []string{"rm", "db", "2"}},
		{ExitUsage, "name the snapshot", []string{"rm", "db"}},
		{ExitUsage, "", []string{"run", "--interval", "soon"}},
		{ExitUnknown, no, []string{"schedule", "snapshot", "60", "none"}},
		{ExitUsage, "timer", []string{"schedule", "snapshot", "often", "db"}},
		{ExitUsage, "it never comes", []string{"schedule", "snapshot", "0 0 30 2 *", "db"}},
		{ExitUsage, "action", []string{"schedule", "explode", "60", "db"}},
		{ExitUsage, "retention pattern", []string{"schedule", "purge:1x", "60", "db"}},
		{ExitUnknown, "no such scheduled job", []string{"schedule", "snapshot", "delete", "db"}},
		{ExitUsage, "", []string{"scheduled", "explode"}},
		{ExitNotReady, "no such remote", []string{"send", "nowhere", "db"}},
		{ExitUnknown, no, []string{"send", "ssh://host", "none"}},
		{ExitUnknown, no, []string{"snapshot", "none"}},
		{ExitUnknown, no, []string{"snapshots", "none"}},
		{ExitUsage, "", []string{"status", "extra"}},
		{ExitUnknown, no, []string{"sync", "none"}},
		{ExitUnknown, no, []string{"verify", "none"}},
		{ExitUnknown, none, []string{"verify", "db", "99"}},
		{ExitUsage, "share", []string{"verify", "--sample", "200%", "db"}},
		{ExitUsage, "", []string{"version", "extra"}},
		{ExitConflict, "exists", []string{"volume", "create", "db", "-o", "size=1GiB"}},
		{ExitUsage, "a letter or a digit", []string{"volume", "create", ".."}},
		{ExitUsage, "a letter or a digit", []string{"volume", "create", long}},
		{ExitUsage, "is not one of", []string{"volume", "create", "new", "-o", "colour=red"}},
		{ExitUsage, "size", []string{"volume", "create", "new", "-o", "size=big"}},
		{ExitUnknown, no, []string{"volume", "inspect", "none"}},
		{ExitUsage, "", []string{"volume", "ls", "extra"}},
		{ExitUnknown, no, []string{"volume", "mount", "none"}},
		{ExitUnknown, no, []string{"volume", "rm", "none"}},
		{ExitConflict, "unmount it first", []string{"volume", "rm", "--force", "db"}},
		{ExitUnknown, no, []string{"volume", "umount", "none"}},
		{ExitUsage, "", []string{"worker", "extra"}},
	} {
		r := d.run(c.args...)
		if r.code != c.code || !strings.HasPrefix(r.err, "fractal-lazy: ") || !strings.Contains(r.err, c.says) {
			t.Errorf("%.60q: %d, want %d with %q: %s%s", c.args, r.code, c.code, c.says, r.out, r.err)
		}
		tried = append(tried, strings.Join(c.args, " ")+" ")
	}
	if after := state(); after != before {
		t.Errorf("something changed:\n%s\nwas\n%s", after, before)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 2 {
		t.Errorf("files were left: %v, %v", left, err)
	}
	// Nothing is forgotten: each command that does something was tried.
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		name := strings.TrimPrefix(c.CommandPath(), "fractal-lazy ")
		if c.Runnable() && !c.HasSubCommands() && !c.IsAdditionalHelpTopicCommand() && name != "help" && !strings.HasPrefix(name, "completion") &&
			!slices.ContainsFunc(tried, func(s string) bool { return strings.HasPrefix(s, name+" ") }) {
			t.Errorf("%s was not tried", name)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{IO: IO{Env: func(string) (string, bool) { return "", false }}}).root())
}
