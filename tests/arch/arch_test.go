package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "fractal-lazy"
	tests  = "tests/"
	file   = "../../ARCHITECTURE.md"
)

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath, Name                   string
	Imports, TestImports, XTestImports []string
	Module                             *struct{ Path string }
	Standard                           bool
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Imports,TestImports,XTestImports,Module,Standard"}, args...)...)
	cmd.Dir = "../.."
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &errs)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// table returns the rows of the table under a heading: the name in backquotes in the first cell, and what is in backquotes in the second.
func table(t *testing.T, heading string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string][]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !quoted.MatchString(cells[1]) {
			continue
		}
		name := quoted.FindStringSubmatch(cells[1])[1]
		if _, twice := rows[name]; twice {
			t.Errorf("%q stands in the table twice", name)
		}
		rows[name] = []string{}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			rows[name] = append(rows[name], m[1])
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%q has no table", heading)
	}
	return rows
}

// short is a package's name in the table.
func short(path string) (string, bool) {
	if path == module {
		return "main", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestImports_AreThoseOfTheTable(t *testing.T) {
	rows := table(t, "Who may import whom")
	seen := map[string]bool{}
	for _, p := range goList(t, "./...") {
		name, _ := short(p.ImportPath)
		if strings.HasPrefix(name, tests) {
			continue
		}
		seen[name] = true
		may, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row in ARCHITECTURE.md", name)
			continue
		}
		for _, i := range p.Imports {
			other, ours := short(i)
			if ours && !slices.Contains(may, other) {
				t.Errorf("%s imports %s, which ARCHITECTURE.md does not allow: it may import %s", name, other, strings.Join(may, ", "))
			}
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if other, ours := short(i); ours && other == "main" {
				t.Errorf("a test of %s imports main", name)
			}
		}
	}
	for name, may := range rows {
		if !seen[name] {
			t.Errorf("ARCHITECTURE.md has a row for %s, which is no package", name)
		}
		for _, other := range may {
			if _, ok := rows[other]; !ok {
				t.Errorf("the row of %s allows %s, which has no row", name, other)
			}
		}
	}
}

// The layers have an order: a table that allows a cycle would compile as long as nobody uses it.
func TestImports_TableHasNoCycle(t *testing.T) {
	rows := table(t, "Who may import whom")
	const open, done = 1, 2
	state := map[string]int{}
	var visit func(path []string)
	visit = func(path []string) {
		name := path[len(path)-1]
		switch state[name] {
		case open:
			t.Errorf("cycle: %s", strings.Join(path, " -> "))
			return
		case done:
			return
		}
		state[name] = open
		for _, other := range rows[name] {
			visit(append(slices.Clone(path), other))
		}
		state[name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		visit([]string{name})
	}
}

func TestDependencies_AreThoseOfTheTable(t *testing.T) {
	rows := table(t, "Direct dependencies")
	outside := map[string]bool{}
	for _, p := range goList(t, "./...") {
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if first, _, _ := strings.Cut(i, "/"); strings.Contains(first, ".") {
				outside[i] = true
			}
		}
	}
	used := map[string]bool{}
	for _, p := range goList(t, slices.Sorted(maps.Keys(outside))...) {
		if p.Module != nil && !used[p.Module.Path] {
			used[p.Module.Path] = true
			if _, ok := rows[p.Module.Path]; !ok {
				t.Errorf("%s is imported, and ARCHITECTURE.md has no reason for it", p.Module.Path)
			}
		}
	}
	for name := range rows {
		if !used[name] {
			t.Errorf("ARCHITECTURE.md has a reason for %s, which nothing imports", name)
		}
	}
}
