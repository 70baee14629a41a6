package cli

import (
	"fmt"
	"io"

	"fractal-lazy/plugin/control"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) syncCommand() *cobra.Command {
	var budget string
	c := &cobra.Command{
		Use:   "sync VOLUME [HOST...]",
		Short: "Bring the newest generation of a volume that another machine uses, so that a failover starts warm",
		Long: `Brings what was published of a volume since, onto this machine, where it is not in use: all names and attributes, and content as far as the budget goes. What
the older state here has in common with it is not fetched. The writer stays who it is, and nothing is published. A mount ends it at once and goes on with what is
here.

The budget is all, metadata, or so much content as shall be on this machine, such as 10GiB; without one the volume's option prefetch says. HOST is accepted as
Buttervolume's command has it, and not asked: every generation comes from the block store, whoever wrote it.`,
		Example: `  fractal-lazy sync db
  fractal-lazy sync --budget 10GiB db
  fractal-lazy schedule synchronize:all 5 db`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				fmt.Fprintf(a.Err, "note: no host is asked; what was published comes from the block store\n")
			}
			p := a.progress()
			s, err := a.client().Synchronize(c.Context(), args[0], control.SynchronizeRequest{Budget: budget}, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) {
				from := ""
				if s.Before != 0 && s.Before != s.Generation {
					from = fmt.Sprintf(", it was %d", s.Before)
				}
				fmt.Fprintf(w, "%s is at generation %d%s: %s of %s are here; %s fetched, %s taken from what was here\n", s.Volume, s.Generation, from,
					humanize.IBytes(s.BytesWarm), humanize.IBytes(s.BytesTotal), humanize.IBytes(s.Fetched), humanize.IBytes(s.Taken))
			})
		},
	}
	c.Flags().StringVar(&budget, "budget", "", "all, metadata, or so much content as shall be here")
	return c
}
