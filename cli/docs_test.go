package cli

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"fractal-lazy/config"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var documents = []string{"../README.md", "../docs/QUICKSTART.md", "../docs/DOCKER.md", "../docs/FAILOVER.md", "../docs/OPERATIONS.md", "../docs/TIME-MACHINE.md", "../docs/BUTTERVOLUME.md"}

var (
	// named finds commands in blocks of code and in backquotes.
	named = regexp.MustCompile("(?:^|[`(;|$ ])fractal-lazy ((?:[^`|;&#()\n]|\\\\\n)*)")
	fence = regexp.MustCompile("(?s)```sh\n(.*?)```")
	words = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
)

// commandsIn returns the arguments of each command of ours that a document shows.
func commandsIn(text string) [][]string {
	var sources []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		sources = append(sources, strings.Split(strings.ReplaceAll(m[1], "\\\n", " "), "\n")...)
	}
	for _, m := range regexp.MustCompile("`fractal-lazy [^`\n]+`").FindAllString(text, -1) {
		sources = append(sources, strings.Trim(m, "`"))
	}
	var all [][]string
	for _, line := range sources {
		if strings.HasPrefix(strings.TrimSpace(line), "docker ") || strings.Contains(line, "install ") && strings.Contains(line, "bin/") ||
			strings.Contains(line, "systemctl") {
			continue
		}
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			args, _, _ := strings.Cut(m[1], " >")
			all = append(all, words.FindAllString(args, -1))
		}
	}
	return all
}

func TestDocs_EachCommandShownIsReal(t *testing.T) {
	n := 0
	for _, file := range documents {
		b, err := os.ReadFile(file)
		must(t, err)
		for _, args := range commandsIn(string(b)) {
			n++
			root := (&app{IO: IO{Env: func(string) (string, bool) { return "", false }}}).root()
			c, rest, err := root.Find(args)
			if err != nil {
				t.Errorf("%s: fractal-lazy %s: %v", file, strings.Join(args, " "), err)
				continue
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: fractal-lazy %s: %v", file, strings.Join(args, " "), err)
				continue
			}
			given := c.Flags().Args()
			if len(given) == 0 && strings.Contains(c.Use, " ") {
				continue // named in passing, without its arguments
			}
			if c.Args != nil {
				if err := c.Args(c, given); err != nil {
					t.Errorf("%s: fractal-lazy %s: %v", file, strings.Join(args, " "), err)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d commands were found: does the test still read the documents?", n)
	}
}

func TestDocs_OperationsHasEverySettingOptionAndExitCode(t *testing.T) {
	b, err := os.ReadFile("../docs/OPERATIONS.md")
	must(t, err)
	text := string(b)
	for _, s := range config.Settings() {
		row := fmt.Sprintf("| `%s` | `--%s` | `%s` |", s.Name, s.Name, s.Env)
		if !strings.Contains(text, row) {
			t.Errorf("lacks %s", row)
		}
		if s.Default != "" && !strings.Contains(text, row+" `"+s.Default+"`") {
			t.Errorf("%s lacks its default %s", row, s.Default)
		}
	}
	for _, line := range strings.Split(optionsHelp, "\n")[1:] {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		if !strings.Contains(text, "| `"+name+"` |") {
			t.Errorf("lacks the option %s", name)
		}
	}
	for _, code := range []int{ExitOK, ExitFailure, ExitUsage, ExitUnknown, ExitHeld, ExitUnreachable, ExitNotReady, ExitConflict, ExitProtected, ExitDamaged, ExitInterrupted} {
		if !strings.Contains(text, fmt.Sprintf("\n| %d | ", code)) {
			t.Errorf("lacks the exit code %d", code)
		}
		if !strings.Contains(strings.ReplaceAll(exitHelp, "\n", " "), fmt.Sprintf(" %d ", code)) {
			t.Errorf("the help lacks the exit code %d", code)
		}
	}
}

// What the help of `volume create` lists is what the daemon takes, or its error would name it.
func TestHelp_ListsTheOptionsThatTheDaemonTakes(t *testing.T) {
	d := startDevice(t, nil)
	r := d.run("volume", "create", "x", "-o", "nonsense=1").want(t, ExitUsage)
	_, list, ok := strings.Cut(r.err, "is not one of ")
	if !ok {
		t.Fatalf("the error does not list the options: %s", r.err)
	}
	list, _, _ = strings.Cut(list, ";")
	for _, name := range strings.Split(list, ", ") {
		if !strings.Contains(optionsHelp, "\n  "+name+"=") {
			t.Errorf("the help lacks the option %s", name)
		}
	}
	if want := strings.Count(optionsHelp, "\n"); len(strings.Split(list, ", ")) != want {
		t.Errorf("the daemon takes %s, the help lists %d", list, want)
	}
}

// Each flag has a description, and none of it ends in a full stop: they stand in lists.
func TestHelp_EveryFlagIsDescribed(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: %q", c.CommandPath(), f.Name, f.Usage)
			}
		})
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{IO: IO{Env: func(string) (string, bool) { return "", false }}}).root())
}
