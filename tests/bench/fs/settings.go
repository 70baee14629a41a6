package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"fractal-lazy/fusefs"
)

// setting is one thing that makes the mount faster, which can be switched off.
type setting struct {
	name string
	what string
	off  func(*fusefs.Options)
	data bool // data rows depend on it; else metadata rows do
}

var settings = []setting{
	{"entry", "the kernel keeps names, 24 h", func(o *fusefs.Options) { o.Timeouts.Entry = -1 }, false},
	{"negative", "the kernel keeps that a name does not exist, 24 h", func(o *fusefs.Options) { o.Timeouts.Negative = -1 }, false},
	{"attr", "the kernel keeps attributes, 24 h", func(o *fusefs.Options) { o.Timeouts.Attr = -1 }, false},
	{"symlink", "the kernel keeps what symbolic links say", func(o *fusefs.Options) { o.Without.SymlinkCache = true }, false},
	{"listing", "the kernel keeps listings", func(o *fusefs.Options) { o.Without.ListingCache = true }, false},
	{"no-opendir", "directories are not opened at this process", func(o *fusefs.Options) { o.Without.NoOpenDir = true }, false},
	{"readdirplus", "listings bring attributes", func(o *fusefs.Options) { o.Without.ReadDirPlus = true }, false},
	{"readdirplus-auto", "... but only where they are used (off: always)", func(o *fusefs.Options) { o.Without.ReadDirPlusAuto = true }, false},
	{"open-directories", "this process keeps directories open", func(o *fusefs.Options) { o.Without.OpenDirectories = true }, false},
	{"killpriv", "the kernel does not ask for capabilities at each write", func(o *fusefs.Options) { o.Without.KillPriv = true }, true},
	{"passthrough", "the kernel reads and writes the backing file itself", func(o *fusefs.Options) { o.NoPassthrough = true }, true},
}

func settingNamed(name string) (setting, bool) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == name })
	if i < 0 {
		return setting{}, false
	}
	return settings[i], true
}

// bySetting measures a mount with all settings beside mounts with each of them off, and prints how much slower those are.
func (b *bench) bySetting(ctx context.Context, only string) error {
	all, err := b.newPlace("all on", "ours", "")
	if err != nil {
		return err
	}
	var groups [2][]*place
	for _, s := range settings {
		p, err := b.newPlace(s.name, "ours", s.name)
		if err != nil {
			return err
		}
		g := 0
		if s.data {
			g = 1
		}
		groups[g] = append(groups[g], p)
	}
	fmt.Printf("%d rounds, interleaved; medians. 0.50: without the setting the row is half as fast as with all of them.\n\n", b.rounds)
	wanted := strings.Split(only, ",")
	for g, kinds := range [][]string{{"meta"}, {"sqlite", "fio"}} {
		b.rows = nil
		for _, what := range kinds {
			if !slices.Contains(wanted, what) {
				continue
			}
			if err := b.rowsOf(ctx, what, append([]*place{all}, groups[g]...)); err != nil {
				return err
			}
		}
		if len(b.rows) > 0 {
			fmt.Println()
			b.printSettings(all, groups[g])
		}
	}
	return nil
}

// printSettings has a line for each setting and a column for each row of work.
func (b *bench) printSettings(all *place, places []*place) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "off")
	for _, r := range b.rows {
		fmt.Fprintf(t, "\t%s", r.name)
	}
	fmt.Fprintln(t, "\twhat it is")
	for _, p := range places {
		fmt.Fprint(t, p.name)
		for _, r := range b.rows {
			fmt.Fprintf(t, "\t%s", cell(r.ratio(p.name, all.name)))
		}
		s, _ := settingNamed(p.name)
		fmt.Fprintf(t, "\t%s\n", s.what)
	}
	t.Flush()
}
