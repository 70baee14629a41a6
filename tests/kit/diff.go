package kit

import (
	"fmt"
	"sort"
	"strings"
)

// String is the entry on one line, in canonical form.
func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", e.Path)
	for _, f := range e.fields() {
		fmt.Fprintf(&b, " %s=%s", f[0], f[1])
	}
	return b.String()
}

// Text is the whole description, one entry a line: equal trees, equal text.
func Text(list []Entry) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// fields are name and value of all that the entry has, in a fixed order.
func (e Entry) fields() [][2]string {
	list := [][2]string{{"type", e.Type}, {"mode", fmt.Sprintf("%04o", e.Mode)},
		{"owner", fmt.Sprintf("%d:%d", e.UID, e.GID)}, {"mtime", e.MTime}}
	add := func(name, value string) {
		if value != "" {
			list = append(list, [2]string{name, value})
		}
	}
	if e.Type == "file" || e.Type == "symlink" {
		add("size", fmt.Sprint(e.Size))
	}
	add("rdev", e.Rdev)
	if e.Type == "symlink" {
		add("target", fmt.Sprintf("%q", e.Target))
	}
	if e.Type != "dir" {
		add("nlink", fmt.Sprint(e.Nlink))
	}
	if len(e.Links) > 0 {
		add("links", fmt.Sprintf("%q", e.Links))
	}
	add("flags", e.Flags)
	add("content", e.Hash)
	add("data", e.Data)
	var names []string
	for name := range e.Xattrs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		add("xattr "+fmt.Sprintf("%q", name), fmt.Sprintf("%q", e.Xattrs[name]))
	}
	return list
}

// diffLines and diffValue bound what a Diff says.
const (
	diffLines = 60
	diffValue = 200
)

// Diff says in which ways b is not a: "" where they are the same. A line
// is a path that only one of them has, or one field of a path, with both values. It
// is cut after some lines, with the number of those that follow.
func Diff(a, b []Entry) string {
	var lines []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case j == len(b) || i < len(a) && a[i].Path < b[j].Path:
			lines = append(lines, fmt.Sprintf("- %q (%s) is missing", short(a[i].Path), a[i].Type))
			i++
		case i == len(a) || b[j].Path < a[i].Path:
			lines = append(lines, fmt.Sprintf("+ %q (%s) is new", short(b[j].Path), b[j].Type))
			j++
		default:
			lines = append(lines, diffEntry(a[i], b[j])...)
			i, j = i+1, j+1
		}
	}
	if n := len(lines) - diffLines; n > 0 {
		lines = append(lines[:diffLines], fmt.Sprintf("... and %d more", n))
	}
	return strings.Join(lines, "\n")
}

func diffEntry(a, b Entry) []string {
	var lines []string
	is := map[string]string{}
	for _, f := range b.fields() {
		is[f[0]] = f[1]
	}
	say := func(field, was, now string) {
		if was != now {
			lines = append(lines, fmt.Sprintf("! %q %s: %s -> %s", short(a.Path), field, value(was), value(now)))
		}
	}
	for _, f := range a.fields() {
		say(f[0], f[1], is[f[0]])
		delete(is, f[0])
	}
	for _, f := range b.fields() { // what is left, in order
		if now, ok := is[f[0]]; ok {
			say(f[0], "", now)
		}
	}
	return lines
}

func value(s string) string {
	if s == "" {
		return "none"
	}
	return short(s)
}

func short(s string) string {
	if len(s) <= diffValue {
		return s
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:diffValue], len(s))
}
