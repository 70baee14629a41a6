package ipfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/storetest"
)

func serveFunc(t *testing.T, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return srv
}

func TestNewClient_RefusesBadURLs(t *testing.T) {
	for _, u := range []string{"", "127.0.0.1:5001", "ftp://host", "http://", "http://user:geheim@host", "http://host?x=1", "http://host/#x", "http://host\x7f"} {
		for _, opt := range []Options{{RPC: u}, {RPC: "http://host", Gateway: u}} {
			if u == "" && opt.RPC != "" {
				continue // the gateway may be left out
			}
			if _, err := NewClient(opt); err == nil {
				t.Errorf("%q was taken", u)
			} else if strings.Contains(err.Error(), "geheim") {
				t.Errorf("error shows the password: %v", err)
			}
		}
	}
	if _, err := NewClient(Options{RPC: "http://host", Token: "a\r\nX: y"}); err == nil {
		t.Error("a token with a line break was taken")
	}
}

func TestGet_ClassesAnswers(t *testing.T) {
	good, other := storetest.Block("good", 1000), storetest.Block("other", 1000)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"good", func(w http.ResponseWriter, r *http.Request) { w.Write(good.Data) }, nil},
		{"good, no length", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(good.Data)
		}, nil},
		{"other block", func(w http.ResponseWriter, r *http.Request) { w.Write(other.Data) }, store.ErrCorrupt},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, store.ErrCorrupt},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write(good.Data[:500])
		}, store.ErrUnavailable},
		{"announced too large", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "99999999999")
			w.Write(good.Data)
		}, store.ErrTooLarge},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, store.ErrTooLarge},
		{"401", status(401), store.ErrDenied},
		{"403", status(403), store.ErrDenied},
		{"404", status(404), store.ErrNotFound},
		{"410", status(410), store.ErrNotFound},
		{"400", status(400), store.ErrUnavailable},
		{"429", status(429), store.ErrUnavailable},
		{"500", status(500), store.ErrUnavailable},
		{"504", status(504), store.ErrUnavailable},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, store.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openClient(t, Options{RPC: serveFunc(t, c.answer).URL})
			data, err := s.Get(t.Context(), good.CID)
			if !errors.Is(err, c.want) {
				t.Fatalf("error is %v, want %v", err, c.want)
			}
			if err == nil {
				if !bytes.Equal(data, good.Data) {
					t.Fatal("other bytes")
				}
				return
			}
			if !strings.Contains(err.Error(), good.CID.String()) || !strings.Contains(err.Error(), "/ipfs/") {
				t.Errorf("error does not name path and CID: %v", err)
			}
		})
	}
}

// status answers with an error that repeats the token.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "you sent "+r.Header.Get("Authorization"), code)
	}
}

func TestErrors_NeverShowTheToken(t *testing.T) {
	b := storetest.Block("b", 10)
	for name, answer := range map[string]http.HandlerFunc{
		"text": status(500),
		"json": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			fmt.Fprintf(w, `{"Message":"you sent %s","Code":0,"Type":"error"}`, r.Header.Get("Authorization"))
		},
		"trailer": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", streamError)
			fmt.Fprintln(w, "{}")
			w.Header().Set(streamError, "you sent "+r.Header.Get("Authorization"))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other.invalid/"+r.Header.Get("Authorization"), 302)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openClient(t, Options{RPC: serveFunc(t, answer).URL})
			_, getErr := s.Get(t.Context(), b.CID)
			_, hasErr := s.Has(t.Context(), cidsOf(b))
			for _, err := range []error{getErr, hasErr, s.PutMany(t.Context(), storetest.Seq(b)), s.Pin(t.Context(), b.CID)} {
				if err == nil {
					t.Error("no error")
				} else if strings.Contains(err.Error(), testToken) {
					t.Errorf("token in %v", err)
				}
			}
		})
	}
}

func TestRedirect_ToAnotherHostIsNotFollowed(t *testing.T) {
	var asked atomic.Int32
	thief := serveFunc(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	b := storetest.Block("b", 10)
	for _, code := range []int{301, 302, 307, 308} {
		srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL+r.URL.Path, code)
		})
		s := openClient(t, Options{RPC: srv.URL, HTTP: &http.Client{Transport: &http.Transport{}}})
		_, getErr := s.Get(t.Context(), b.CID)
		_, hasErr := s.Has(t.Context(), cidsOf(b))
		for _, err := range []error{getErr, hasErr, s.PutMany(t.Context(), storetest.Seq(b))} {
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%d: error is %v", code, err)
			}
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

func TestRedirect_WithinTheHostIsFollowed(t *testing.T) {
	b := storetest.Block("b", 10)
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/moved") {
			http.Redirect(w, r, "/moved"+r.URL.Path, 302)
			return
		}
		if !withToken(r) {
			t.Error("no token after the redirect")
		}
		w.Write(b.Data)
	})
	if _, err := openClient(t, Options{RPC: srv.URL}).Get(t.Context(), b.CID); err != nil {
		t.Fatal(err)
	}
}

