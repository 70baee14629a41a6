package hive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

// Bounds of one request to the server.
const (
	maxPatch     = 4 << 10
	bodyTimeout  = 20 * time.Second // to receive a body of at most 64 KiB
	storeTimeout = 30 * time.Second // to wait for and do one transaction
)

// Server is the embedded Hive: the Fractal storage API on SQLite. Safe for concurrent use.
//
// Where the API leaves a choice, it takes this one. Only the account that owns a volume may read, change or delete it; another gets
// 403 (and so learns that the volume exists). Creating a volume that the account has already answers 200. Reasons are plain text.
// Lists ascend by generation. Hex digits may be of either case. A parent in another volume is found whoever owns that
// volume: who names its hash has seen the manifest.
type Server struct {
	db     *database
	tokens Tokens
	now    func() time.Time
}

// NewServer opens or creates the database in dbFile, whose folder must exist. A database that a later version of this program has
// made is refused. now, which may be nil, is the clock of the notes on when a row came.
func NewServer(dbFile string, t Tokens, now func() time.Time) (*Server, error) {
	if now == nil {
		now = time.Now
	}
	db, err := openDatabase(dbFile)
	if err != nil {
		return nil, fmt.Errorf("open the Hive's database: %w", err)
	}
	return &Server{db: db, tokens: t, now: now}, nil
}

// Close waits for the transactions that run and closes the database. Requests that come later are answered with 500.
func (s *Server) Close() error {
	if err := s.db.close(); err != nil {
		return fmt.Errorf("close the Hive's database: %w", err)
	}
	return nil
}

// Handler serves /api/v1 and /health. It bounds every body and the time to receive it; how long a connection may idle or take to send
// its headers is for the http.Server to say.
func (s *Server) Handler() http.Handler {
	api := http.NewServeMux()
	owned := func(pattern string, h func(http.ResponseWriter, *http.Request, seal.Pubkey, uuid.UUID) error) {
		method, path, _ := strings.Cut(pattern, " ")
		api.HandleFunc(method+" "+apiPrefix+path, func(w http.ResponseWriter, r *http.Request) {
			account, ok := s.tokens.Account(r)
			if !ok { // the wrapper below has let it in; tokens do not change
				answer(w, denied)
				return
			}
			p, err := seal.ParsePubkey(strings.ToLower(r.PathValue("pubkey")))
			if err != nil {
				answer(w, refuse(http.StatusBadRequest, "the public key in the URL is not 64 hex digits"))
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
			defer cancel()
			if err := h(w, r.WithContext(ctx), p, account); err != nil {
				answer(w, err)
			}
		})
	}
	owned("POST /volume/{pubkey}", s.create)
	owned("GET /volume/{pubkey}", s.volume)
	owned("PATCH /volume/{pubkey}", s.patch)
	owned("DELETE /volume/{pubkey}", s.remove)
	owned("POST /volume/{pubkey}/snapshot", s.post)
	owned("GET /volume/{pubkey}/snapshots", s.list)
	owned("GET /volume/{pubkey}/{hash}", s.manifest)
	owned("DELETE /volume/{pubkey}/{hash}", s.forget) // not in the original API

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc(apiPrefix+"/", func(w http.ResponseWriter, r *http.Request) {
		// Before anything else, so that without a token not even the shape of the API is told apart.
		if _, ok := s.tokens.Account(r); !ok {
			answer(w, denied)
			return
		}
		api.ServeHTTP(w, r)
	})
	return mux
}

// refusal is an error that a client may read, with its status.
type refusal struct {
	status int
	reason string
}

func (e *refusal) Error() string { return e.reason }

func refuse(status int, format string, args ...any) error {
	return &refusal{status: status, reason: fmt.Sprintf(format, args...)}
}

var denied = &refusal{status: http.StatusUnauthorized, reason: "no valid bearer token"}

// answer writes an error. What is not a refusal is a failure of the database; its text names no key and is the only trace there is.
func answer(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{status: http.StatusInternalServerError, reason: "the Hive's storage failed: " + err.Error()}
	}
	if r.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, r.reason, r.status)
}

func answerJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b) // an error here is the client's: it went away
	return nil
}

// readBody reads a body of at most most bytes; a client that dribbles is cut off.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	// Not every ResponseWriter has deadlines; the bound on the size stands without them.
	if err := rc.SetReadDeadline(time.Now().Add(bodyTimeout)); err == nil {
		defer rc.SetReadDeadline(time.Time{})
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", most)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the body did not arrive as a whole")
	}
	return b, nil
}
