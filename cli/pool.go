package cli

import (
	"cmp"
	"fmt"
	"io"

	"fractal-lazy/backing"
	"fractal-lazy/config"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) poolCommand() *cobra.Command {
	return group("pool", "Make or look at the BTRFS that volumes are kept on", a.poolCreate(), a.poolStatus())
}

// rootFlag is --root of the commands that work on the state folder without the daemon.
func (a *app) rootFlag(c *cobra.Command) *string {
	root := config.DefaultRoot
	if v, ok := a.Env("FRACTAL_ROOT"); ok && v != "" {
		root = v
	}
	p := c.Flags().String("root", root, "state folder (FRACTAL_ROOT)")
	c.Flags().Lookup("root").DefValue = config.DefaultRoot
	return p
}

type poolJSON struct {
	backing.PoolInfo
	OK    bool   `json:"ok"` // it can hold volumes
	Error string `json:"error,omitempty"`
}

func (a *app) poolCreate() *cobra.Command {
	var size, file string
	var noPersist bool
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a BTRFS in a file and mount it as the state folder",
		Long: `Makes a sparse file with a BTRFS in it and mounts it at the state folder, which must be empty, for hosts whose disk has another file system. A line in
/etc/fstab brings it back after a reboot, unless --no-fstab is given. It needs root and no daemon. To take it away: umount the folder, delete the file and
the line.`,
		Example: `  fractal-lazy pool create --size 20G`,
		Args:    cobra.NoArgs,
	}
	root := a.rootFlag(c)
	c.Flags().StringVar(&size, "size", "20GiB", "size of the BTRFS; the disk gives it as it is used")
	c.Flags().StringVar(&file, "file", "", "the file (default ROOT.btrfs)")
	c.Flags().BoolVar(&noPersist, "no-fstab", false, "do not mount it again at the next boot")
	c.RunE = func(c *cobra.Command, _ []string) error {
		n, err := humanize.ParseBytes(size)
		if err != nil {
			return usage(c, fmt.Errorf("--size %q is not a size, such as 20GiB", size))
		}
		if n < backing.MinPoolSize {
			return usage(c, fmt.Errorf("--size %s is too small: give at least %s", size, humanize.IBytes(backing.MinPoolSize)))
		}
		p := backing.LoopPool{File: cmp.Or(file, *root+".btrfs"), Dir: *root, Size: n, Persist: !noPersist}
		if err := p.Create(c.Context()); err != nil {
			return err
		}
		st, err := backing.PoolStatus(*root)
		if err != nil {
			return err
		}
		return a.print(poolJSON{PoolInfo: st, OK: true}, func(w io.Writer) {
			fmt.Fprintf(w, "%s is a pool of %s in %s\n", *root, humanize.IBytes(st.Size), p.File)
		})
	}
	return c
}

func (a *app) poolStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell whether the state folder can hold volumes, and how much room it has",
		Args:  cobra.NoArgs,
	}
	root := a.rootFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		st, err := backing.PoolStatus(*root)
		if err != nil {
			return notPool{err}
		}
		if err := st.Check(); err != nil {
			return notPool{err}
		}
		return a.print(poolJSON{PoolInfo: st, OK: true}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: BTRFS, %s free of %s\n", *root, humanize.IBytes(st.Free), humanize.IBytes(st.Size))
		})
	}
	return c
}
