package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) verifyCommand() *cobra.Command {
	var sample string
	var all bool
	c := &cobra.Command{
		Use:   "verify VOLUME [SNAPSHOT]",
		Short: "Read a published snapshot back from the block store",
		Long: `Reads a snapshot of the volume back from the block store, as a machine would that has nothing but the key: the whole structure, and of the files' content a
random sample, or with --all every block. Each block has to match its CID, to open with the volume's key, and to be what its place asks for. SNAPSHOT is a
generation, a hash or a time; without it the newest published one is read. Nothing is taken from this machine, and nothing is changed.

What is missing or spoilt is listed by the names that it belongs to, and the command ends with 9. Where the store cannot be asked it ends with 6: that is no
damage.`,
		Example: `  fractal-lazy verify db
  fractal-lazy verify db --sample 20%
  fractal-lazy verify db 2026-01-31T12:00:00Z --all`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			r := control.VerifyRequest{Sample: 1}
			if len(args) == 2 {
				r.Snapshot = args[1]
			}
			if all && c.Flags().Changed("sample") {
				return usage(c, errors.New("--all and --sample cannot go together"))
			}
			if !all {
				var err error
				if r.Sample, err = volume.ParseShare(sample); err != nil {
					return usage(c, fmt.Errorf("--sample %w", err))
				}
			}
			p := a.progress()
			v, err := a.client().Verify(c.Context(), args[0], r, p.show)
			p.end()
			if err != nil {
				return err
			}
			if err := a.print(v, func(w io.Writer) { tellVerification(w, v) }); err != nil || v.OK {
				return err
			}
			a.json = false // its document is printed already
			return fmt.Errorf("volume %s: %w: see above", args[0], errDamaged)
		},
	}
	c.Flags().StringVar(&sample, "sample", volume.DefaultShare, "share of the content to read, in per cent")
	c.Flags().BoolVar(&all, "all", false, "read every block")
	return c
}

func tellVerification(w io.Writer, v volume.Verification) {
	took := time.Duration(v.Seconds * float64(time.Second)).Round(time.Millisecond)
	fmt.Fprintf(w, "generation %d: read %d nodes and %d blocks, %s, in %v: %d files, %d directories; ", v.Snapshot.Generation, v.Nodes, v.Blocks,
		humanize.IBytes(v.Bytes), took, v.Files, v.Dirs)
	if v.Sample < 1 {
		fmt.Fprintf(w, "a sample of %g%% of their content\n", v.Sample*100)
	} else {
		fmt.Fprintln(w, "all of their content")
	}
	if !v.Pinned {
		fmt.Fprintln(w, "NOT PINNED: the block store may collect it; the next snapshot that is published pins what it shares with this one")
	}
	for _, d := range v.Damage {
		what := "file"
		if d.Dir {
			what = "directory"
		}
		fmt.Fprintf(w, "%s\t%s %q: %d blocks; %s\n", strings.ToUpper(d.Kind), what, d.Path, d.Blocks, d.Error)
	}
	if v.More > 0 {
		fmt.Fprintf(w, "and %d more\n", v.More)
	}
	if v.OK {
		fmt.Fprintln(w, "ok: nothing is missing, nothing is spoilt")
	}
}
