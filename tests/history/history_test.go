package main

import (
	"context"
	"os"
	"testing"

	"fractal-lazy/tests/kit"
)

func TestMain(m *testing.M) {
	if code, done := enter(); done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// short is how many operations the test does, in two histories: `make history` does thousands.
const short = 120

func TestHistory_EverySurvivingSnapshotReadsBack(t *testing.T) {
	kit.NeedRoot(t)
	dir, err := os.MkdirTemp("", "h-") // short: sockets have at most 107 bytes
	kit.Must(t, err)
	t.Cleanup(func() { kit.Must(t, os.RemoveAll(dir)) })
	res, err := config{ops: short, seed: 11, length: short / 2, crashes: 0.08, dir: dir}.run(context.Background())
	t.Log(&res)
	kit.Must(t, err)
	if res.ops < short || res.crashes == 0 || res.collections == 0 || res.snapshots < 10 {
		t.Errorf("too little was done: %v", &res)
	}
	kit.NoLeaks(t, dir)
}
