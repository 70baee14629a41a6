package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"fractal-lazy/plugin/control"

	"github.com/spf13/cobra"
)

// BuildVersion completes what the linker was given with what the toolchain recorded.
func BuildVersion(version, commit string) control.Version {
	v := control.Version{Version: version, Commit: commit, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = cmp.Or(v.Commit, s.Value)
			}
		}
		if info.Main.Version != "(devel)" {
			v.Version = cmp.Or(v.Version, info.Main.Version)
		}
	}
	v.Version = cmp.Or(v.Version, "devel")
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print(a.Version, func(w io.Writer) {
				fmt.Fprintf(w, "fractal-lazy %s (%s, %s)\n", a.Version.Version, cmp.Or(a.Version.Commit, "no commit"), a.Version.Go)
			})
		},
	}
}
