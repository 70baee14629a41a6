// Package schedule runs jobs of volumes when they are due: every so many minutes, or at the times of a cron expression.
//
// # Terms
//
// A job is an action on a volume, such as `snapshot` or `purge:4h:1d:2w:2y`, and a timer. What actions there are, and what they
// do, the caller says (Action); this package only knows when. A volume has a job once: the same action, argument included, set
// again gets the new timer.
//
// # What is guaranteed
//
//   - A run that was missed, because the machine was off, is made up once, however many were missed.
//   - What is set survives restarts, and so does when each job last ran. A crash in the middle of a run has it run again.
//   - A job that fails is tried again, after a minute and then after twice as long each time, at most its own period.
//   - Jobs with cron times run up to five minutes late, each job always by the same time: machines with the same
//     crontab do not all come to the Hive in the same second.
//   - No job runs twice at the same time. Of each action two run side by side, so that what waits for the network holds up nothing else.
//
// Decide is a pure function of the table and the time; Runner keeps the table and acts.
//
// # Crash
//
// The table is one file of the caller's, replaced as a whole: it is old or new. Each change of it is durable when the method returns.
//
//	r, err := schedule.New(b, save, map[string]schedule.Action{"snapshot": {Do: take}}, schedule.Options{})
//	err = r.Set("db", "snapshot", "60")
//	go r.Run(ctx)
package schedule
