package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the daemon, what it needs and lacks, its settings and its volumes",
		Long:  "Shows the daemon at a glance. It ends with 0 as long as a daemon answers; with --check it ends with 6 where something is missing.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			st, err := a.client().Status(c.Context())
			if err != nil {
				return err
			}
			if err := a.print(st, func(w io.Writer) { tellStatus(w, st) }); err != nil {
				return err
			}
			if check && !st.Health.OK {
				a.json = false // its document is printed already
				return fmt.Errorf("%w: see above", volume.ErrNotReady)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "fail where something is missing")
	return c
}

func tellStatus(w io.Writer, st control.Status) {
	fmt.Fprintf(w, "fractal-lazy %s, process %d, up %s\n\n", st.Version.Version, st.PID, time.Since(st.Started).Round(time.Second))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, h := range st.Health.Checks {
		mark := "ok"
		if !h.OK {
			mark = "MISSING"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", h.Name, mark, h.Detail)
	}
	fmt.Fprintln(t)
	for _, s := range st.Settings {
		if s.Value != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, s.Value, s.Source)
		}
	}
	t.Flush()
	if len(st.Volumes) > 0 {
		fmt.Fprintln(w)
		listVolumes(w, st.Volumes)
	}
}
