package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// fioRow is one fio job on a complete file of the place.
type fioRow struct {
	name string
	args string
}

var fioRows = []fioRow{
	{"sequential read, 1 MiB", "--rw=read --bs=1M --ioengine=psync"},
	{"sequential write, 1 MiB, fsync at the end", "--rw=write --bs=1M --ioengine=psync --end_fsync=1"},
	{"random read, 4 KiB", "--rw=randread --bs=4k --ioengine=psync"},
	{"random write, 4 KiB", "--rw=randwrite --bs=4k --ioengine=psync"},
	{"random read, 4 KiB, O_DIRECT, 16 deep", "--rw=randread --bs=4k --ioengine=libaio --iodepth=16 --direct=1"},
	{"random write, 4 KiB, O_DIRECT, 16 deep", "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1"},
	{"random write, 4 KiB, fsync each", "--rw=randwrite --bs=4k --ioengine=psync --fsync=1"},
	{"mmap random read, 4 KiB", "--rw=randread --bs=4k --ioengine=mmap"},
	{"mmap random write, 4 KiB", "--rw=randwrite --bs=4k --ioengine=mmap"},
}

// fio runs the jobs on every place, round by round.
func (b *bench) fio(ctx context.Context, places []*place) error {
	common := fmt.Sprintf("fio --name=job --filename=data --size=%dM --invalidate=0 --time_based --runtime=%d --output-format=json", b.fileMiB, b.seconds)
	for _, p := range places {
		// Whole before it is measured: written, closed, on disk.
		line := fmt.Sprintf("dd if=/dev/urandom of=data bs=1M count=%d conv=fsync status=none", b.fileMiB)
		if _, _, err := sh(ctx, p.dir, line); err != nil {
			return err
		}
	}
	// All of it is in memory, and stays: fio drops the pages of the file that it opens, which are BTRFS's own there, and nobody's behind a mount.
	for _, p := range places {
		if _, _, err := sh(ctx, p.dir, "cat data >/dev/null"); err != nil {
			return err
		}
	}
	for _, r := range fioRows {
		for round := range b.rounds {
			for k := range places {
				p := places[(k+round)%len(places)]
				command := common + " " + r.args
				out, _, err := sh(ctx, p.dir, command)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", r.name, p.name, err)
				}
				rate, err := fioRate(out)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", r.name, p.name, err)
				}
				b.add(r.name, command, p, rate, true)
			}
		}
	}
	for _, p := range places {
		if _, _, err := sh(ctx, p.dir, "rm data"); err != nil {
			return err
		}
	}
	return nil
}

// fioRate is how many operations a second the job did.
func fioRate(out string) (float64, error) {
	var report struct {
		Jobs []struct {
			Read  struct{ Iops float64 }
			Write struct{ Iops float64 }
		}
	}
	// Warnings come before the report.
	if i := strings.IndexByte(out, '{'); i > 0 {
		out = out[i:]
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&report); err != nil {
		return 0, fmt.Errorf("fio's report: %w", err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Read.Iops+report.Jobs[0].Write.Iops <= 0 {
		return 0, fmt.Errorf("fio did nothing: %s", out)
	}
	return report.Jobs[0].Read.Iops + report.Jobs[0].Write.Iops, nil
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }
