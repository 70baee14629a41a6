package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"sort"
	"strings"
)

// FileName is the file under the root that names remotes.
const FileName = "remotes.json"

const maxFile = 64 << 10 // bytes

// Errors of this package.
var (
	// ErrUnknown: no remote has this name; the message lists those that there are.
	ErrUnknown = errors.New("no such remote")
	// ErrFile: remotes.json is not as it should be.
	ErrFile = errors.New("wrong remotes.json")
	// ErrConnect: the other machine cannot be reached, or refused us.
	ErrConnect = errors.New("remote cannot be reached")
)

// Place is one remote of the file.
type Place struct {
	Hive    string `json:"hive"`
	IPFS    string `json:"ipfs"`
	Gateway string `json:"gateway,omitempty"` // empty: IPFS
	Token   string `json:"token,omitempty"`   // or @FILE
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// IsSSH tells whether a remote is another machine through ssh.
func IsSSH(name string) bool { return strings.HasPrefix(name, scheme) }

// SSH is the remote of a host.
func SSH(host string) string { return scheme + host }

// CheckName refuses what can be no remote: neither a name nor ssh://[user@]host[:port].
func CheckName(name string) error {
	if IsSSH(name) {
		_, err := parseHost(name)
		return err
	}
	if !validName.MatchString(name) {
		return fmt.Errorf("%w: %.64q: use a name of %s, or ssh://[user@]host[:port]", ErrUnknown, name, FileName)
	}
	return nil
}

// Find returns the remote that the file at path names so.
func Find(path, name string) (Place, error) {
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Place{}, fmt.Errorf("%w: %q: there is no %s; docs/OPERATIONS.md shows one", ErrUnknown, name, path)
	}
	if err != nil {
		return Place{}, fmt.Errorf("%w: %s: %w", ErrFile, path, err)
	}
	all, err := decode(b)
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", path, err)
	}
	p, ok := all[name]
	if !ok {
		var names []string
		for n := range all {
			names = append(names, n)
		}
		sort.Strings(names)
		return Place{}, fmt.Errorf("%w: %q is none of those in %s: %s", ErrUnknown, name, path, strings.Join(names, ", "))
	}
	if file, ok := strings.CutPrefix(p.Token, "@"); ok {
		t, err := readFile(file)
		if err != nil {
			return Place{}, fmt.Errorf("%w: token of remote %s: %w", ErrFile, name, err)
		}
		p.Token = strings.TrimSpace(string(t))
	}
	return p, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("longer than %d bytes", maxFile)
	}
	return b, err
}

// decode reads a remotes.json strictly. Its errors quote nothing of it: it holds tokens.
func decode(b []byte) (map[string]Place, error) {
	var f struct {
		Version int              `json:"version"`
		Remotes map[string]Place `json:"remotes"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: not the JSON that is expected: {\"version\": 1, \"remotes\": {NAME: {\"hive\": URL, \"ipfs\": URL, \"token\": \"@FILE\"}}}", ErrFile)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes behind its end", ErrFile)
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("%w: version %d, this program knows 1", ErrFile, f.Version)
	}
	for name, p := range f.Remotes {
		switch {
		case !validName.MatchString(name):
			return nil, fmt.Errorf("%w: %.64q is no name", ErrFile, name)
		case p.Hive == "" || p.IPFS == "":
			return nil, fmt.Errorf("%w: remote %s needs hive and ipfs", ErrFile, name)
		}
	}
	return f.Remotes, nil
}
