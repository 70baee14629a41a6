package cli

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/spf13/cobra"
)

func (a *app) purgeCommand() *cobra.Command {
	var r control.PurgeRequest
	c := &cobra.Command{
		Use:   "purge VOLUME PATTERN",
		Short: "Remove the snapshots that a retention pattern does not keep",
		Long: `Removes the snapshots of a volume that a retention pattern does not keep, on this machine and in the network. --dry-run tells what it would do with each, and why.

PATTERN is a list of times, each longer than the one before, with the units m, h, d, w and y. 4h:1d:2w:2y keeps all snapshots of the last four hours, then one of
each four hours during the first day, then one of each day during two weeks, then one of each two weeks during two years, and none that is older. 2h keeps the last two hours.

Kept in any case: the newest published snapshot, what waits for its upload, what the next upload is compared with, what a volume, view or clone on this machine still takes content
from, and what was never published.`,
		Example: `  fractal-lazy purge --dry-run db 4h:1d:2w:2y
  fractal-lazy purge db 1d:4w:1y`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			var name string
			name, r.Pattern = purgeArgs(args)
			res, err := a.client().Purge(c.Context(), name, r)
			if err != nil {
				return err
			}
			var failed error
			if res.Failed > 0 {
				failed = fmt.Errorf("%d of %d snapshots of %s could not be removed", res.Failed, res.Failed+res.Removed, res.Volume)
				if a.json {
					return failed // one document only, and that is the error
				}
			}
			return errors.Join(a.print(res, func(w io.Writer) { listPurge(w, res) }), failed)
		},
	}
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "decide, and remove nothing")
	c.Flags().BoolVar(&r.DryRun, "dryrun", false, "the same, as Buttervolume has it")
	_ = c.Flags().MarkHidden("dryrun") // it is there
	c.Flags().BoolVar(&r.Local, "local", false, "only snapshots on this machine")
	c.Flags().BoolVar(&r.Remote, "remote", false, "only snapshots in the network")
	return c
}

func listPurge(w io.Writer, res volume.PurgeResult) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tGENERATION\tID\tWHERE\tDECISION\tREASON")
	for _, d := range res.Decisions {
		generation, what := "-", "keep"
		if d.Snapshot.Remote {
			generation = fmt.Sprint(d.Snapshot.Generation)
		}
		switch {
		case d.Error != "":
			what = "FAILED"
			d.Reason = d.Error
		case d.Remove && res.DryRun:
			what = "would remove"
		case d.Remove:
			what = "removed"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Snapshot.Created.UTC().Format(time.RFC3339), generation, short(d.Snapshot.ID, 8), d.Where, what, d.Reason)
	}
	t.Flush()
}

func (a *app) removeSnapshotCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rm VOLUME SNAPSHOT | rm VOLUME@SNAPSHOT",
		Short: "Remove one snapshot, here and in the network",
		Long: `Removes one snapshot, on this machine and in the network. What a volume needs stays, as with purge.

` + snapshotHelp + `
To rm a time is the second in which the snapshot was made: what is to be removed has to be named.`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				name, text, ok := butterName(args[0])
				if !ok {
					return usage(c, errors.New("name the snapshot, too: VOLUME SNAPSHOT, or VOLUME@SNAPSHOT"))
				}
				text, err := a.butterSnapshot(c.Context(), name, text)
				if err != nil {
					return err
				}
				args = []string{name, text}
			}
			i, err := a.client().RemoveSnapshot(c.Context(), args[0], args[1], force)
			if err != nil {
				return err
			}
			return a.print(i, func(w io.Writer) { fmt.Fprintln(w, "removed", told(i)) })
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also changes that were never published")
	return c
}
