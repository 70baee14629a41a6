package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/spf13/cobra"
)

func (a *app) importButtervolumeCommand() *cobra.Command {
	var r control.ImportButtervolumeRequest
	c := &cobra.Command{
		Use:   "import-buttervolume [VOLUME[=NEW]...]",
		Short: "Take over volumes, snapshots and schedules of Buttervolume",
		Long: `Takes over the volumes of Buttervolume, all or those that are named, with their snapshots and scheduled jobs, where they are: by BTRFS snapshots, without
copying and without more space. What Buttervolume has stays as it is until you remove it. Each volume gets a key of its own; its snapshots are published as generations in the
order of their times, and the present state after them. NEW is another name for a volume here. Stop the containers that use the volumes first.

The command can be run again at any time: a volume that was taken over is not taken over twice. The paths are those that the driver sees, and have to be on the
BTRFS file system of its pool. docs/BUTTERVOLUME.md has a walk-through, and maps each command of Buttervolume to ours.`,
		Example: `  fractal-lazy import-buttervolume --dry-run
  fractal-lazy import-buttervolume
  fractal-lazy import-buttervolume --timezone Europe/Paris db _old=old`,
		RunE: func(c *cobra.Command, args []string) error {
			r.Volumes = args
			res, err := a.client().ImportButtervolume(c.Context(), r)
			if err != nil {
				return err
			}
			var failed error
			if res.Failed > 0 {
				failed = fmt.Errorf("%d of %d volumes could not be taken over", res.Failed, len(res.Volumes))
				if a.json {
					return failed // one document only, and that is the error
				}
			}
			return errors.Join(a.print(res, func(w io.Writer) { listButter(w, res) }), failed)
		},
	}
	c.Flags().StringVar(&r.From, "from", volume.ButterFrom, "folder with Buttervolume's volumes/ and snapshots/")
	c.Flags().StringVar(&r.Schedule, "schedule", "", "its schedule.csv (default: looked for in FROM/config, FROM and /etc/buttervolume)")
	c.Flags().StringVar(&r.Zone, "timezone", "UTC", "time zone of the times in its snapshots' names")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "look, and change nothing")
	return c
}

func listButter(w io.Writer, res volume.ButterResult) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "BUTTERVOLUME\tHERE\tSNAPSHOTS\tSTATUS")
	for _, v := range res.Volumes {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", v.Name, dash(v.As), v.Snapshots, v.Status)
	}
	for _, j := range res.Jobs {
		status := j.Status
		if j.Paused {
			status += ", paused"
		}
		fmt.Fprintf(t, "%s %s %s\t%s\t\t%s\n", j.Action, j.Timer, j.Volume, dash(j.As), status)
	}
	t.Flush()
	for _, v := range res.Volumes {
		for _, n := range v.Notes {
			fmt.Fprintf(w, "%s: %s\n", v.Name, n)
		}
	}
	for _, j := range res.Jobs {
		if j.Note != "" {
			fmt.Fprintf(w, "%s %s: %s\n", j.Action, j.Volume, j.Note)
		}
	}
	if !res.DryRun && res.Failed == 0 && len(res.Volumes) > 0 {
		fmt.Fprintf(w, "The originals under %s are untouched. When `fractal-lazy status` shows that all is published, and you have looked at it, `btrfs subvolume delete` removes them.\n", res.From)
	}
}

// butterName tells whether text is a snapshot as Buttervolume names it, VOLUME@TIME, and cuts it. No volume has an @ in its name.
func butterName(text string) (name, snapshot string, ok bool) { return strings.Cut(text, "@") }

// butterTime is the form of the times in Buttervolume's names of snapshots; a fraction of a second may follow.
const butterTime = "2006-01-02T15:04:05"

// butterSnapshot gives the snapshot that VOLUME@TEXT means. A time as Buttervolume has it means the one that was made in that second, in UTC, and none
// before; anything else is left to the daemon.
func (a *app) butterSnapshot(ctx context.Context, name, text string) (string, error) {
	at, err := time.Parse(butterTime, text)
	if err != nil {
		return text, nil
	}
	all, err := a.client().Snapshots(ctx, name, false)
	if err != nil {
		return "", err
	}
	return pickSecond(all, name, text, at)
}

// pickSecond finds the only snapshot of that second. A manifest has whole seconds, a local snapshot its fraction.
func pickSecond(all []volume.SnapshotInfo, name, text string, at time.Time) (string, error) {
	var found []volume.SnapshotInfo
	for _, s := range all {
		switch {
		case s.Created.Equal(at):
			return snapshotID(s), nil
		case s.Created.Unix() == at.Unix():
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: %s@%s; `fractal-lazy snapshots %s` lists them", volume.ErrNoSnapshot, name, text, name)
	case 1:
		return snapshotID(found[0]), nil
	}
	return "", fmt.Errorf("%w: %d snapshots of %s are of that second; `fractal-lazy snapshots %s` lists them with their names", volume.ErrNoSnapshot, len(found), name, name)
}

// snapshotID is a name that no other snapshot of the volume has.
func snapshotID(s volume.SnapshotInfo) string {
	if s.Hash != "" {
		return s.Hash
	}
	return s.ID
}

// newestSnapshot is what `restore VOLUME` means to Buttervolume.
func (a *app) newestSnapshot(ctx context.Context, name string) (string, error) {
	all, err := a.client().Snapshots(ctx, name, false)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("%w: volume %s has none yet", volume.ErrNoSnapshot, name)
	}
	return snapshotID(all[len(all)-1]), nil
}

var patternForm = regexp.MustCompile(`^[0-9]+[mhdwy](:[0-9]+[mhdwy])*$`)

// purgeArgs takes VOLUME PATTERN, and Buttervolume's PATTERN VOLUME where only that can be meant.
func purgeArgs(args []string) (name, pattern string) {
	if patternForm.MatchString(args[0]) && !patternForm.MatchString(args[1]) {
		return args[1], args[0]
	}
	return args[0], args[1]
}
