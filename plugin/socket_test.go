package plugin

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func rawStatus(t *testing.T, x *served, method, path string) int {
	t.Helper()
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", x.socket)
	}}}
	r, err := http.NewRequest(method, "http://x"+path, bytes.NewReader(nil))
	must(t, err)
	resp, err := hc.Do(r)
	must(t, err)
	resp.Body.Close()
	return resp.StatusCode
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSocket_IsForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(shortDir(t), "a", "b", "x.sock")
	l, err := listen(path)
	must(t, err)
	defer l.Close()
	st, err := os.Lstat(path)
	must(t, err)
	if st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("left beside it: %v", names)
	}
}

func TestSocket_ReplacesOneThatACrashLeft(t *testing.T) {
	path := filepath.Join(shortDir(t), "x.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	dead.Close()
	must(t, os.WriteFile(path+".new", nil, 0o600)) // of a crash half-way
	l, err := listen(path)
	must(t, err)
	defer l.Close()
	c, err := net.Dial("unix", path)
	must(t, err)
	c.Close()
}

func TestSocket_IsNotTakenFromADaemonThatLives(t *testing.T) {
	path := filepath.Join(shortDir(t), "x.sock")
	l, err := listen(path)
	must(t, err)
	defer l.Close()
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "another daemon listens") {
		t.Errorf("got %v", err)
	}
}

func TestSocket_DoesNotReplaceAFile(t *testing.T) {
	path := filepath.Join(shortDir(t), "x.sock")
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file was replaced")
	}
}

func TestSocket_CloseLeavesTheOneOfASuccessor(t *testing.T) {
	path := filepath.Join(shortDir(t), "x.sock")
	l, err := listen(path)
	must(t, err)
	must(t, os.Remove(path)) // what an operator does who believes it dead
	next, err := listen(path)
	must(t, err)
	defer next.Close()
	must(t, l.Close())
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
}
