package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// followEnv makes the test binary a standby: the URLs of a Hive and of a block store, the Hive's token, and the volume's key.
const followEnv = "FRACTAL_VOLUME_TEST_FOLLOW"

// childFollows synchronizes volume "db" once.
func childFollows(root, env string) {
	f := strings.Fields(env)
	h, err := hive.NewClient(f[0], f[2], nil)
	var m *Manager
	if err == nil {
		m, err = Open(context.Background(), Deps{Log: zerolog.New(os.Stderr), Hive: h, Store: webStore{url: f[1]}}, Options{Root: root, Interval: -1})
	}
	if err == nil {
		err = m.Create(context.Background(), "db", map[string]string{"privkey": f[3], "takeover": "always"})
		if errors.Is(err, ErrExists) {
			err = nil
		}
	}
	if err == nil {
		_, err = m.Synchronize(context.Background(), "db", "all", nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// webStore reads the block store of the test's process.
type webStore struct {
	store.Store
	url string
}

func (s webStore) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/"+c.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		err = store.Verify(c, b)
	}
	return b, err
}

// TestSynchronize_KilledAtEachStep: a process that is killed with so many blocks on their way leaves a volume that the next one brings up to date, without
// anything set aside, and that a mount shows as it was published.
func TestSynchronize_KilledAtEachStep(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	var left atomic.Int64
	var child atomic.Pointer[os.Process]
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if left.Add(-1) == 0 {
			child.Load().Kill()
			return
		}
		c, err := cid.Decode(path.Base(r.URL.Path))
		if err == nil {
			var b []byte
			if b, err = w.store.Get(r.Context(), c); err == nil {
				rw.Write(b)
				return
			}
		}
		http.Error(rw, err.Error(), http.StatusNotFound)
	}))
	defer web.Close()
	root := filepath.Join(w.dir, "b")
	must(t, os.Mkdir(root, 0o755))
	env := strings.Join([]string{w.url, web.URL, w.token, a.key("db")}, " ")
	follow := func(kill int64) (killed bool) {
		t.Helper()
		left.Store(kill)
		r, wr, err := os.Pipe()
		must(t, err)
		cmd := exec.Command("sh", "-c", `read go; exec "$0"`, os.Args[0]) // whom to kill is known before it asks for anything
		cmd.Env = append(os.Environ(), childEnv+"="+root, followEnv+"="+env)
		cmd.Stdin, cmd.Stderr = r, newSink(t, "child")
		must(t, cmd.Start())
		child.Store(cmd.Process)
		r.Close()
		fmt.Fprintln(wr, "go")
		wr.Close()
		err = cmd.Wait()
		if err != nil && cmd.ProcessState.Exited() {
			t.Fatalf("the child failed: %v", err)
		}
		return err != nil
	}
	generation := 1
	for _, kill := range []int64{1, 2, 5, 10, 15} { // of the first pull, until it is whole: the root, directories, small files, windows
		if !follow(kill) {
			t.Errorf("not killed at %d", kill)
		}
	}
	for kill := int64(1); ; kill++ {
		if kill > 1 {
			generation++
			a.change(dir, generation)
		}
		killed := follow(kill)
		b := w.machine("b")
		s := b.synchronize("all")
		i := b.info("db")
		if !s.Complete || s.Generation != uint64(generation) || len(i.Divergent) > 0 || i.Unpublished > 0 {
			t.Fatalf("killed at %d: %+v, %+v", kill, s, i)
		}
		v := b.vols["db"]
		if got, want := sums(t, v.data()), sums(t, dir); got != want {
			t.Fatalf("killed at %d: got %s\nwant %s", kill, got, want)
		}
		if v.has(v.next()) {
			t.Errorf("killed at %d: data.new stays", kill)
		}
		b.vanish()
		if !killed && kill > 1 {
			break
		}
	}
	if generation < 4 {
		t.Errorf("only %d pulls were killed", generation-1)
	}
	generation++
	a.change(dir, generation)
	want := sums(t, dir)
	if !follow(4) {
		t.Error("not killed before the mount")
	}
	a.vanish()
	b := w.machine("b")
	if got := sums(t, b.mount("db", "1")); got != want {
		t.Errorf("mounted: got %s\nwant %s", got, want)
	}
	if i := b.info("db"); len(i.Divergent) > 0 || i.Generation != uint64(generation) {
		t.Errorf("%+v", i)
	}
}
