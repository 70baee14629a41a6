package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" { // a serving process of a test
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if code, done := kit.Inside(); done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// operations is how many the test does in about half a minute with the race detector: `make model-short`, which CI runs as well, does 50,000 without, `make model` a million.
const operations = 10_000

func TestModel_MountIsAsPlainBtrfs(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	res, err := config{ops: operations, seed: 5, stage: 1250, dir: dir}.run(context.Background())
	t.Log(&res)
	kit.Must(t, err)
	if res.ops < operations || res.snapshots == 0 || res.kills == 0 || res.faults == 0 {
		t.Errorf("too little was done: %v", &res)
	}
	kit.NoLeaks(t, dir)
}

const (
	restart  = "restart"
	complete = "complete"
)

// TestScript_WhatTheModelFound are short forms of sequences that once failed: in a volume of which nothing is here yet.
func TestScript_WhatTheModelFound(t *testing.T) {
	kit.NeedRoot(t)
	dir := t.TempDir()
	w, err := newWorld(dir)
	kit.Must(t, err)
	punch := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	for _, c := range []struct {
		name string
		ops  []op
	}{
		{"a hole is copied into a file that is not here", []op{
			{Kind: "open", Path: "holes", H: 1}, {Kind: "open", Path: "data", H: 2, Flags: unix.O_RDWR},
			{Kind: "copy", H: 1, H2: 2, Off2: 4096, N: 8192}, {Kind: restart},
		}},
		{"a hole is copied over the end of a file", []op{
			{Kind: "open", Path: "holes", H: 1}, {Kind: "open", Path: "data", H: 2, Flags: unix.O_RDWR},
			{Kind: "copy", H: 1, H2: 2, Off2: 12288, N: 16384}, {Kind: restart},
		}},
		{"a punch that is refused", []op{
			{Kind: "open", Path: "append", H: 1, Flags: unix.O_RDWR | unix.O_APPEND}, {Kind: "fallocate", H: 1, N: 8192, Mode: punch},
			{Kind: "pread", H: 1, N: 16384},
		}},
		{"a shortened file is made append-only and extended", []op{
			{Kind: "open", Path: "data", H: 1, Flags: unix.O_RDWR}, {Kind: "ftruncate", H: 1, N: 5000},
			{Kind: "chattr", Path: "data", Flags: flAppend, Mode: 1}, {Kind: "pwrite", H: 1, Off: 5000, N: 10}, {Kind: restart},
		}},
		{"a name is added where another one is not here", []op{{Kind: "link", Path: "b/x", To: "b/y"}, {Kind: "snapshot"}}},
		{"a default ACL by an owner who is not in the group", []op{
			{Kind: "chown", Path: "a", Mode: 1001<<16 | 1002}, {Kind: "chmod", Path: "a", Mode: 0o2775},
			{Kind: "setxattr", Path: "a", To: "system.posix_acl_default", Mode: 0o777777, UID: 1001, GID: 1001},
		}},
		{"a copy into an open file that was made immutable", []op{
			{Kind: "open", Path: "b/x", H: 1}, {Kind: "open", Path: "data", H: 2, Flags: unix.O_RDWR},
			{Kind: "chattr", Path: "data", Flags: flImmutable, Mode: 1}, {Kind: "copy", H: 1, H2: 2, Off2: 4096, N: 5000}, {Kind: "copy", H: 1, H2: 2, Off: 1 << 20, N: 5000},
		}},
		{"a copy into an open file that was made append-only", []op{
			{Kind: "open", Path: "b/x", H: 1}, {Kind: "open", Path: "data", H: 2, Flags: unix.O_RDWR},
			{Kind: "chattr", Path: "data", Flags: flAppend, Mode: 1}, {Kind: "copy", H: 1, H2: 2, Off2: 4096, N: 5000}, {Kind: "copy", H: 1, H2: 2, Off2: 16384, N: 5000},
		}},
		{"all names of an open file go", []op{
			{Kind: "open", Path: "a/x", H: 1, Flags: unix.O_RDWR}, {Kind: "unlink", Path: "a/x"}, {Kind: "unlink", Path: "b/x"}, {Kind: "fchmod", H: 1, Mode: 0o600},
		}},
		{"an empty file is written, another name of it is not here", []op{
			{Kind: "open", Path: "b/empty", H: 1, Flags: unix.O_RDWR}, {Kind: "pwrite", H: 1, N: 5000, Seed: 3}, {Kind: "close", H: 1}, {Kind: "snapshot"},
		}},
		{"an empty file gets an owner, another name of it is not here", []op{{Kind: "chown", Path: "b/empty", Mode: 1000<<16 | 1000}, {Kind: "snapshot"}}},
		{"all names of an open FIFO go", []op{
			{Kind: "open", Path: "a/fifo", H: 1, Flags: unix.O_RDWR}, {Kind: "unlink", Path: "a/fifo"}, {Kind: "unlink", Path: "b/fifo"}, {Kind: complete}, {Kind: "fchmod", H: 1, Mode: 0o600},
		}},
		{"a punch of what is not here moves the time", []op{
			{Kind: "open", Path: "data", H: 1, Flags: unix.O_RDWR}, {Kind: "fallocate", H: 1, N: 8192, Mode: punch},
		}},
		{"a store through a mapping leaves the capabilities", []op{
			{Kind: "setxattr", Path: "data", To: "security.capability", Mode: 1024}, {Kind: "open", Path: "data", H: 1, Flags: unix.O_RDWR},
			{Kind: "mmap", H: 1, N: 8192, Mode: unix.PROT_READ | unix.PROT_WRITE, Flags: unix.MAP_SHARED, Seed: 7},
		}},
		{"one name of a FIFO is changed, the other one is not here", []op{
			{Kind: "chmod", Path: "b/fifo", Mode: 0o640}, {Kind: "chown", Path: "b/link", Mode: 1000<<16 | 1000}, {Kind: "setxattr", Path: "b/device", To: "trusted.t", N: 5},
			{Kind: "snapshot"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &sequence{history: &history{}, w: w, t: &totals{states: map[string]int{}, kinds: map[string]int{}}, r: rand.New(rand.NewPCG(1, 1)), state: "remote"}
			kit.Must(t, s.on(scriptTree, func(snap string) error { return s.script(snap, c.ops) }))
		})
	}
	kit.Must(t, w.close())
	kit.NoLeaks(t, dir)
}

func (s *sequence) script(snap string, ops []op) error {
	if err := s.volume(true, snap); err != nil {
		return err
	}
	for _, o := range ops {
		var err error
		switch o.Kind {
		case restart:
			err = s.restart(false)
		case complete:
			_, err = s.srv.do(command{Do: "wait"})
		case "snapshot":
			err = s.second(true)
		default:
			err = s.perform(&o)
		}
		if err != nil {
			return err
		}
	}
	return s.c.everything()
}

func scriptTree(root string) ([]string, error) {
	t := &maker{root: root, r: rand.New(rand.NewPCG(1, 1))}
	in := func(name string) string { return filepath.Join(root, name) }
	for _, d := range []string{"a", "b"} {
		t.note(os.Mkdir(in(d), 0o755))
	}
	b := make([]byte, 16384)
	noise(3, b)
	for _, f := range []string{"data", "append", "b/x"} {
		t.note(os.WriteFile(in(f), b, 0o644))
	}
	t.note(os.WriteFile(in("holes"), nil, 0o644))
	t.note(os.Truncate(in("holes"), 65536))
	t.note(unix.Mkfifo(in("b/fifo"), 0o666))
	t.note(unix.Mknod(in("b/device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	t.note(os.Symlink("x", in("b/link")))
	t.note(os.WriteFile(in("b/empty"), nil, 0o644))
	for _, f := range []string{"x", "fifo", "device", "link", "empty"} {
		t.note(os.Link(in("b/"+f), in("a/"+f)))
	}
	t.flag("append", flAppend)
	return t.frozen, t.err
}
