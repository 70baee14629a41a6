package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) volumeCommand() *cobra.Command {
	return group("volume", "Make, list, mount and remove volumes",
		a.volumeCreate(), a.volumeList(), a.volumeInspect(), a.volumeRemove(), a.volumeMount(), a.volumeUnmount())
}

const optionsHelp = `Options (-o KEY=VALUE):
  privkey=@FILE | -     the volume's private key, read from FILE or from standard input; without it a new key is made
  privkey-file=FILE     the key, from a file on the driver's host: root's own, mode 0600
  sealed-key=@FILE | -  a key sealed by ` + "`key export --passphrase-file`" + `, or the sealed key itself; with passphrase-file
  passphrase-file=FILE  the passphrase of the sealed key, from a file on the driver's host
  interval=60s          time between snapshots, or off
  chunk-size=256KiB     64KiB, 128KiB, 256KiB or 512KiB
  compression=default   none, fastest, default or better
  patches=on            off: changes of large files are published in whole chunks, for machines with an older version
  nocow=false           true: data is overwritten in place
  size=0                a limit, such as 20GiB
  snapshot=...          a generation, a hash or a time: show the volume as it was then, read-only
  prefetch=all          what the background fetches: all, metadata, none, or so many bytes
  fetch-timeout=0       a read of remote data fails after this time; 0 waits as long as it takes
  takeover=released     always: take the volume even where another machine holds it
  mount=fuse            direct: the plain BTRFS without FUSE, from the first mount on that finds everything here`

func (a *app) volumeCreate() *cobra.Command {
	var options []string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a volume, new or from the key of one that the Hive knows",
		Long:  "Makes a volume; nothing is fetched before it is mounted.\n\n" + optionsHelp,
		Example: `  fractal-lazy volume create db
  fractal-lazy volume create db -o privkey=@db.key -o takeover=always`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := a.parseOptions(options)
			if err != nil {
				return usage(c, err)
			}
			return a.createVolume(c.Context(), args[0], opts)
		},
	}
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "KEY=VALUE, as often as needed")
	return c
}

func (a *app) createVolume(ctx context.Context, name string, opts map[string]string) error {
	info, err := a.client().Create(ctx, name, opts)
	if err != nil {
		return err
	}
	return a.print(info, func(w io.Writer) { fmt.Fprintln(w, info.Name) })
}

// parseOptions reads -o flags. A private key is replaced by what its file, or standard input, holds.
func (a *app) parseOptions(given []string) (map[string]string, error) {
	opts := map[string]string{}
	for _, o := range given {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("-o %s is not of the form KEY=VALUE", strings.SplitN(o, "=", 2)[0])
		}
		if _, twice := opts[k]; twice {
			return nil, fmt.Errorf("-o %s is given twice", k)
		}
		if k == "privkey" {
			var err error
			if v, err = a.keyOption(v); err != nil {
				return nil, err
			}
		}
		if k == "sealed-key" {
			var err error
			if v, err = a.sealedOption(v); err != nil {
				return nil, err
			}
		}
		opts[k] = v
	}
	return opts, nil
}

func (a *app) volumeList() *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the volumes",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := a.client().List(c.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) {
				if quiet {
					for _, v := range all {
						fmt.Fprintln(w, v.Name)
					}
					return
				}
				listVolumes(w, all)
			})
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "names alone")
	return c
}

func listVolumes(w io.Writer, all []volume.Info) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tGENERATION\tREPLICATED\tSIZE\tREMOTE\tMOUNTS")
	for _, v := range all {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%d\n", v.Name, v.State, v.Generation, ago(v.LastReplicated),
			humanize.IBytes(v.BytesTotal), humanize.IBytes(v.BytesRemote), len(v.Mounts))
	}
	t.Flush()
}

func (a *app) volumeInspect() *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME",
		Short:             "Show all that is known of a volume, but its private key",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			v, err := a.client().Get(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { inspectVolume(w, v) })
		},
	}
}

func (a *app) volumeRemove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove volumes from this machine; what is published stays published",
		Long: `Removes volumes from this machine. A volume that is mounted stays. So does one with changes that are not published, unless --force is
given: then they are lost. What is published stays at the Hive and can be mounted anywhere with the volume's key: export the key first.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			cl := a.client()
			removed := []string{}
			var errs []error
			for _, name := range args {
				if err := cl.Remove(c.Context(), name, force); err != nil {
					errs = append(errs, err)
					continue
				}
				removed = append(removed, name)
			}
			if len(errs) > 0 && a.json {
				return errors.Join(errs...) // one document only, and that is the error
			}
			return errors.Join(a.print(map[string][]string{"removed": removed}, func(w io.Writer) {
				for _, name := range removed {
					fmt.Fprintln(w, name)
				}
			}), errors.Join(errs...))
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "remove what was never published, too")
	return c
}

func (a *app) volumeMount() *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "mount NAME",
		Short: "Mount a volume and print where",
		Long: `Mounts a volume and prints its mount point as the last line. It counts as mounted until the same id is unmounted, or the daemon stops;
containers that use it as well have ids of their own.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			p := a.progress()
			path, err := a.client().Mount(c.Context(), args[0], id, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(control.MountResult{Mountpoint: path}, func(w io.Writer) { fmt.Fprintln(w, path) })
		},
	}
	c.Flags().StringVar(&id, "id", control.DefaultMountID, "who uses the mount")
	return c
}

func (a *app) volumeUnmount() *cobra.Command {
	var id string
	var noWait bool
	var wait time.Duration
	c := &cobra.Command{
		Use:     "umount NAME",
		Aliases: []string{"unmount"},
		Short:   "Unmount a volume and wait until its last changes are published",
		Long: `Unmounts a volume. Where nobody else uses it, a final snapshot is taken and uploaded and the volume is given back, so that another machine can
mount it; the command waits for that unless --no-wait is given, or for the time of --wait: then it ends with 6 where it is not done. Ending the command does not end
the upload, and the same command again waits for it again.`,
		Example:           `  fractal-lazy volume umount db --wait 5m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			if wait < 0 || wait > 0 && noWait {
				return usage(c, errors.New("--wait is a time such as 5m, and does not go with --no-wait"))
			}
			p := a.progress()
			v, err := a.client().Unmount(c.Context(), args[0], control.UnmountRequest{ID: id, Wait: !noWait, WaitSeconds: wait.Seconds()}, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintln(w, v.Name) })
		},
	}
	c.Flags().StringVar(&id, "id", control.DefaultMountID, "who used the mount")
	c.Flags().BoolVar(&noWait, "no-wait", false, "leave the final upload to the background")
	c.Flags().DurationVar(&wait, "wait", 0, "wait this long at most; 0: as long as the final upload takes")
	return c
}

// completeVolumes offers the names of volumes to the shell; where no daemon answers it offers nothing.
func (a *app) completeVolumes(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	all, err := a.client().List(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, v := range all {
		if strings.HasPrefix(v.Name, begun) {
			names = append(names, v.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
