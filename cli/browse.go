package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) browseCommand() *cobra.Command {
	var end bool
	c := &cobra.Command{
		Use:   "browse VOLUME SNAPSHOT [DIR]",
		Short: "Mount a snapshot read-only, to look into it",
		Long: `Mounts a snapshot read-only and prints where, as the last line; with DIR it is shown there as well. It is there at once: of what is not on this machine, what is read is fetched.
The volume may be in use. With --end it is taken away again; give the same arguments. It is a volume by itself, which ` + "`fractal-lazy volume ls`" + ` lists and which containers can use, too.

` + snapshotHelp,
		Example: `  fractal-lazy browse db 12
  fractal-lazy browse db '2026-01-31 12:00' /mnt/db-january
  fractal-lazy browse --end db '2026-01-31 12:00' /mnt/db-january`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			dir := ""
			if len(args) == 3 {
				var err error
				if dir, err = filepath.Abs(args[2]); err != nil {
					return err
				}
			}
			if end {
				return a.endBrowse(c, args[0], args[1], dir)
			}
			p := a.progress()
			r, err := a.client().Browse(c.Context(), args[0], args[1], false, p.show)
			p.end()
			if err != nil {
				return err
			}
			if dir != "" {
				if err := showAt(r.Mountpoint, dir); err != nil {
					return errors.Join(err, a.endBrowse(c, args[0], args[1], ""))
				}
				r.Mountpoint = dir
			}
			return a.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%s, %s, as volume %s:\n%s\n", args[0], told(r.Snapshot), r.Volume, r.Mountpoint)
			})
		},
	}
	c.Flags().BoolVar(&end, "end", false, "take it away again")
	return c
}

func (a *app) endBrowse(c *cobra.Command, name, snapshot, dir string) error {
	if dir != "" {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	_, err := a.client().Browse(c.Context(), name, snapshot, true, nil)
	return err
}

// showAt binds a mount point to another folder, in the name space of who calls.
func showAt(path, dir string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s cannot be seen here: does the driver run in a container? Leave DIR out: %w", path, err)
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return fmt.Errorf("%s is not a folder: make it first", dir)
	}
	if err := unix.Mount(path, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show the snapshot at %s: %w", dir, err)
	}
	return nil
}
