package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fractal-lazy/snapshot"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// compareChanges holds what a diff told of two trees against the trees.
func compareChanges(was, now []kit.Entry, got []volume.Change) error {
	a, b := byPath(was), byPath(now)
	told := map[string]volume.Change{}
	for _, c := range got {
		if _, twice := told[c.Path]; twice {
			return fmt.Errorf("%w: a diff tells %q twice", errWrong, c.Path)
		}
		told[c.Path] = c
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		c, ok := told[path]
		delete(told, path)
		if below(path, a, b) { // a directory that came, went or is none any more stands for it
			if ok {
				return fmt.Errorf("%w: a diff tells %q, whose directory it has told", errWrong, path)
			}
			continue
		}
		x, inA := a[path]
		y, inB := b[path]
		may := mayTell(x, y, inA, inB)
		kind := snapshot.ChangeKind("")
		if ok {
			kind = c.Kind
		}
		if !slices.Contains(may, kind) {
			return fmt.Errorf("%w: a diff tells of %q %q, and may tell %q:\nwas %+v\nis  %+v", errWrong, path, kind, may, x, y)
		}
		if ok {
			if err := checkChange(c, x, y, inA, inB, a, b); err != nil {
				return err
			}
		}
	}
	for path, c := range told {
		return fmt.Errorf("%w: a diff tells of %q, which is in neither: %+v", errWrong, path, c)
	}
	return nil
}

// byPath has the entries by the path that a diff calls them.
func byPath(list []kit.Entry) map[string]kit.Entry {
	m := map[string]kit.Entry{}
	for _, e := range list {
		path := "/" + e.Path
		if e.Path == "." {
			path = "/"
		}
		m[path] = e
	}
	return m
}

// below tells whether something above path is not a directory in both.
func below(path string, a, b map[string]kit.Entry) bool {
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if a[path[:i]].Type != "dir" || b[path[:i]].Type != "dir" {
			return true
		}
	}
	return false
}

// mayTell are the kinds that a diff may tell of a name; an empty one: nothing. What shares a block with others may be told to have changed.
func mayTell(x, y kit.Entry, inA, inB bool) []snapshot.ChangeKind {
	switch {
	case !inA:
		return []snapshot.ChangeKind{snapshot.Added}
	case !inB:
		return []snapshot.ChangeKind{snapshot.Removed}
	case x.Type != y.Type:
		return []snapshot.ChangeKind{snapshot.Retyped}
	}
	same := x.Mode == y.Mode && x.UID == y.UID && x.GID == y.GID && x.Rdev == y.Rdev && x.MTime == y.MTime && x.Flags == y.Flags && x.Nlink == y.Nlink &&
		maps.Equal(x.Xattrs, y.Xattrs)
	content := x.Size == y.Size && x.Hash == y.Hash && x.Data == y.Data && x.Target == y.Target
	if x.Type != "file" {
		switch {
		case !content:
			return []snapshot.ChangeKind{snapshot.Changed}
		case !same:
			return []snapshot.ChangeKind{snapshot.Attributes}
		}
		return []snapshot.ChangeKind{""}
	}
	switch {
	case content && same:
		return []snapshot.ChangeKind{"", snapshot.Repacked}
	case content && x.MTime == y.MTime:
		return []snapshot.ChangeKind{snapshot.Attributes}
	case content:
		return []snapshot.ChangeKind{snapshot.Attributes, snapshot.Changed}
	case same:
		return []snapshot.ChangeKind{snapshot.Changed, snapshot.Repacked}
	case x.MTime == y.MTime:
		return []snapshot.ChangeKind{snapshot.Changed, snapshot.Attributes}
	}
	return []snapshot.ChangeKind{snapshot.Changed}
}

// checkChange holds the sizes and counts of a change against the trees.
func checkChange(c volume.Change, x, y kit.Entry, inA, inB bool, a, b map[string]kit.Entry) error {
	wrong := func(what string, got, want uint64) error {
		return fmt.Errorf("%w: a diff tells %d as %s of %q (%s), which is %d", errWrong, got, what, c.Path, c.Kind, want)
	}
	if inA && x.Type == "file" && c.Was != uint64(x.Size) {
		return wrong("size before", c.Was, uint64(x.Size))
	}
	if inB && y.Type == "file" && c.Now != uint64(y.Size) {
		return wrong("size", c.Now, uint64(y.Size))
	}
	in := b
	if !inB {
		in = a
	}
	if e := in[c.Path]; e.Type == "dir" && (c.Kind == snapshot.Added || c.Kind == snapshot.Removed) {
		var files, dirs uint64
		for path, e := range in {
			switch {
			case !strings.HasPrefix(path, c.Path+"/"):
			case e.Type == "dir":
				dirs++
			case e.Type == "file":
				files++
			}
		}
		if c.Files != files {
			return wrong("files", c.Files, files)
		}
		if c.Dirs != dirs {
			return wrong("directories", c.Dirs, dirs)
		}
	}
	return nil
}
