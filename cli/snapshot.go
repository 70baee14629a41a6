package cli

import (
	"errors"
	"fmt"
	"io"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) snapshotCommand() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use:               "snapshot VOLUME",
		Short:             "Take a snapshot now",
		Long:              "Takes a snapshot, which is uploaded in the background. With --wait the command ends when it is published.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			p := a.progress()
			s, err := a.client().Snapshot(c.Context(), args[0], wait, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { tellSnapshot(w, s) })
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "until it is published")
	return c
}

func (a *app) flushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "flush VOLUME",
		Short: "Publish everything that was written until now",
		Long: `Takes a snapshot, uploads it, and waits until the Hive has accepted it. When the command ends with 0, another machine that mounts the volume has
everything that was written before. Where the upload fails again and again it ends with 6 and says why: the snapshot is kept, and its upload goes on in the background.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			p := a.progress()
			s, err := a.client().Flush(c.Context(), args[0], p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { tellSnapshot(w, s) })
		},
	}
}

func tellSnapshot(w io.Writer, s volume.SnapshotInfo) {
	switch {
	case s.Unchanged:
		fmt.Fprintf(w, "nothing changed since generation %d\n", s.Generation)
	case s.Remote:
		fmt.Fprintf(w, "generation %d published, %s new\n", s.Generation, humanize.IBytes(s.Size))
	case s.Local != "":
		fmt.Fprintf(w, "snapshot %s taken, not published yet\n", s.Local)
	default:
		fmt.Fprintln(w, "nothing to take a snapshot of")
	}
}

func (a *app) hydrateCommand() *cobra.Command {
	var wait, pause, resume bool
	var rate string
	c := &cobra.Command{
		Use:   "hydrate VOLUME",
		Short: "Fetch everything of a mounted volume, or pause, resume or slow that down",
		Long: `Fetches everything of a mounted volume that is not here yet, whatever its option prefetch says. With --wait the command ends with 0 only when all is
here; then the volume needs no network. --pause and --rate concern the background; what an application reads is fetched all the same. They hold until
the volume is unmounted.`,
		Example: `  fractal-lazy hydrate --wait db
  fractal-lazy hydrate --rate 10MiB db`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			r := control.HydrateRequest{Wait: wait}
			if pause && resume {
				return usage(c, errors.New("--pause and --resume cannot go together"))
			}
			if pause && wait {
				return usage(c, errors.New("--pause and --wait cannot go together: it would never be done"))
			}
			if pause || resume {
				r.Pause = &pause
			}
			if c.Flags().Changed("rate") {
				n, err := humanize.ParseBytes(rate)
				if err != nil {
					return usage(c, fmt.Errorf("--rate %q is not a size, such as 10MiB", rate))
				}
				r.Rate = &n
			}
			p := a.progress()
			v, err := a.client().Hydrate(c.Context(), args[0], r, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { tellHydration(w, v) })
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "until everything is here")
	c.Flags().BoolVar(&pause, "pause", false, "stop fetching in the background")
	c.Flags().BoolVar(&resume, "resume", false, "go on after --pause")
	c.Flags().StringVar(&rate, "rate", "", "most bytes a second for the background; 0: without limit")
	return c
}

func tellHydration(w io.Writer, v volume.Info) {
	switch {
	case v.BytesRemote == 0 && v.FilesRemote == 0 && v.State != volume.StateHydrating:
		fmt.Fprintf(w, "%s is complete: %s in %d files\n", v.Name, humanize.IBytes(v.BytesTotal), v.FilesTotal)
	case v.Paused:
		fmt.Fprintf(w, "%s is paused: %s of %s is remote\n", v.Name, humanize.IBytes(v.BytesRemote), humanize.IBytes(v.BytesTotal))
	default:
		fmt.Fprintf(w, "%s is being fetched: %s of %s is remote\n", v.Name, humanize.IBytes(v.BytesRemote), humanize.IBytes(v.BytesTotal))
	}
}
