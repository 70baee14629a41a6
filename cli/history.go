package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// snapshotHelp says how a snapshot is named, for all commands that take one.
const snapshotHelp = `SNAPSHOT is a generation, a hash, a CID or an id as ` + "`fractal-lazy snapshots`" + ` lists them, or the beginning of one of these (4 characters or more, 8 where they are digits alone) where
no other begins so; or a time (2026-01-31T12:00:00Z, '2026-01-31 12:00' in UTC, or Unix seconds), which means the newest made at or before.`

func (a *app) snapshotsCommand() *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "snapshots [VOLUME]",
		Short: "List the snapshots of a volume, or of all, here and in the network",
		Long: `Lists the snapshots of a volume, ascending by time. WHERE is network (its manifest is at the Hive, its blocks in the block store), here (a local
snapshot only: lost with this machine) or both. NOTE says why a local snapshot is kept: pending waits for its upload, base was published last, old was
replaced by what another machine published, divergent holds changes that were never published.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.allSnapshots(c.Context(), local)
			}
			all, err := a.client().Snapshots(c.Context(), args[0], local)
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { listSnapshots(w, all) })
		},
	}
	c.Flags().BoolVar(&local, "local", false, "only those that are here; the Hive is not asked")
	return c
}

// volumeSnapshots is a volume with its snapshots, of a list of all.
type volumeSnapshots struct {
	Volume    string                `json:"volume"`
	Snapshots []volume.SnapshotInfo `json:"snapshots"`
}

// allSnapshots lists the snapshots of all volumes. Views have none of their own.
func (a *app) allSnapshots(ctx context.Context, local bool) error {
	vols, err := a.client().List(ctx)
	if err != nil {
		return err
	}
	lists := []volumeSnapshots{}
	for _, v := range vols {
		if v.State == volume.StateSnapshot {
			continue
		}
		all, err := a.client().Snapshots(ctx, v.Name, local)
		if err != nil {
			return err
		}
		lists = append(lists, volumeSnapshots{v.Name, all})
	}
	return a.print(lists, func(w io.Writer) {
		for i, l := range lists {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s:\n", l.Volume)
			listSnapshots(w, l.Snapshots)
		}
	})
}

func listSnapshots(w io.Writer, all []volume.SnapshotInfo) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tGENERATION\tADDED\tTOTAL\tWHERE\tNOTE\tID\tHASH")
	for _, s := range all {
		generation, added, total := "-", "-", "-"
		if s.Remote {
			generation, added, total = fmt.Sprint(s.Generation), humanize.IBytes(s.Size), humanize.IBytes(s.SizeTotal)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Created.UTC().Format(time.RFC3339),
			generation, added, total, s.Where, dash(s.Note), short(s.ID, 8), short(s.Hash, 16))
	}
	t.Flush()
}

// short is the beginning of a name, enough to be given back.
func short(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return dash(s)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// told names a snapshot in a sentence.
func told(s volume.SnapshotInfo) string {
	at := s.Created.UTC().Format(time.RFC3339)
	switch {
	case s.Note == volume.NotePresent:
		return "what is there now"
	case s.Remote:
		return fmt.Sprintf("generation %d of %s", s.Generation, at)
	case s.ID != "":
		return fmt.Sprintf("snapshot %s of %s", s.ID, at)
	}
	return "nothing"
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore VOLUME SNAPSHOT|TIME [NEW] | restore VOLUME[@SNAPSHOT] [NEW]",
		Short: "Bring a volume back to an earlier state, at once",
		Long: `Makes a volume that is not mounted hold what one of its snapshots holds. The present state is kept in a snapshot first, whose name is printed: restore
that to undo it. Nothing is copied: what is not on this machine is fetched when it is read, and in the background. The next published generation is a
new one with the old content, and costs next to nothing. With NEW the volume stays as it is, and may be in use: a new volume is made, as by clone.
VOLUME@SNAPSHOT is accepted as Buttervolume writes it, and VOLUME alone means its newest snapshot.

` + snapshotHelp,
		Example: `  fractal-lazy restore db 12
  fractal-lazy restore db '2026-01-31 12:00'
  fractal-lazy restore db 12 db-before`,
		Args:              cobra.RangeArgs(1, 3),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			args, err := a.restoreArgs(c, args)
			if err != nil {
				return err
			}
			if len(args) == 3 {
				return a.cloneVolume(c.Context(), args[0], args[1], args[2])
			}
			r, err := a.client().Restore(c.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { tellRestore(w, r) })
		},
	}
}

// restoreArgs takes VOLUME SNAPSHOT [NEW], and what Buttervolume takes: VOLUME@SNAPSHOT [NEW], or VOLUME for its newest snapshot.
func (a *app) restoreArgs(c *cobra.Command, args []string) ([]string, error) {
	name, text, ok := butterName(args[0])
	switch {
	case ok && len(args) > 2:
		return nil, usage(c, errors.New("a snapshot is named once: VOLUME SNAPSHOT [NEW], or VOLUME@SNAPSHOT [NEW]"))
	case ok:
		text, err := a.butterSnapshot(c.Context(), name, text)
		return append([]string{name, text}, args[1:]...), err
	case len(args) == 1:
		text, err := a.newestSnapshot(c.Context(), name)
		return []string{name, text}, err
	}
	return args, nil
}

func tellRestore(w io.Writer, r volume.RestoreResult) {
	fmt.Fprintf(w, "%s holds %s\n", r.Volume, told(r.From))
	if r.Kept.Created.IsZero() {
		return
	}
	name := r.Kept.ID
	if name == "" {
		name = fmt.Sprint(r.Kept.Generation)
	}
	fmt.Fprintf(w, "what it held before is kept: fractal-lazy restore %s %s\n", r.Volume, name)
	if r.Remote > 0 {
		fmt.Fprintf(w, "%s of it is not here yet and comes when it is read\n", humanize.IBytes(r.Remote))
	}
}

func (a *app) cloneCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clone VOLUME NEW",
		Short: "Make a new volume of what a volume holds now",
		Long: `Makes a new volume that holds what the volume holds now; that may be in use. It takes no time and no space: both share what is on the disk until one of them
changes it. The new volume has a key and a history of its own, and the options of the other one.

Its snapshots are sealed under its own key. So a clone of a volume that is not all here works at once, but it is published only when all of it has been fetched, which
happens while it is mounted; until then the other volume cannot be removed.`,
		Example:           `  fractal-lazy clone db db-test`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.cloneVolume(c.Context(), args[0], "", args[1])
		},
	}
}

func (a *app) cloneVolume(ctx context.Context, name, snapshot, as string) error {
	r, err := a.client().Clone(ctx, name, snapshot, as)
	if err != nil {
		return err
	}
	return a.print(r, func(w io.Writer) {
		if r.From.Remote {
			fmt.Fprintf(w, "%s holds %s of %s\n", as, told(r.From), name)
		} else {
			fmt.Fprintf(w, "%s holds what %s held at %s\n", as, name, r.From.Created.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(w, r.Note)
	})
}
