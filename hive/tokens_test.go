package hive

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func tokensFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadTokens_ReadsLinesAndComments(t *testing.T) {
	tokens, err := LoadTokens(tokensFile(t, "# ours\n\n  "+tokenA+"\t"+accountA.String()+"  \n#"+tokenB+" x\nsecond "+accountA.String()+"\r\n"))
	if err != nil || len(tokens) != 2 || tokens[tokenA] != accountA || tokens["second"] != accountA {
		t.Fatal(len(tokens), err)
	}
}

func TestLoadTokens_RefusesBadFilesWithoutShowingAToken(t *testing.T) {
	good := tokenA + " " + accountA.String() + "\n"
	for name, c := range map[string]struct{ text, reason string }{
		"empty":         {"", "holds none"},
		"only comments": {"# nothing\n", "holds none"},
		"no account":    {good + tokenB + "\n", "line 2: not of the form"},
		"three fields":  {tokenB + " " + accountB.String() + " x\n", "line 1: not of the form"},
		"bad account":   {tokenB + " account\n", "line 1: the account is not a UUID"},
		"twice":         {good + "\n" + good, "line 3: the token stands there twice"},
		"not ASCII":     {"tökenb " + accountB.String(), "line 1: a token has"},
		"long token":    {strings.Repeat("x", 4097) + " " + accountB.String(), "line 1: a token has"},
		"long line":     {strings.Repeat("x", 1<<17), "token too long"},
		"long file":     {strings.Repeat("# comment\n", 200_000), "longer than"},
	} {
		_, err := LoadTokens(tokensFile(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), tokenA) || strings.Contains(err.Error(), tokenB) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadTokens(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(unwrapAll(err)) {
		t.Error(err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

func TestTokens_AccountOfARequest(t *testing.T) {
	for _, c := range []struct {
		tokens Tokens
		header string
		ok     bool
	}{
		{twoAccounts(), "Bearer " + tokenA, true},
		{twoAccounts(), "bearer " + tokenA, true},
		{twoAccounts(), "Bearer  " + tokenA, false},
		{twoAccounts(), "Basic " + tokenA, false},
		{twoAccounts(), tokenA, false},
		{twoAccounts(), "Bearer " + accountA.String(), false},
		{twoAccounts(), "", false},
		{Tokens{}, "Bearer " + accountA.String(), false},
		{nil, "Bearer " + accountA.String(), true},
		{nil, "Bearer urn:uuid:" + accountA.String(), false},
		{nil, "Bearer ", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", c.header)
		account, ok := c.tokens.Account(r)
		if ok != c.ok || (ok && account != accountA) {
			t.Errorf("%v %q: %v %v", c.tokens != nil, c.header, account, ok)
		}
	}
}
