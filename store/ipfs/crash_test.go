package ipfs

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

const crashDir = "FRACTAL_TEST_CRASH_DIR"

// TestMain lets this binary be the node that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func serveUntilKilled(dir string) {
	n, err := OpenNode(NodeOptions{Dir: dir})
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
	_ = http.Serve(l, n.Handler())
}

// startNode starts a node in a process of its own.
func startNode(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("the node did not start: %s%v", line, err)
	}
	return strings.TrimSpace(line), kill
}

// A node is killed with -9 while it takes imports and pins, again and again;
// whatever it has acknowledged is there afterwards.
func TestNode_KeepsWhatItAcknowledgedWhenKilled(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var acked, pinned []store.Block
	for round := range 6 {
		url, kill := startNode(t, dir)
		s := openClient(t, Options{RPC: url})
		check(t, s, round, acked, pinned)

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					var blocks []store.Block
					for j := range 20 {
						blocks = append(blocks, storetest.Block(fmt.Sprint(round, w, i, j), 20_000))
					}
					root := storetest.Node(fmt.Sprint(round, w, i), cidsOf(blocks...)...)
					blocks = append(blocks, root)
					if s.PutMany(ctx, storetest.Seq(blocks...)) != nil {
						return
					}
					mu.Lock()
					acked = append(acked, blocks...)
					mu.Unlock()
					if s.Pin(ctx, root.CID) != nil {
						return
					}
					mu.Lock()
					pinned = append(pinned, root)
					mu.Unlock()
				}
			})
		}
		// At a different point of the work each time, once some is done.
		before := len(pinned)
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			mu.Lock()
			done := len(pinned) - before
			mu.Unlock()
			if done >= 3+round {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(7*round) * time.Millisecond)
		kill()
		cancel()
		wg.Wait()
	}
	if len(acked) == 0 || len(pinned) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	url, _ := startNode(t, dir)
	check(t, openClient(t, Options{RPC: url}), 6, acked, pinned)
	t.Logf("%d blocks and %d pins acknowledged over 6 kills", len(acked), len(pinned))
}

func check(t *testing.T, s store.Store, round int, acked, pinned []store.Block) {
	t.Helper()
	for _, b := range acked {
		if _, err := s.Get(t.Context(), b.CID); err != nil {
			t.Fatalf("after %d kills: %v", round, err)
		}
	}
	for _, b := range pinned {
		if ok, err := s.Pinned(t.Context(), b.CID); err != nil || !ok {
			t.Fatalf("after %d kills: %s is pinned: %v, %v", round, b.CID, ok, err)
		}
	}
}
