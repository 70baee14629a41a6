package cli

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the golden files anew")

const helpFile = "testdata/help.golden"

func TestHelp_IsAsDocumented(t *testing.T) {
	var all bytes.Buffer
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		path := strings.Fields(c.CommandPath())[1:]
		r := run(nil, nil, append(path, "--help")...)
		if r.code != ExitOK || r.err != "" {
			t.Errorf("%s --help: %d %s", c.CommandPath(), r.code, r.err)
		}
		all.WriteString("$ " + c.CommandPath() + " --help\n" + r.out + "\n")
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{IO: IO{Env: func(string) (string, bool) { return "", false }}}).root())
	if *update {
		must(t, os.WriteFile(helpFile, all.Bytes(), 0o644))
	}
	want, err := os.ReadFile(helpFile)
	must(t, err)
	if !bytes.Equal(all.Bytes(), want) {
		t.Errorf("the help differs from %s; look at the difference, then go test ./cli -run Help -update:\n%s", helpFile, all.String())
	}
}

func TestUsage_IsRefusedWithCodeTwoAndAHint(t *testing.T) {
	for _, args := range [][]string{
		{"volumes"}, {"volume", "make"}, {"volume", "create"}, {"volume", "create", "a", "b"}, {"--colour"}, {"flush"}, {"flush", "--now", "x"},
		{"volume", "create", "x", "-o", "novalue"}, {"volume", "create", "x", "-o", "a=1", "-o", "a=2"},
		{"hydrate", "--pause", "--resume", "x"}, {"hydrate", "--pause", "--wait", "x"}, {"hydrate", "--rate", "fast", "x"},
		{"pool", "create", "--size", "big"}, {"key", "pubkey", "a", "b"}, {"run", "--interval", "soon"}, {"run", "--hive", "nonsense"},
		{"hive", "--log-level", "loud"}, {"run", "extra"},
	} {
		r := run(nil, nil, args...)
		if r.code != ExitUsage || r.out != "" || !strings.HasPrefix(r.err, "fractal-lazy: ") {
			t.Errorf("%v: code %d, out %q, err %q", args, r.code, r.out, r.err)
		}
	}
}

func TestVersion_Prints(t *testing.T) {
	run(nil, nil, "version").want(t, ExitOK, "fractal-lazy v0.0.0-test (0000000, go)\n")
	if v := decode[map[string]string](t, run(nil, nil, "version", "--json")); v["version"] != "v0.0.0-test" {
		t.Error(v)
	}
}

func TestErrors_AreOneDocumentWithJSON(t *testing.T) {
	r := run(nil, nil, "--socket", "/nowhere.sock", "--json", "volume", "ls").want(t, ExitUnreachable, "fractal-lazy run")
	e := decode[struct {
		Error, Code string
		Exit        int
	}](t, r)
	if e.Code != "unreachable" || e.Exit != ExitUnreachable || e.Error == "" {
		t.Errorf("%+v", e)
	}
}