func TestCalls_PassTheContextsError(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	s := openClient(t, Options{RPC: srv.URL})
	b := storetest.Block("b", 10)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	_, getErr := s.Get(short(), b.CID)
	_, hasErr := s.Has(short(), cidsOf(b))
	_, pinnedErr := s.Pinned(short(), b.CID)
	for what, err := range map[string]error{
		"Get": getErr, "Has": hasErr, "Pinned": pinnedErr,
		"PutMany": s.PutMany(short(), storetest.Seq(b)), "Pin": s.Pin(short(), b.CID),
		"PinUpdate": s.PinUpdate(short(), b.CID, b.CID), "Unpin": s.Unpin(short(), b.CID),
	} {
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
}

func TestCalls_ToNobodyAreUnavailable(t *testing.T) {
	s := openClient(t, Options{RPC: "http://" + freeAddr(t)})
	b := storetest.Block("b", 10)
	_, getErr := s.Get(t.Context(), b.CID)
	_, hasErr := s.Has(t.Context(), cidsOf(b))
	for what, err := range map[string]error{
		"Get": getErr, "Has": hasErr,
		"PutMany": s.PutMany(t.Context(), storetest.Seq(b)), "Pin": s.Pin(t.Context(), b.CID), "Unpin": s.Unpin(t.Context(), b.CID),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
}

// A command that a server does not know says nothing of the block.
func TestHas_UnknownCommandIsNoAnswer(t *testing.T) {
	s := openClient(t, Options{RPC: serveFunc(t, http.NotFound).URL})
	if _, err := s.Has(t.Context(), cidsOf(storetest.Block("b", 10))); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("error is %v", err)
	}
}

// An import that fails after it had answered 200 says so in the trailer, or
// ends without its sums.
func TestPutMany_LateFailureIsAnError(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"trailer": func(w http.ResponseWriter) {
			w.Header().Set("Trailer", streamError)
			fmt.Fprintln(w, `{"Stats":{"BlockCount":1,"BlockBytesCount":10}}`)
			w.Header().Set(streamError, "disk full")
		},
		"no sums":    func(w http.ResponseWriter) { w.WriteHeader(200) },
		"no json":    func(w http.ResponseWriter) { fmt.Fprintln(w, "<html>") },
		"pin failed": func(w http.ResponseWriter) { fmt.Fprintln(w, `{"Root":{"Cid":{"/":"x"},"PinErrorMsg":"gone"}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				answer(w)
			})
			err := openClient(t, Options{RPC: srv.URL}).PutMany(t.Context(), storetest.Seq(storetest.Block("b", 10)))
			if !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}

// The sequence is read no faster than the store takes it, and no more of it
// once the store has given up.
func TestPutMany_StopsReadingWhenTheServerFails(t *testing.T) {
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 3<<20)
		http.Error(w, `{"Message":"disk full","Code":0,"Type":"error"}`, 500)
	})
	taken := 0
	err := openClient(t, Options{RPC: srv.URL}).PutMany(t.Context(), func(yield func(store.Block, error) bool) {
		for ; taken < 10000; taken++ {
			if !yield(storetest.Block(fmt.Sprint(taken), 64<<10), nil) {
				return
			}
		}
	})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("error is %v", err)
	}
	if taken > 1000 {
		t.Errorf("%d blocks were taken", taken)
	}
}

func TestGet_ReusesConnections(t *testing.T) {
	const flight, rounds = 32, 20
	b := storetest.Block("b", 64<<10)
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(b.Data) }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := openClient(t, Options{RPC: srv.URL})
	for range rounds {
		var wg sync.WaitGroup
		for range flight {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), b.CID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// A connection more now and then, dialled while another was coming back.
	if n := opened.Load(); n > 2*flight {
		t.Errorf("%d connections for %d gets in flight", n, flight)
	}
}

// Faults on a real connection, in front of a real node.
func TestGet_FaultsAreSeenAndPass(t *testing.T) {
	n, err := OpenNode(NodeOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	var faults faulty.Faults
	srv := httptest.NewServer(faults.Handler(n.Handler()))
	t.Cleanup(srv.Close)
	s := openClient(t, Options{RPC: srv.URL})
	a, b := storetest.Block("a", 100<<10), storetest.Block("b", 100<<10)
	if err := s.PutMany(t.Context(), storetest.Seq(a, b)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fault faulty.Fault
		want  error
	}{
		{faulty.FlipBit(4711), store.ErrCorrupt},
		{faulty.Truncate(1000), store.ErrCorrupt},
		{faulty.Extend([]byte("x")), store.ErrCorrupt},
		{faulty.Swap(b.CID), store.ErrCorrupt},
		{faulty.Replay(), store.ErrCorrupt},
		{faulty.Cut(1000, nil), store.ErrUnavailable},
		{faulty.Fail(store.ErrUnavailable), store.ErrUnavailable},
		{faulty.Status(404, store.ErrNotFound), store.ErrNotFound},
		{faulty.Delay(time.Millisecond), nil},
	} {
		if _, err := s.Get(t.Context(), b.CID); err != nil { // what Replay answers with
			t.Fatal(err)
		}
		rule := faults.Inject(faulty.Rule{CID: a.CID, Fault: c.fault})
		if _, err := s.Get(t.Context(), a.CID); !errors.Is(err, c.want) {
			t.Errorf("error is %v, want %v", err, c.want)
		}
		rule.Lift()
		if data, err := s.Get(t.Context(), a.CID); err != nil || !bytes.Equal(data, a.Data) {
			t.Errorf("after the fault: %v", err)
		}
	}
	if u := faults.Unhit(); len(u) > 0 {
		t.Errorf("never hit: %v", u)
	}
}
