package ipfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// loadIdentity returns the peer id of the node in dir, making one where there
// is none. Tools call `id` to see that a node lives and which one it is.
func loadIdentity(dir string) (string, error) {
	file := filepath.Join(dir, "identity")
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return makeIdentity(file)
	}
	if err != nil {
		return "", err
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	id, err := peer.IDFromPrivateKey(key)
	return id.String(), err
}

func makeIdentity(file string) (string, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return "", err
	}
	if err := writeFileSynced(file, raw, 0o600); err != nil {
		return "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return id.String(), err
}
