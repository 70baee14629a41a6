package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"fractal-lazy/config"
	"fractal-lazy/hive"
	"fractal-lazy/metrics"
	"fractal-lazy/plugin"
	"fractal-lazy/plugin/control"
	"fractal-lazy/plugin/supervise"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/volume"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// How long stopping may take: calls under way, and then final snapshots and their upload. What is not uploaded then goes on after the next start.
// Docker gives a plugin ten seconds, systemd ninety.
const (
	callGrace  = 5 * time.Second
	closeGrace = 60 * time.Second
)

// retryOpen is the pause before faulty settings are read again.
const retryOpen = 2 * time.Second

func (a *app) runCommand() *cobra.Command {
	c, load := a.daemonCommand("run")
	c.Short = "Run the driver: Docker's volume plugin protocol and the commands' API on one socket"
	c.Long = `Runs the driver until SIGTERM. Each setting comes from its flag, else from the environment, else from the file ROOT/config.json, else
it has its default. Only a wrong flag ends the program: anything else that is wrong is the answer to every call until it is mended.

The process that is started supervises another one, which does the work. When that one dies, containers see a pause and no error. SIGHUP
upgrades both to the program that is now at the same path, in the same way.`
	c.Example = `  fractal-lazy run --root /var/lib/fractal --hive https://hive.example.org --ipfs https://hive.example.org --token @/etc/fractal/token`
	c.RunE = func(c *cobra.Command, _ []string) error {
		d := load()
		cfg, err := d.settings()
		if isUsage(err) {
			return err
		}
		args := []string{"worker"}
		c.Flags().Visit(func(f *pflag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
		code, err := supervise.Run(supervise.Options{Args: args, Hold: cfg.Hold, Holder: holderSocket(cfg.Root), Log: a.logger(cfg)})
		if err == nil && code != ExitOK {
			return exitStatus(code)
		}
		return err
	}
	return c
}

// workerCommand is what `run` supervises.
func (a *app) workerCommand() *cobra.Command {
	c, load := a.daemonCommand("worker")
	c.Short = "Do the work of run, which starts this"
	c.Hidden = true
	c.RunE = func(c *cobra.Command, _ []string) error { return load().run(c.Context()) }
	return c
}

// daemonCommand is a command with the driver's settings; load is called when they are known.
func (a *app) daemonCommand(use string) (c *cobra.Command, load func() *daemon) {
	flags := map[string]*string{}
	var file string
	var grace time.Duration
	c = &cobra.Command{Use: use, Args: cobra.NoArgs}
	for _, s := range config.Settings() {
		if s.Name == "socket" {
			continue // the flag that all commands have
		}
		flags[s.Name] = c.Flags().String(s.Name, "", s.Help+" ("+s.Env+")")
		c.Flags().Lookup(s.Name).DefValue = s.Default
	}
	c.Flags().StringVar(&file, "config", "", "file to read instead of ROOT/config.json")
	c.Flags().DurationVar(&grace, "stop-timeout", closeGrace, "how long final snapshots may be uploaded after SIGTERM")
	return c, func() *daemon {
		src := config.Sources{Flags: map[string]string{}, Env: a.Env, File: file}
		for name, v := range flags {
			if c.Flags().Changed(name) {
				src.Flags[name] = *v
			}
		}
		if c.Flags().Changed("socket") {
			src.Flags["socket"] = a.socket
		}
		return &daemon{app: a, src: src, grace: grace}
	}
}

// daemon is one worker of `run`.
type daemon struct {
	app   *app
	src   config.Sources
	grace time.Duration
	log   zerolog.Logger
	set   *metrics.Set
	keep  *keeper

	mu      sync.Mutex
	manager *volume.Manager // nil until it is open
	worked  chan struct{}   // closed when the manager's Run has returned
}

// settings reads them. A wrong flag is a usage error; what else is wrong is returned as it is, beside what is right.
func (d *daemon) settings() (config.Config, error) {
	cfg, err := config.Load(d.src)
	var faults config.Faults
	if errors.As(err, &faults) && faults.FromFlag() {
		return cfg, usageError{err.Error()}
	}
	return cfg, err
}

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

// run listens first, then opens the volumes beside it.
func (d *daemon) run(ctx context.Context) error {
	cfg, err := d.settings()
	if isUsage(err) {
		return err
	}
	d.log = d.app.logger(cfg)
	keep, kerr := attach(d.log)
	if kerr != nil {
		return kerr
	}
	d.keep = keep
	d.set = metrics.New()
	s := plugin.New(plugin.Options{Version: d.app.Version, Settings: shown(cfg), Log: d.log, Metrics: d.figures()})
	if err := d.keep.listen(s, cfg.Socket); err != nil {
		return err
	}
	d.log.Info().Str("socket", cfg.Socket).Str("root", cfg.Root).Str("version", d.app.Version.Version).Msg("listening")

	if len(d.keep.mounts) == 0 {
		d.keep.Ready(nil)
	}

	opened := make(chan struct{})
	stopOpen, cancel := context.WithCancel(ctx)
	go func() {
		defer close(opened)
		d.open(stopOpen, s, cfg, err)
	}()
	var port sync.WaitGroup
	if cfg.Metrics != "" {
		port.Go(func() { d.serveMetrics(stopOpen, cfg.Metrics) })
	}
	served := s.Run(ctx, callGrace)
	cancel()
	<-opened
	port.Wait()
	closed := d.close()
	d.log.Info().Msg("stopped")
	return errors.Join(served, closed)
}

// open reads the settings until they are right, opens the volumes, and works on them until ctx ends.
func (d *daemon) open(ctx context.Context, s *plugin.Server, cfg config.Config, err error) {
	var said string
	for {
		var m *volume.Manager
		if err == nil {
			// The file with the settings lies on the pool: what is read without it are not the settings.
			err = volume.CheckRoot(cfg.Root)
		}
		if err == nil {
			m, err = d.openVolumes(ctx, cfg)
		}
		if err == nil {
			for _, w := range cfg.Warnings {
				d.log.Warn().Msg(w)
			}
			d.work(m)
			s.SetSettings(shown(cfg))
			s.SetBackend(m)
			return
		}
		s.SetFault(err)
		if said != err.Error() {
			said = err.Error()
			d.log.Error().Err(err).Str("op", "start").Msg("not ready; tried again until it is mended")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryOpen):
		}
		cfg, err = config.Load(d.src)
	}
}

// work starts what the manager does by itself. It ends with the manager's Close, which needs it for the last uploads.
func (d *daemon) work(m *volume.Manager) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.manager, d.worked = m, make(chan struct{})
	go func() {
		defer close(d.worked)
		if err := m.Run(context.Background()); err != nil {
			d.log.Error().Err(err).Str("op", "run").Msg("nothing is published any more: restart the daemon")
		}
	}()
}

