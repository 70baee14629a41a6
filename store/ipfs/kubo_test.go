package ipfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

// kubo is a Kubo daemon of its own, on the loopback interface, without peers.
type kubo struct{ rpc, gateway string }

const noKubo = "NOT RUN: needs a real Kubo daemon. Build one from github.com/ipfs/kubo (go build ./cmd/ipfs) and set KUBO to the binary."

// startKubo makes a repository and starts a daemon on it; online is whether
// it looks for blocks with peers (of which it has none).
func startKubo(t testing.TB, online bool) kubo {
	t.Helper()
	bin := os.Getenv("KUBO")
	if bin == "" {
		t.Skip(noKubo)
	}
	repo := filepath.Join(t.TempDir(), "kubo")
	env := append(os.Environ(), "IPFS_PATH="+repo)
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(bin, args...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ipfs %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	rpc, gateway := freeAddr(t), freeAddr(t)
	run("init", "--profile", "test")
	run("bootstrap", "rm", "--all")
	for key, value := range map[string]string{
		"Addresses.API":     `"` + multiaddr(rpc) + `"`,
		"Addresses.Gateway": `"` + multiaddr(gateway) + `"`,
		"Addresses.Swarm":   `["/ip4/127.0.0.1/tcp/0"]`,
		"Routing.Type":      `"none"`,
		"Gateway.NoFetch":   "true",
		"Swarm.RelayClient": `{"Enabled": false}`,
		"Swarm.Transports":  `{"Network": {"Relay": false}}`,
		"Provide.Enabled":   "false",
		"API.Authorizations": fmt.Sprintf(
			`{"test": {"AuthSecret": "bearer:%s", "AllowedPaths": ["/api/v0"]}}`, testToken),
	} {
		run("config", "--json", key, value)
	}
	args := []string{"daemon", "--enable-gc=false", "--migrate=false"}
	if !online {
		args = append(args, "--offline")
	}
	daemon := exec.Command(bin, args...)
	daemon.Env = env
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	daemon.Stderr = daemon.Stdout
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	ready := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), "Daemon is ready") {
				close(ready)
			}
		}
	})
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		wg.Wait()
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("kubo said:\n%s", log.String())
		}
	})
	select {
	case <-ready:
	case <-time.After(time.Minute):
		t.Fatal("kubo did not start within a minute")
	}
	return kubo{rpc: "http://" + rpc, gateway: "http://" + gateway}
}

func (k kubo) client(t testing.TB) store.Store {
	return openClient(t, Options{RPC: k.rpc, Gateway: k.gateway, PinStall: 2 * time.Second})
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func multiaddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "/ip4/" + host + "/tcp/" + port
}

func TestKubo_StoreOffline(t *testing.T) {
	k := startKubo(t, false)
	storetest.Run(t, func(t *testing.T) store.Store { return k.client(t) })
}

func TestKubo_StoreOnline(t *testing.T) {
	k := startKubo(t, true)
	storetest.Run(t, func(t *testing.T) store.Store { return k.client(t) })
}

// Under this name Kubo's gateway sends browsers to a subdomain for each CID.
func TestKubo_GatewayCalledLocalhost(t *testing.T) {
	k := startKubo(t, false)
	k.gateway = strings.Replace(k.gateway, "127.0.0.1", "localhost", 1)
	s, b := k.client(t), storetest.Block("b", 100)
	if err := s.PutMany(t.Context(), storetest.Seq(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.CID); err != nil {
		t.Fatal(err)
	}
}

func TestKubo_RefusesWrongToken(t *testing.T) {
	k := startKubo(t, false)
	s := openClient(t, Options{RPC: k.rpc, Gateway: k.gateway, Token: "another"})
	wantDenied(t, s)
}

// The answers that clients read are the same at the node as at a daemon.
func TestKubo_NodeAnswersAlike(t *testing.T) {
	k := startKubo(t, false)
	_, srv := openNode(t, t.TempDir())
	leaf, missing := storetest.Block("leaf", 100), storetest.Block("missing", 100)
	root, hole := storetest.Node("root", leaf.CID), storetest.Node("hole", missing.CID)
	for _, s := range []store.Store{k.client(t), openClient(t, Options{RPC: srv.URL})} {
		if err := s.PutMany(t.Context(), storetest.Seq(leaf, root, hole)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{
		"block/stat?arg=" + leaf.CID.String(),
		"block/stat?offline=true&arg=" + missing.CID.String(),
		"block/get?arg=" + leaf.CID.String(),
		"block/get?offline=true&arg=" + missing.CID.String(),
		"pin/ls?type=recursive&arg=" + root.CID.String(),
		"pin/rm?arg=" + root.CID.String(),
		"pin/update?unpin=false&arg=" + root.CID.String() + "&arg=" + hole.CID.String(),
		"pin/add?arg=" + hole.CID.String(),
		"pin/add?arg=" + root.CID.String(),
		"pin/ls?type=recursive&arg=" + root.CID.String(),
		"pin/ls?type=recursive&stream=true&arg=" + root.CID.String(),
		"pin/update?unpin=false&arg=" + root.CID.String() + "&arg=" + hole.CID.String(),
		"pin/update?unpin=false&arg=" + root.CID.String() + "&arg=" + root.CID.String(),
		"pin/rm?arg=" + root.CID.String(),
		"nothing/such",
	} {
		want, got := post(t, k.rpc, path), post(t, srv.URL, path)
		t.Logf("%s\n  kubo: %s\n  node: %s", path, want, got)
		if want != got {
			t.Errorf("%s differs", path)
		}
	}
}

// post returns the status and the body of a call, JSON with its keys sorted.
func post(t *testing.T, base, path string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, base+"/api/v0/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer := fmt.Sprint(res.StatusCode, " ", res.Header.Get("Content-Type"))
	var lines []string
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		line := in.Text()
		var v any
		if json.Unmarshal(in.Bytes(), &v) == nil {
			sorted, _ := json.Marshal(v)
			line = string(sorted)
		}
		lines = append(lines, fmt.Sprintf("%.300q", line))
	}
	return answer + " " + strings.Join(lines, " | ")
}

func wantDenied(t *testing.T, s store.Store) {
	t.Helper()
	b := storetest.Block("denied", 100)
	many := func(yield func(store.Block, error) bool) { // more than any buffer holds
		for i := range 100 {
			if !yield(storetest.Block(fmt.Sprint("denied", i), 256<<10), nil) {
				return
			}
		}
	}
	_, hasErr := s.Has(t.Context(), cidsOf(b))
	_, pinnedErr := s.Pinned(t.Context(), b.CID)
	for what, err := range map[string]error{
		"Has":       hasErr,
		"Pinned":    pinnedErr,
		"PutMany":   s.PutMany(t.Context(), many),
		"Pin":       s.Pin(t.Context(), b.CID),
		"PinUpdate": s.PinUpdate(t.Context(), b.CID, b.CID),
		"Unpin":     s.Unpin(t.Context(), b.CID),
	} {
		if !errors.Is(err, store.ErrDenied) {
			t.Errorf("%s: error is %v, want %v", what, err, store.ErrDenied)
		}
	}
}
