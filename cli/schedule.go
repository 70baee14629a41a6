package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/schedule"

	"github.com/spf13/cobra"
)

func (a *app) scheduleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schedule ACTION TIMER VOLUME",
		Short: "Have something done to a volume again and again",
		Long: `Schedules an action on a volume. The timer is a number of minutes, or a cron expression of five fields in the daemon's time zone; in place of
a timer, pause and resume hold the job and let it go on, delete (or 0) takes it away. A run that was missed while the machine was off is made up
once; one that fails is tried again, after a minute first.

Actions:
  snapshot              take a snapshot where something changed, and publish it
  purge:PATTERN         remove the snapshots that a retention pattern does not keep, as purge does
  replicate:REMOTE      publish what was written, and bring it to a second place, as send does
  synchronize[:BUDGET]  keep a volume that another machine uses warm here, as sync does
  verify[:SHARE]        read the newest published snapshot back: a share of its content (5%), or all`,
		Example: `  fractal-lazy schedule snapshot 60 db
  fractal-lazy schedule snapshot "30 3 * * *" photos
  fractal-lazy schedule purge:4h:1d:2w:2y @daily db
  fractal-lazy schedule snapshot pause db`,
		Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.client().SetJob(c.Context(), control.JobRequest{Action: args[0], Timer: args[1], Volume: args[2]})
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { listJobs(w, s) })
		},
	}
}

func (a *app) scheduledCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "scheduled [list|pause|resume]",
		Short: "List scheduled jobs, or pause and resume all of them",
		Long: `Lists the scheduled jobs with the arguments that made them, when they ran last and when they run next. pause holds all of them; resume lets
those go on that are not paused themselves.`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"list", "pause", "resume"},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var s control.Schedule
		var err error
		switch {
		case len(args) == 0 || args[0] == "list":
			s, err = a.client().Schedule(c.Context(), "")
		default:
			s, err = a.client().PauseJobs(c.Context(), args[0] == "pause")
		}
		if err != nil {
			return err
		}
		return a.print(s, func(w io.Writer) { listJobs(w, s) })
	}
	return c
}

// listJobs writes what is scheduled, in the order of the arguments that made it.
func listJobs(w io.Writer, s control.Schedule) {
	if s.Paused {
		fmt.Fprintln(w, "All jobs are paused; `fractal-lazy scheduled resume` lets them go on.")
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ACTION\tTIMER\tVOLUME\tLAST\tNEXT\tSTATE")
	for _, j := range s.Jobs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", j.Action, j.Timer, j.Volume, when(j.Ran), when(j.Next.At), stateOf(&j))
	}
	t.Flush()
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func stateOf(j *schedule.Listed) string {
	switch {
	case j.Running:
		return "running"
	case j.Paused:
		return "paused"
	case j.Failed > 0:
		return fmt.Sprintf("failed %s: %s", times(j.Failed), j.Error)
	}
	return "ok"
}

// times says how often something happened.
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
