package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fractal-lazy/mutant"
)

// findMutants lets each fault be found, and says what it took. A fault that is not found in c.ops operations is an error.
func findMutants(ctx context.Context, c config, only mutant.Mutant) error {
	if !mutant.Possible {
		return errors.New("build with -tags crashtest to have faults")
	}
	all := mutant.All
	if only != "" {
		if !slices.Contains(all, only) {
			return fmt.Errorf("there is no fault %q, but %q", only, all)
		}
		all = []mutant.Mutant{only}
	}
	var errs []error
	for _, m := range all {
		n, what, err := findMutant(ctx, c, m)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Printf("%-20s not found\n", m)
			errs = append(errs, fmt.Errorf("fault %s: %w", m, err))
			continue
		}
		fmt.Printf("%-20s found after %4d operations: %s\n", m, n, what)
	}
	return errors.Join(errs...)
}

var (
	countLine = regexp.MustCompile(`(?m)^(\d+) operations in `)
	foundLine = regexp.MustCompile(`(?m)^history failed: (.*)$`)
)

// findMutant has a process that has the fault, as have the drivers that it starts, do histories until one fails.
func findMutant(ctx context.Context, c config, m mutant.Mutant) (ops int, what string, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	cmd := exec.CommandContext(ctx, self, "-ops", strconv.Itoa(c.ops), "-seed", fmt.Sprint(c.seed), "-length", strconv.Itoa(c.length), "-crashes", fmt.Sprint(c.crashes), "-dir", c.dir)
	cmd.Env = append(os.Environ(), mutant.Env+"="+string(m))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	n := countLine.FindSubmatch(out.Bytes())
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err == nil {
			err = fmt.Errorf("it was not found in %d operations", c.ops)
		}
		return 0, "", err
	}
	found := foundLine.FindSubmatch(out.Bytes())
	if n == nil || found == nil {
		return 0, "", fmt.Errorf("the histories ended otherwise: %w: %s", err, strings.TrimSpace(out.String()))
	}
	ops, err = strconv.Atoi(string(n[1]))
	return ops, string(found[1]), err
}
