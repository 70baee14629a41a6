package cli

import (
	"strings"

	"fractal-lazy/seal"

	"github.com/spf13/cobra"
)

// passphraseFlag is --passphrase-file of commands that seal or open keys here, not in the daemon.
func (a *app) passphraseFlag(c *cobra.Command, into *string) {
	c.Flags().StringVar(into, "passphrase-file", "", "file with the passphrase of the sealed key, or - for standard input")
}

// readPassphrase reads a passphrase from a file, or from standard input. It is the user's own file: a pipe will do.
func (a *app) readPassphrase(from string) (*seal.Passphrase, error) {
	text, err := a.readSecretText(from, "Passphrase", "passphrase", seal.MaxPassphrase+2)
	if err != nil {
		return nil, err
	}
	return seal.NewPassphrase([]byte(text))
}

// publicOf returns the public key of a key, which may be sealed: then it is what the sealed key says, and not proved.
func publicOf(text string) (seal.Pubkey, error) {
	if seal.IsSealedKey(text) {
		s, err := seal.ParseSealedKey(text)
		return s.Public(), err
	}
	k, err := seal.ParsePrivkey(text)
	if err != nil {
		return seal.Pubkey{}, err
	}
	return k.Public(), nil
}

// importedKey reads a key, or, with a passphrase, a sealed key.
func (a *app) importedKey(from, pass string) (seal.Privkey, error) {
	text, err := a.readKeyText(from)
	if err != nil {
		return seal.Privkey{}, err
	}
	switch {
	case !seal.IsSealedKey(text):
		if pass != "" {
			return seal.Privkey{}, usageError{"the key is not sealed: leave --passphrase-file out"}
		}
		return seal.ParsePrivkey(text)
	case pass == "":
		return seal.Privkey{}, usageError{"the key is sealed: name the file of its passphrase with --passphrase-file"}
	}
	s, err := seal.ParseSealedKey(text)
	if err != nil {
		return seal.Privkey{}, err
	}
	p, err := a.readPassphrase(pass)
	if err != nil {
		return seal.Privkey{}, err
	}
	return p.OpenKey(s)
}

// sealedOption resolves the value of -o sealed-key: @FILE, - for standard input, or the sealed key itself.
func (a *app) sealedOption(v string) (string, error) {
	if file, ok := strings.CutPrefix(v, "@"); ok {
		return a.readKeyText(file)
	}
	if v == "-" {
		return a.readKeyText(v)
	}
	return v, nil
}
