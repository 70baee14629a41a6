// Command fractal-lazy keeps Docker volumes as encrypted snapshots on IPFS and mounts them on another machine at once.
// ARCHITECTURE.md says how it is made, README.md how it is used.
package main

import (
	"context"
	"os"

	"fractal-lazy/cli"
)

// Set by the Makefile; a plain `go build` leaves them, and what the toolchain recorded is taken.
var version, commit string

func main() {
	os.Exit(cli.Main(context.Background(), cli.IO{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv,
		Version: cli.BuildVersion(version, commit),
	}))
}
