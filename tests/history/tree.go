package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// tree is one exact state of a volume's files: a read-only subvolume of plain BTRFS, which no code under test has ever touched.
type tree struct {
	dir  string
	list []kit.Entry
	text string // equal trees, equal text
}

// forest has all trees of a history, in a pool of its own.
type forest struct {
	pool *kit.LoopPool
	n    int
	by   map[string]*tree // by text
}

func newForest(dir string) (*forest, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	p, err := kit.NewPool(dir, poolSize)
	return &forest{pool: p, by: map[string]*tree{}}, err
}

func (f *forest) close() error {
	subs, err := filepath.Glob(filepath.Join(f.pool.Dir, "*"))
	if err != nil {
		return err
	}
	for _, s := range subs {
		if err := backing.DeleteSubvolume(s); err != nil {
			return err
		}
	}
	return f.pool.Close()
}

func (f *forest) path() string {
	f.n++
	return filepath.Join(f.pool.Dir, fmt.Sprint(f.n))
}

// work is a writable copy of t; nil: an empty folder.
func (f *forest) work(t *tree) (string, error) {
	p := f.path()
	if t == nil {
		return p, backing.CreateSubvolume(p)
	}
	return p, backing.Snapshot(t.dir, p, false)
}

// freeze makes the folder that work returned a tree, or finds the one that it equals.
func (f *forest) freeze(dir string) (*tree, error) {
	if err := backing.SyncFS(dir); err != nil { // delayed allocation shows as data or not
		return nil, err
	}
	list, err := kit.Describe(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir, list: list, text: kit.Text(list)}
	if old := f.by[t.text]; old != nil {
		return old, backing.DeleteSubvolume(dir)
	}
	f.by[t.text] = t
	return t, backing.SetReadonly(dir, true)
}

// guess is what is known of a state: it is one of these trees, in all but the rarest case the only one. Whoever holds the same
// guess has the same state, so what is learned by reading one of them holds for all.
type guess struct{ of []*tree }

func is(t *tree) *guess { return &guess{of: []*tree{t}} }

// either is a guess of which nobody knows more than that it is one of these.
func either(all ...*guess) *guess {
	var g guess
	var one *guess
	for _, o := range all {
		if o == nil || o == one {
			continue
		}
		if one == nil && len(g.of) == 0 {
			one = o
		} else {
			one = nil
		}
		for _, t := range o.of {
			if !slices.Contains(g.of, t) {
				g.of = append(g.of, t)
			}
		}
	}
	if one != nil { // they are all this one, and what is learned of it holds for all
		return one
	}
	return &g
}

func (g *guess) sure() bool { return len(g.of) == 1 }

// may tells whether both can be the same.
func (g *guess) may(o *guess) bool {
	return slices.ContainsFunc(g.of, func(t *tree) bool { return slices.Contains(o.of, t) })
}

// meet makes both what they have in common, as they are known to be the same.
func (g *guess) meet(o *guess) error {
	both := slices.DeleteFunc(slices.Clone(g.of), func(t *tree) bool { return !slices.Contains(o.of, t) })
	if len(both) == 0 {
		return fmt.Errorf("two that have to be the same are not:\n%s", kit.Diff(g.of[0].list, o.of[0].list))
	}
	g.of, o.of = both, both
	return nil
}

// read holds what was read against what it has to be.
func (g *guess) read(list []kit.Entry) error {
	text := kit.Text(list)
	for _, t := range g.of {
		if t.text == text {
			g.of = []*tree{t}
			return nil
		}
	}
	return fmt.Errorf("it is none of the %d states that it may be; against the first:\n%s", len(g.of), kit.Diff(g.of[0].list, list))
}

// paths of a folder: all files and links, and all directories, the root among them.
func paths(root string) (files, dirs []string, err error) {
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		if d.IsDir() {
			dirs = append(dirs, rel)
		} else {
			files = append(files, rel)
		}
		return nil
	})
	return files, dirs, err
}

// mirrorRoot gives the folder to what the folder from has at its root: a new volume's own.
func mirrorRoot(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, 0)
}