func (d *daemon) openVolumes(ctx context.Context, cfg config.Config) (*volume.Manager, error) {
	deps := volume.Deps{Log: d.log, Metrics: d.set, Remotes: remotes{cfg.Root}, Keep: d.keep}
	var err error
	if cfg.Hive != "" {
		if deps.Hive, err = hive.NewClient(cfg.Hive, cfg.Token.Reveal(), nil); err != nil {
			return nil, fmt.Errorf("hive: %w", err)
		}
	}
	if cfg.IPFS != "" {
		deps.Store, err = ipfs.NewClient(ipfs.Options{RPC: cfg.IPFS, Gateway: cfg.Gateway, Token: cfg.Token.Reveal()})
		if err != nil {
			return nil, fmt.Errorf("ipfs: %w", err)
		}
	}
	return volume.Open(ctx, deps, volume.Options{Root: cfg.Root, Mounts: cfg.MountsDir(), SharedMounts: cfg.MountsShared, Interval: cfg.Interval, Upload: cfg.Upload, Download: cfg.Download,
		PassphraseFile: cfg.PassphraseFile, PlainKeys: !cfg.SealKeys})
}

// close takes the final snapshots and gives the volumes back, as far as the time goes.
func (d *daemon) close() error {
	d.mu.Lock()
	m, worked := d.manager, d.worked
	d.mu.Unlock()
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.grace)
	defer cancel()
	err := m.Close(ctx)
	<-worked
	return err
}

func shown(cfg config.Config) []control.Setting {
	var all []control.Setting
	for _, s := range cfg.Show() {
		all = append(all, control.Setting(s))
	}
	return all
}

// logger writes to standard error; Docker takes it into its own log line by line.
func (a *app) logger(cfg config.Config) zerolog.Logger {
	var w = a.Err
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && isTerminal(a.Err) {
		w = zerolog.ConsoleWriter{Out: a.Err, TimeFormat: time.RFC3339, NoColor: !isTerminal(a.Err)}
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(cfg.LogLevel).With().Timestamp().Int("pid", os.Getpid()).Logger()
}
