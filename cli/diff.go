package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"fractal-lazy/snapshot"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff VOLUME SNAPSHOT [SNAPSHOT|now]",
		Short: "Show what changed between two snapshots",
		Long: `Shows what changed from one snapshot to another, or to the newest: a line for each name, with how much of its data differs at most. It is found from the trees
alone: no content is fetched, and what both have is not looked at. A directory that came or went stands for all that is in it; a name that was changed is one that went and one that came.

"now" is what the volume holds at the moment. That, and a snapshot that is on this machine alone, may be compared like any other, also in a volume that is never uploaded: the kernel says
what changed. Where both are on this machine, nobody else is asked.

  +  added        M  other content         A  other owner, mode, times, attributes or links
  -  removed      T  of another type       =  the same, as far as can be told: a small file that is packed beside others now

` + snapshotHelp,
		Example: `  fractal-lazy diff db 11 12
  fractal-lazy diff db '2026-01-31 12:00'
  fractal-lazy diff db 12 now`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			to := ""
			if len(args) == 3 {
				to = args[2]
			}
			d := &diffPrinter{w: a.Out, json: a.json}
			res, err := a.client().Diff(c.Context(), args[0], args[1], to, d.change)
			if err != nil {
				if d.begun {
					fmt.Fprintln(a.Out) // the document stays open: it is no answer
				}
				return err
			}
			return d.end(res)
		},
	}
}

// diffPrinter prints changes as they come: there may be millions.
type diffPrinter struct {
	w     io.Writer
	json  bool
	begun bool
}

var changeSigns = map[snapshot.ChangeKind]string{snapshot.Added: "+", snapshot.Removed: "-", snapshot.Changed: "M", snapshot.Attributes: "A",
	snapshot.Retyped: "T", snapshot.Repacked: "="}

func (d *diffPrinter) change(c volume.Change) error {
	if d.json {
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		sep := ",\n"
		if !d.begun {
			sep = "{\"changes\": [\n"
		}
		d.begun = true
		_, err = fmt.Fprintf(d.w, "%s  %s", sep, b)
		return err
	}
	size := humanize.IBytes(c.Bytes)
	path := fmt.Sprintf("%q", c.Path) // names may hold anything
	if c.Type == "dir" && (c.Kind == snapshot.Added || c.Kind == snapshot.Removed) {
		size += fmt.Sprintf(", %d files", c.Files)
	}
	_, err := fmt.Fprintf(d.w, "%s %-6s %s  %s\n", changeSigns[c.Kind], c.Type, path, size)
	return err
}

func (d *diffPrinter) end(res volume.DiffResult) error {
	if !d.json {
		_, err := fmt.Fprintf(d.w, "%d changes from %s to %s, at most %s of data\n", res.Changes, told(res.From), told(res.To), humanize.IBytes(res.Bytes))
		return err
	}
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	head := "\n],\n"
	if !d.begun {
		head = "{\"changes\": [],\n"
	}
	_, err = fmt.Fprintf(d.w, "%s\"result\": %s}\n", head, b)
	return err
}
