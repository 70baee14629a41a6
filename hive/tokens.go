package hive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/google/uuid"
)

const (
	maxTokensFile = 1 << 20
	maxToken      = 4096 // characters
)

// Tokens maps a bearer token to its account. Nil is not the empty map: with nil any UUID is a token and its own account, which is
// for a Hive that listens on loopback only; with the empty map nobody is let in.
type Tokens map[string]uuid.UUID

// LoadTokens reads a file of lines "TOKEN ACCOUNT-UUID"; empty lines and those that begin with # are left out. Several tokens may
// stand for one account. A token has at most 4096 visible ASCII characters; whoever writes the
// file sees to it that none can be guessed. Errors name the line and never the token. The
// result is never nil.
func LoadTokens(file string) (Tokens, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("load tokens: %w", err)
	}
	defer f.Close()
	t := Tokens{}
	sc := bufio.NewScanner(io.LimitReader(f, maxTokensFile+1))
	read := 0
	for n := 1; sc.Scan(); n++ {
		if read += len(sc.Bytes()) + 1; read > maxTokensFile {
			return nil, fmt.Errorf("load tokens: %s is longer than %d bytes", file, maxTokensFile)
		}
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		token, account, err := parseTokenLine(line)
		if err != nil {
			return nil, fmt.Errorf("load tokens: %s line %d: %w", file, n, err)
		}
		if _, twice := t[token]; twice {
			return nil, fmt.Errorf("load tokens: %s line %d: the token stands there twice", file, n)
		}
		t[token] = account
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("load tokens: %s: %w", file, err)
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("load tokens: %s holds none", file)
	}
	return t, nil
}

func parseTokenLine(line string) (string, uuid.UUID, error) {
	fields := strings.Fields(line)
	if len(fields) != 2 {
		return "", uuid.Nil, errors.New("not of the form TOKEN ACCOUNT-UUID")
	}
	token := fields[0]
	if len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", uuid.Nil, fmt.Errorf("a token has at most %d visible ASCII characters", maxToken)
	}
	account, err := parseUUID(fields[1])
	if err != nil {
		return "", uuid.Nil, errors.New("the account is not a UUID")
	}
	return token, account, nil
}

// Account returns the account that a request's bearer token stands for.
func (t Tokens) Account(r *http.Request) (uuid.UUID, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(token) > maxToken {
		return uuid.Nil, false
	}
	if t == nil {
		account, err := parseUUID(token)
		return account, err == nil
	}
	// A map compares whole strings under a hash seeded anew in each process, so the time it takes says nothing of a prefix.
	account, ok := t[token]
	return account, ok
}

// parseUUID takes the one usual form, 36 characters of either case; uuid.Parse would take braces and URNs too, and so make
// several tokens of one.
func parseUUID(s string) (uuid.UUID, error) {
	if len(s) != 36 {
		return uuid.Nil, errors.New("not a UUID")
	}
	return uuid.Parse(s)
}
