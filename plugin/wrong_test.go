package plugin

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/plugin/control"
)

// wrongAnswer sends what a call of openapi.yaml is not made for, and returns the status and the error, which may come as the last event of a stream.
func wrongAnswer(t *testing.T, hc *http.Client, method, path, body string) (int, control.Event) {
	t.Helper()
	req, err := http.NewRequestWithContext(bg(t), method, "http://x"+path, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var e control.Event
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &e) // what is no event has no error
	return resp.StatusCode, e
}

// Every call answers what it cannot understand, or what there is none of, with one error that has a code, and changes nothing.
func TestControl_EveryCallRefusesWhatIsWrong(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", x.socket)
	}}}
	_, err := x.client.Create(bg(t), "db", nil)
	must(t, err)
	api := readOpenAPI(t)
	before, err := x.client.List(bg(t))
	must(t, err)
	noBody := map[string]bool{"flush": true, "key": true, "pause": true, "resume": true} // what they are sent is not read
	for _, call := range api.calls {
		method, path, _ := strings.Cut(call, " ")
		refused := func(what, path, body string, want ...int) {
			t.Helper()
			status, e := wrongAnswer(t, hc, method, path, body)
			if !slices.Contains(want, status) || e.Code == "" || e.Code == control.CodeInternal || e.Error == "" || !slices.Contains(api.codes, string(e.Code)) {
				t.Errorf("%s, %s: %d, %q, %q", call, what, status, e.Code, e.Error)
			}
		}
		if strings.Contains(path, "{name}") {
			for _, name := range []string{"unknown", "%2e%2e", "a%2fb", "%00", "%ff", strings.Repeat("n", 300)} {
				refused("name "+name[:min(len(name), 8)], strings.ReplaceAll(path, "{name}", name), "{}", http.StatusBadRequest, http.StatusNotFound)
			}
		}
		here := strings.ReplaceAll(path, "{name}", "db")
		if method == http.MethodPost && !noBody[path[strings.LastIndexByte(path, '/')+1:]] {
			for _, body := range []string{"{", "[]", "5", `{"no such field": 1}`, "{} {}", "\xff"} {
				refused("body "+body, here, body, http.StatusBadRequest)
			}
		}
		if status, _ := wrongAnswer(t, hc, "PATCH", here, ""); status != http.StatusMethodNotAllowed && path != "/metrics" { // which is there where it is asked for
			t.Errorf("PATCH %s: %d", path, status)
		}
	}
	after, err := x.client.List(bg(t))
	must(t, err)
	if len(before) != 1 || len(after) != 1 || after[0].State != before[0].State || len(after[0].Mounts) != 0 {
		t.Errorf("%+v", after)
	}
}
