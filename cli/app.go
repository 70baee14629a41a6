package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"fractal-lazy/config"
	"fractal-lazy/plugin/control"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// IO is the outside world of one run of the program.
type IO struct {
	Args    []string // without the program's name
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Env     func(key string) (string, bool) // nil: no environment
	Version control.Version
}

// Main runs one command and returns its exit code. SIGTERM and SIGINT end it in good order; a second one ends the process.
func Main(ctx context.Context, io IO) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // the second signal finds the default again

	a := &app{IO: io}
	if a.Env == nil {
		a.Env = func(string) (string, bool) { return "", false }
	}
	root := a.root()
	root.SetArgs(io.Args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var said exitStatus
	if errors.As(err, &said) {
		return int(said)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	code := ExitCode(err)
	if a.json {
		a.printJSON(struct {
			Error string       `json:"error"`
			Code  control.Code `json:"code"`
			Exit  int          `json:"exit"`
		}{err.Error(), codeOf(err), code})
	}
	fmt.Fprintf(a.Err, "fractal-lazy: %s\n", err)
	return code
}

// app is what the commands share.
type app struct {
	IO
	json   bool
	socket string
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fractal-lazy",
		Short: "Docker volumes that start at once on another machine",
		Long: `fractal-lazy keeps Docker volumes as encrypted snapshots on IPFS, and mounts them on another machine at once: an application starts
while the blocks that it touches are fetched on demand and the rest follows in the background.

Most commands ask the daemon that ` + "`fractal-lazy run`" + ` starts, over its socket.

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	socket := config.DefaultSocket
	if v, ok := a.Env("FRACTAL_SOCKET"); ok && v != "" {
		socket = v
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON document instead of text")
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "unix socket of the daemon (FRACTAL_SOCKET)")
	root.PersistentFlags().Lookup("socket").DefValue = config.DefaultSocket
	root.AddGroup(&cobra.Group{ID: "volumes", Title: "Volumes:"}, &cobra.Group{ID: "serve", Title: "Services:"}, &cobra.Group{ID: "setup", Title: "Set-up:"})
	add := func(group string, all ...*cobra.Command) {
		for _, c := range all {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("volumes", a.volumeCommand(), a.snapshotCommand(), a.snapshotsCommand(), a.restoreCommand(), a.cloneCommand(), a.browseCommand(), a.diffCommand(), a.purgeCommand(),
		a.removeSnapshotCommand(), a.flushCommand(), a.hydrateCommand(), a.verifyCommand(), a.sendCommand(), a.exportCommand(), a.importCommand(), a.syncCommand(), a.scheduleCommand(), a.scheduledCommand(), a.statusCommand())
	add("serve", a.runCommand(), a.holdCommand(), a.hiveCommand(), a.receiveCommand())
	add("setup", a.keyCommand(), a.poolCommand(), a.importButtervolumeCommand(), a.versionCommand())
	root.AddCommand(a.workerCommand())
	checkArgs(root)
	return root
}

// checkArgs makes a wrong number of arguments a usage error, for every command.
func checkArgs(c *cobra.Command) {
	if inner := c.Args; inner != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := inner(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
}

// group is a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(below...)
	return c
}

// client is one on the daemon's socket.
func (a *app) client() *control.Client { return control.NewClient(a.socket) }

// print writes v as JSON where --json asks for it, otherwise what text writes.
func (a *app) print(v any, text func(w io.Writer)) error {
	if a.json {
		return a.printJSON(v)
	}
	var b strings.Builder
	text(&b)
	_, err := io.WriteString(a.Out, b.String())
	return err
}

func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = a.Out.Write(append(b, '\n'))
	return err
}

// isTerminal tells whether f is one.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
