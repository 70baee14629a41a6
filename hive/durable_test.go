package hive

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

func TestServer_OfTwoMachinesExactlyOneGetsAGeneration(t *testing.T) {
	b := newBench(t, twoAccounts())
	ctx := context.Background()
	c := b.client(tokenA)
	for round := range 10 {
		k := newKey(t)
		if err := c.Create(ctx, k.Public()); err != nil {
			t.Fatal(err)
		}
		// Two machines, four tries each, none of them equal: one may win, and only one.
		var won []Hash
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				m := first([]uuid.UUID{machine1, machine2}[i%2], 1)
				m.Creation += uint64(i)
				h, err := c.Post(ctx, k.Public(), m.Sign(k))
				if err != nil && !errors.Is(err, ErrRejected) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					won = append(won, h)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		list, err := c.Snapshots(ctx, k.Public(), nil, false)
		if err != nil || len(won) != 1 || len(list) != 1 || list[0] != won[0] {
			t.Fatalf("round %d: %d won, %d stored, %v", round, len(won), len(list), err)
		}
	}
}

func TestServer_ManyVolumesAtOnce(t *testing.T) {
	b := newBench(t, twoAccounts())
	ctx := context.Background()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			c := b.client(tokenA)
			k := newKey(t)
			if err := c.Create(ctx, k.Public()); err != nil {
				t.Error(err)
				return
			}
			m := first(machine1, 1)
			for range 10 {
				if _, err := c.Post(ctx, k.Public(), m.Sign(k)); err != nil {
					t.Error(err)
				}
				got, err := c.Latest(ctx, k.Public())
				if err != nil || got.Hash() != m.Hash() {
					t.Error(err)
				}
				m = next(m)
			}
		})
	}
	wg.Wait()
}

func TestServer_RestartKeepsEverything(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hive #1?.db")
	k := newKey(t)
	ctx := context.Background()
	m := first(machine1, 1)
	for round := range 4 {
		srv, err := NewServer(file, twoAccounts(), nil)
		if err != nil {
			t.Fatal(err)
		}
		hs := httptest.NewServer(srv.Handler())
		c, err := NewClient(hs.URL, tokenA, nil)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := c.Create(ctx, k.Public()); err != nil {
				t.Fatal(err)
			}
		} else {
			all, err := c.All(ctx, k.Public())
			if err != nil || len(all) != round {
				t.Fatalf("round %d: %d manifests, %v", round, len(all), err)
			}
			v, err := c.Volume(ctx, k.Public())
			if err != nil || v.Account != accountA || v.Writer == nil || *v.Writer != machine1 {
				t.Fatal(v, err)
			}
			m = next(all[round-1])
		}
		if _, err := c.Post(ctx, k.Public(), m.Sign(k)); err != nil {
			t.Fatal(err)
		}
		hs.Close()
		if err := srv.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the database is not where it was asked for, or readable for others: %v %v", fi, err)
	}
}

func TestNewServer_RefusesALaterSchemaAndWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	later := filepath.Join(dir, "later.db")
	srv, err := NewServer(later, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", later)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 4"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(later, nil, nil); err == nil || !strings.Contains(err.Error(), "schema version 4") {
		t.Errorf("a later schema: %v", err)
	}
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(junk, nil, nil); err == nil {
		t.Error("junk was taken for a database")
	}
	if _, err := NewServer(filepath.Join(dir, "no", "folder", "x.db"), nil, nil); err == nil {
		t.Error("a folder was made up")
	}
}

// crashEnv tells this test binary to be the server of TestServer_KilledWhilePosting.
const crashEnv = "FRACTAL_HIVE_CRASH_TEST_DB"

func TestMain(m *testing.M) {
	if file := os.Getenv(crashEnv); file != "" {
		serveUntilKilled(file)
	}
	os.Exit(m.Run())
}

func serveUntilKilled(file string) {
	srv, err := NewServer(file, nil, nil)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("http://" + l.Addr().String())
	http.Serve(l, srv.Handler())
}

// startServer runs the server in a process of its own and returns its URL.
func startServer(t *testing.T, file string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if url := strings.TrimSpace(line); err == nil && strings.HasPrefix(url, "http://") {
		return cmd, url
	}
	cmd.Process.Kill()
	cmd.Wait()
	t.Fatalf("the server did not start: %q %v", line, err)
	return nil, ""
}

func TestServer_KilledWhilePostingKeepsWhatItAnswered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hive.db")
	k := newKey(t)
	token := accountA.String()
	var answered []*Manifest
	for round := range 5 {
		cmd, url := startServer(t, file)
		c, err := NewClient(url, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		answered = append(answered, postUntilKilled(t, ctx, c, k, round, answered, cmd)...)
		cancel()
	}
	if len(answered) < 10 {
		t.Errorf("only %d manifests were accepted: this proves little", len(answered))
	}
	cmd, url := startServer(t, file)
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	c, err := NewClient(url, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range answered {
		if _, err := c.Manifest(context.Background(), k.Public(), m.Hash()); err != nil {
			t.Errorf("generation %d was accepted and is lost: %v", m.Generation, err)
		}
	}
}

// postUntilKilled posts a chain and kills the server at a moment of its own; it returns what was accepted.
func postUntilKilled(t *testing.T, ctx context.Context, c *Client, k seal.Privkey, round int, before []*Manifest, cmd *exec.Cmd) (accepted []*Manifest) {
	t.Helper()
	if err := c.Create(ctx, k.Public()); err != nil {
		t.Fatal(err)
	}
	m := first(machine1, 1)
	if len(before) > 0 {
		latest, err := c.Latest(ctx, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if last := before[len(before)-1]; latest.Generation < last.Generation {
			t.Fatalf("round %d: generation %d was accepted, the latest is %d", round, last.Generation, latest.Generation)
		}
		m = next(latest)
	}
	killed := make(chan error, 1)
	time.AfterFunc(time.Duration(80+37*round)*time.Millisecond, func() { killed <- cmd.Process.Kill() })
	for {
		_, err := c.Post(ctx, k.Public(), m.Sign(k))
		if err != nil {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("a dead server: %v", err)
			}
			break
		}
		accepted = append(accepted, m)
		m = next(m)
	}
	if err := <-killed; err != nil {
		t.Error(err)
	}
	cmd.Wait() // says that it was killed
	return accepted
}
