package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store/ipfs"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// killTask is what a process that is to be killed publishes. The file is readable by its owner only: it holds the key.
type killTask struct {
	Key, Token, Hive, IPFS, Nodes, Snapshot string
	Machine                                 uuid.UUID
}

const killEnv = "FRACTAL_TEST_PUBLISH"

// publishAndExit is that process: it prints the root.
func publishAndExit(file string) int {
	root, err := publishTask(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(root)
	return 0
}

func publishTask(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var t killTask
	if err := json.Unmarshal(b, &t); err != nil {
		return "", err
	}
	key, err := seal.ParsePrivkey(t.Key)
	if err != nil {
		return "", err
	}
	client, err := hive.NewClient(t.Hive, t.Token, nil)
	if err != nil {
		return "", err
	}
	st, err := ipfs.NewClient(ipfs.Options{RPC: t.IPFS})
	if err != nil {
		return "", err
	}
	r, err := New(Deps{Store: st, Hive: client, Nodes: t.Nodes, Log: zerolog.Nop()}).Publish(context.Background(),
		Job{Volume: "test", Key: key, Machine: t.Machine, Snapshot: t.Snapshot, Created: time.Unix(1_700_000_000, 0)})
	return r.Base.Root.String(), err
}

// counted counts the bytes of the requests' bodies.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// killRound is a fresh store and Hive, and a process that publishes to them.
type killRound struct {
	t    *testing.T
	file string
	sent *atomic.Int64 // bytes that came to the store
}

func newKillRound(t *testing.T, snapshot string, key seal.Privkey) *killRound {
	t.Helper()
	dir := t.TempDir()
	db, err := hive.NewServer(filepath.Join(dir, "hive.db"), nil, nil)
	check(t, err)
	api := httptest.NewServer(db.Handler())
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: filepath.Join(dir, "node")})
	check(t, err)
	k := &killRound{t: t, file: filepath.Join(dir, "task"), sent: new(atomic.Int64)}
	h := node.Handler()
	blocks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = counted{r.Body, k.sent}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { blocks.Close(); api.Close(); check(t, errors.Join(node.Close(), db.Close())) })
	task := killTask{Key: key.Reveal(), Token: uuid.NewString(), Hive: api.URL, IPFS: blocks.URL, Nodes: filepath.Join(dir, "nodes"), Snapshot: snapshot, Machine: uuid.UUID{7}}
	client, err := hive.NewClient(task.Hive, task.Token, nil)
	check(t, err)
	check(t, client.Create(t.Context(), key.Public()))
	b, err := json.Marshal(task)
	check(t, err)
	check(t, os.WriteFile(k.file, b, 0o600))
	return k
}

// run publishes in a process of its own, which is killed after a while; 0: never. root is empty where it was killed.
func (k *killRound) run(after time.Duration) (root string) {
	k.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killEnv+"="+k.file)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(k.t, cmd.Start())
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
		defer timer.Stop()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if after > 0 && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return ""
	}
	check(k.t, err)
	return out.String()
}

// An uploader that is killed again and again ends with the root of one that was left alone, and sends little twice. FRACTAL_KILLS says how often:
// `make kill-upload` asks for 100.
func TestPublish_KilledAtRandomMoments(t *testing.T) {
	kills := 10
	if s := os.Getenv("FRACTAL_KILLS"); s != "" {
		var err error
		kills, err = strconv.Atoi(s)
		check(t, err)
	}
	v := newVolume(t)
	for i := range 12 {
		v.write(fmt.Sprintf("large/%d", i), noise(uint64(i), 8<<20))
	}
	names(300, func(i int, name string) { v.write(name, noise(uint64(1000+i), 2000+i)) })
	snap := v.snapshot()
	key, err := seal.GeneratePrivkey()
	check(t, err)

	alone := newKillRound(t, snap, key)
	begin := time.Now()
	want := alone.run(0)
	took := time.Since(begin)
	once := alone.sent.Load()
	t.Logf("left alone: %d bytes in %v", once, took)

	const perRound = 10
	done := 0
	var most int64
	for done < kills {
		k := newKillRound(t, snap, key)
		n, got := 0, ""
		for got == "" && n < perRound && done < kills {
			if got = k.run(time.Duration(rand.Int64N(int64(took)))); got == "" {
				n++
				done++
			}
		}
		if got == "" {
			got = k.run(0)
		}
		if got != want {
			t.Fatalf("after %d kills the root is %s, want %s", n, got, want)
		}
		twice := k.sent.Load() - once
		t.Logf("%d kills: %d bytes sent twice", n, twice)
		if n > 0 {
			most = max(most, twice/int64(n))
		}
		// What had arrived of the batches under way is kept in good part.
		if limit := int64(n)*batchBytes + 1<<20; twice > limit {
			t.Errorf("%d bytes sent twice in %d kills, at most %d are meant", twice, n, limit)
		}
	}
	t.Logf("%d kills, at most %d bytes twice a kill in the mean of a round; a batch has %d", done, most, batchBytes)
}
