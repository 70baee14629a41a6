//go:build ignore

// Command summary reads the output of `go test -json` and shows it as `go test` would without -v, with the time of each package.
// At the end it lists what was skipped and why, what failed, and counts; the same goes to -file. It ends with 1 where anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of a build
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

type key struct{ pkg, test string }

type summary struct {
	output          map[key][]string
	skipped, failed []string
	passed, packs   int
	perPackage      map[string]int
}

func main() {
	file := flag.String("file", "", "write the closing lines there as well")
	flag.Parse()
	s := summary{output: map[key][]string{}, perPackage: map[string]int{}}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			fmt.Println(in.Text()) // of the go command itself
			continue
		}
		s.take(e)
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	var w io.Writer = os.Stdout
	if *file != "" {
		f, err := os.Create(*file)
		if err != nil {
			fmt.Fprintln(os.Stderr, "summary:", err)
			os.Exit(1)
		}
		defer f.Close()
		w = io.MultiWriter(os.Stdout, f)
	}
	s.print(w)
	if len(s.failed) > 0 || s.packs == 0 {
		os.Exit(1)
	}
}

func (s *summary) take(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "output":
		s.output[k] = append(s.output[k], e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			s.packs++
			s.endPackage(e)
			return
		}
		switch e.Action {
		case "pass":
			s.passed++
			s.perPackage[e.Package]++
		case "skip":
			s.skipped = append(s.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(s.output[k])))
		case "fail":
			s.failed = append(s.failed, e.Package+" "+e.Test)
			fmt.Print(strings.Join(s.output[k], ""))
		}
		delete(s.output, k)
	}
}

func (s *summary) endPackage(e event) {
	k := key{e.Package, ""}
	switch {
	case e.Action == "fail":
		// What was running when the package ended, by a panic or a timeout, has the output that explains it.
		for open, lines := range s.output {
			if open.pkg == e.Package && open.test != "" {
				fmt.Print(strings.Join(lines, ""))
				s.failed = append(s.failed, e.Package+" "+open.test)
			}
		}
		fmt.Print(strings.Join(s.output[k], ""))
		if !slices.ContainsFunc(s.failed, func(f string) bool { return strings.HasPrefix(f, e.Package+" ") }) {
			s.failed = append(s.failed, e.Package)
		}
	case e.Action == "pass" && s.perPackage[e.Package] == 0 && !s.skippedIn(e.Package):
		s.skipped = append(s.skipped, e.Package+": ran no test: "+reason(s.output[k]))
	case e.Action == "pass" && s.perPackage[e.Package] > 0:
		fmt.Printf("ok  \t%s\t%d tests, %.1f s\n", e.Package, s.perPackage[e.Package], e.Elapsed)
	}
	for open := range s.output {
		if open.pkg == e.Package {
			delete(s.output, open)
		}
	}
}

func (s *summary) skippedIn(pkg string) bool {
	return slices.ContainsFunc(s.skipped, func(l string) bool { return strings.HasPrefix(l, pkg+" ") })
}

// reason finds what t.Skip was given.
func reason(lines []string) string {
	var why []string
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- ") {
			continue
		}
		if _, after, ok := strings.Cut(l, ".go:"); ok { // file.go:12: text
			if _, text, ok := strings.Cut(after, ": "); ok {
				l = text
			}
		}
		why = append(why, l)
	}
	if len(why) == 0 {
		return "no reason given"
	}
	return strings.Join(why, " ")
}

func (s *summary) print(w io.Writer) {
	slices.Sort(s.skipped)
	slices.Sort(s.failed)
	for _, l := range s.skipped {
		fmt.Fprintln(w, "SKIPPED", l)
	}
	for _, l := range s.failed {
		fmt.Fprintln(w, "FAILED", l)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", s.passed, len(s.failed), len(s.skipped))
}
