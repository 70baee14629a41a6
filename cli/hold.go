package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/config"
	"fractal-lazy/plugin/supervise"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// holdLimit is the default of --limit: an upgrade of the plugin by hand takes minutes, and as long nothing that uses a volume can be ended.
const holdLimit = 5 * time.Minute

// holderSocket is where the holder of a state folder listens: whoever runs on that folder, in whatever name space, finds it there.
func holderSocket(root string) string { return filepath.Join(root, "holder", "socket") }

func (a *app) holdCommand() *cobra.Command {
	var root, level string
	var limit time.Duration
	c := &cobra.Command{
		Use:   "hold",
		Short: "Hold mounts while the plugin is disabled, upgraded or killed",
		Long: `Runs beside the driver, outside the plugin, and does nothing but hold the connections of its mounts. When the driver ends while containers
use volumes, they wait; the next driver on the same state folder goes on with their mounts, and they see a pause and no error. Where none
does within --limit, the mounts are given up, so that the containers can be ended.

` + "`make install-holder`" + ` installs it as a service of the host.`,
		Example: `  fractal-lazy hold --root /var/lib/fractal --limit 10m`,
		Args:    cobra.NoArgs,
	}
	if v, ok := a.Env("FRACTAL_ROOT"); ok && v != "" {
		root = v
	} else {
		root = config.DefaultRoot
	}
	c.Flags().StringVar(&root, "root", root, "state folder of the driver, as the host sees it (FRACTAL_ROOT)")
	c.Flags().Lookup("root").DefValue = config.DefaultRoot
	c.Flags().DurationVar(&limit, "limit", holdLimit, "how long mounts are held while no driver serves them")
	c.Flags().StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := zerolog.ParseLevel(level)
		if err != nil {
			return usage(c, fmt.Errorf("--log-level %q is none of trace, debug, info, warn, error", level))
		}
		if limit < time.Second {
			return usage(c, fmt.Errorf("--limit %v is less than 1s", limit))
		}
		if st, err := os.Stat(root); err != nil || !st.IsDir() {
			return fmt.Errorf("%s is no folder: --root names the driver's state folder as the host sees it", root)
		}
		return supervise.Hold(c.Context(), supervise.HoldOptions{Socket: holderSocket(root), Limit: limit,
			Log: a.logger(config.Config{LogLevel: l, LogFormat: "auto"})})
	}
	return c
}
