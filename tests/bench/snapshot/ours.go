package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store/ipfs"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// task is what a process of ours is to publish, and what came of it. The file is readable by its owner only: it holds the key.
type task struct {
	Dir, Key, Token string
	Machine         uuid.UUID
	Snapshot        string
	Local, Root     string
	Hash            []byte
	Generation      uint64
	SizeTotal       uint64
	ChunkSize       uint32
	Took            time.Duration
	Bytes           uint64
	Way             string
	Profile         string // where a CPU profile of it goes; empty: nowhere
}

type ours struct {
	file    string
	profile string // folder
	n       int
	task    task
}

func newOurs(b *bench) (tool, error) {
	key, err := seal.GeneratePrivkey()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "ours")
	o := &ours{file: filepath.Join(dir, "task"), profile: b.profile, task: task{Dir: dir, Key: key.Reveal(), Machine: uuid.New(), Token: uuid.NewString()}}
	return o, os.Mkdir(dir, 0o700)
}

func (o *ours) name() string { return "ours" }
func (o *ours) close()       {}

func (o *ours) backup(ctx context.Context, path string) (cost, error) {
	o.task.Snapshot = path
	if o.profile != "" {
		o.n++
		o.task.Profile = filepath.Join(o.profile, fmt.Sprintf("publish-%d.pprof", o.n))
	}
	if err := writeTask(o.file, &o.task); err != nil {
		return cost{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	c, err := measured(exec.CommandContext(ctx, self, "-publish", o.file))
	if err != nil {
		return c, err
	}
	if err := readTask(o.file, &o.task); err != nil {
		return c, err
	}
	c.bytes, c.publish, c.note = int64(o.task.Bytes), o.task.Took, o.task.Way
	return c, nil
}

func writeTask(file string, t *task) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func readTask(file string, t *task) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, t)
}

// publish is the process of ours.
func publish(ctx context.Context, file string) (err error) {
	var t task
	if err := readTask(file, &t); err != nil {
		return err
	}
	key, err := seal.ParsePrivkey(t.Key)
	if err != nil {
		return err
	}
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: filepath.Join(t.Dir, "node")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	blocks := httptest.NewServer(node.Handler())
	defer blocks.Close()
	db, err := hive.NewServer(filepath.Join(t.Dir, "hive.db"), nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	api := httptest.NewServer(db.Handler())
	defer api.Close()
	client, err := hive.NewClient(api.URL, t.Token, nil)
	if err != nil {
		return err
	}
	st, err := ipfs.NewClient(ipfs.Options{RPC: blocks.URL})
	if err != nil {
		return err
	}
	job := replica.Job{Volume: "bench", Key: key, Machine: t.Machine, Snapshot: t.Snapshot, Created: time.Now()}
	if t.Root == "" {
		if err := client.Create(ctx, key.Public()); err != nil {
			return err
		}
	} else {
		job.Base = replica.Base{Local: t.Local, Generation: t.Generation, SizeTotal: t.SizeTotal, ChunkSize: t.ChunkSize}
		copy(job.Base.Hash[:], t.Hash)
		if job.Base.Root, err = cid.Decode(t.Root); err != nil {
			return err
		}
	}
	if t.Profile != "" {
		f, err := os.Create(t.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	begin := time.Now()
	r, err := replica.New(replica.Deps{Store: st, Hive: client, Nodes: filepath.Join(t.Dir, "nodes"), Log: zerolog.Nop()}).Publish(ctx, job)
	if err != nil {
		return err
	}
	t.Took, t.Bytes, t.Way = time.Since(begin), r.Stats.Bytes, string(r.Way)
	if r.Unchanged {
		t.Way += fmt.Sprintf(", %s", "nothing posted")
	}
	// An unchanged one keeps the base; the newer local snapshot is as good for the next.
	t.Local, t.Root, t.Hash = job.Snapshot, r.Base.Root.String(), r.Base.Hash[:]
	t.Generation, t.SizeTotal, t.ChunkSize = r.Base.Generation, r.Base.SizeTotal, r.Base.ChunkSize
	return writeTask(file, &t)
}
