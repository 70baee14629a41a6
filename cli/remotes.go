package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fractal-lazy/config"
	"fractal-lazy/hive"
	"fractal-lazy/plugin/control"
	"fractal-lazy/remote"
	"fractal-lazy/replica"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// sshFolder is where the driver's ssh keys and known hosts are, below the root.
const sshFolder = "ssh"

// remotes opens the second places of the pool under a root.
type remotes struct{ root string }

var _ volume.Remotes = remotes{}

func (r remotes) file() string { return filepath.Join(r.root, remote.FileName) }

// Check implements volume.Remotes.
func (r remotes) Check(name string) error { return remote.CheckName(name) }

// Open implements volume.Remotes. A name that the file does not have is that of a host, where the driver is set up for ssh.
func (r remotes) Open(ctx context.Context, name string) (*volume.Remote, error) {
	if remote.IsSSH(name) {
		return r.dial(ctx, name)
	}
	p, err := remote.Find(r.file(), name)
	if errors.Is(err, remote.ErrUnknown) {
		if _, serr := os.Stat(filepath.Join(r.root, sshFolder)); serr == nil {
			return r.dial(ctx, remote.SSH(name))
		}
	}
	if err != nil {
		return nil, err
	}
	place, err := place(p, nil)
	if err != nil {
		return nil, fmt.Errorf("remote %s: %w", name, err)
	}
	return &volume.Remote{Place: place}, nil
}

func (r remotes) dial(ctx context.Context, name string) (*volume.Remote, error) {
	l, err := remote.DialSSH(ctx, filepath.Join(r.root, sshFolder), name)
	if err != nil {
		return nil, err
	}
	// The token is put in on the other side.
	place, err := place(remote.Place{Hive: l.Hive, IPFS: l.IPFS, Gateway: l.Gateway, Token: "-"}, l)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &volume.Remote{Place: place, Close: l.Close, Explain: l.Explain}, nil
}

// place makes the clients of a remote; l is nil where they connect by themselves.
func place(p remote.Place, l *remote.Link) (out replica.Place, err error) {
	o := ipfs.Options{RPC: p.IPFS, Gateway: p.Gateway, Token: p.Token}
	if l != nil {
		o.HTTP = l.HTTP
		out.Hive, err = hive.NewClient(p.Hive, p.Token, l.HTTP)
	} else {
		out.Hive, err = hive.NewClient(p.Hive, p.Token, nil)
	}
	if err == nil {
		out.Store, err = ipfs.NewClient(o)
	}
	return out, err
}

func (a *app) sendCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "send REMOTE VOLUME[@SNAPSHOT]",
		Short: "Bring a volume's snapshots to a second place",
		Long: `Brings the published snapshots of a volume, up to the one that is named, to a second block store and a second Hive: only the blocks that are missing
there. Without SNAPSHOT what was written until now is published first, and brought along. A machine with the volume's key that is set up with that second place
then mounts from there.

REMOTE is a name of ROOT/remotes.json, or ssh://[user@]host[:port]: the driver of that machine, whose block store and Hive are used. The driver's ssh keys and
known_hosts are in ROOT/ssh.`,
		Example: `  fractal-lazy send nas db
  fractal-lazy send ssh://root@nas.example.org db@2026-01-31T12:00:00Z`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			name, text, _ := butterName(args[1])
			text, err := a.butterSnapshot(c.Context(), name, text)
			if err != nil {
				return err
			}
			p := a.progress()
			r, err := a.client().Replicate(c.Context(), name, control.ReplicateRequest{Remote: args[0], Snapshot: text}, p.show)
			p.end()
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%s has generation %d of %s: %s in %d blocks sent, %d manifests\n", r.Remote, r.Generation, r.Volume, humanize.IBytes(r.Bytes), r.Blocks, r.Manifests)
			})
		},
	}
}

func (a *app) receiveCommand() *cobra.Command {
	var root, file string
	c := &cobra.Command{
		Use:   "receive",
		Short: "The other side of `send` through ssh; sshd starts it",
		Long: `Serves one ` + "`fractal-lazy send ssh://...`" + ` on standard input and output: hands its requests on to the Hive and the block store that the driver of this machine
is set up with, with its token. In authorized_keys, command="fractal-lazy receive",restrict before a key allows that key nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			src := config.Sources{Flags: map[string]string{}, Env: a.Env, File: file}
			if root != "" {
				src.Flags["root"] = root
			}
			cfg, err := config.Load(src)
			if err != nil {
				return err
			}
			up := remote.Upstream{Hive: cfg.Hive, IPFS: cfg.IPFS, Gateway: cfg.Gateway, Token: cfg.Token.Reveal()}
			return remote.Serve(c.Context(), stdio{a.In, a.Out}, up)
		},
	}
	c.Flags().StringVar(&root, "root", "", "state folder of the driver (FRACTAL_ROOT)")
	c.Flags().StringVar(&file, "config", "", "file to read instead of ROOT/config.json")
	return c
}

// stdio is standard input and output as one stream.
type stdio struct {
	io.Reader
	io.Writer
}

func (s stdio) Close() error {
	if f, ok := s.Reader.(*os.File); ok {
		return f.Close()
	}
	return nil
}
