package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"fractal-lazy/seal"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Make, show, export and import volume keys",
		a.keyGenerate(), a.keyPubkey(), a.keySecret(), a.keyExport(), a.keyImport())
}

func (a *app) keyGenerate() *cobra.Command {
	return &cobra.Command{
		Use:     "generate",
		Short:   "Print a new private key, as base64",
		Example: `  (umask 077; fractal-lazy key generate > db.key)`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			k, err := seal.GeneratePrivkey()
			if err != nil {
				return err
			}
			return a.print(keyJSON{Privkey: k.Reveal(), Pubkey: k.Public().String()}, func(w io.Writer) { fmt.Fprintln(w, k.Reveal()) })
		},
	}
}

type keyJSON struct {
	Privkey string `json:"privkey,omitempty"`
	Pubkey  string `json:"pubkey,omitempty"`
	Secret  string `json:"secret,omitempty"`
	// SealedKey is the Privkey, sealed with a passphrase.
	SealedKey string `json:"sealed_key,omitempty"`
}

func (a *app) keyPubkey() *cobra.Command {
	return &cobra.Command{
		Use:     "pubkey [FILE|-]",
		Short:   "Print the public key of a private key, as hex",
		Long:    "Reads a private key (hex, base64 or base32, or sealed) from FILE, or from standard input, and prints its public key: the volume's name at the Hive.",
		Example: `  fractal-lazy key pubkey db.key`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := a.readKeyText(first(args))
			if err != nil {
				return err
			}
			pub, err := publicOf(text)
			if err != nil {
				return err
			}
			return a.print(keyJSON{Pubkey: pub.String()}, func(w io.Writer) { fmt.Fprintln(w, pub) })
		},
	}
}

func (a *app) keySecret() *cobra.Command {
	return &cobra.Command{
		Use:   "secret [FILE|-]",
		Short: "Print the secret of a private key, as base64: it reads the volume and cannot sign for it",
		Long: `Reads a private key (hex, base64 or base32) from FILE, or from standard input, and prints its secret. Who has the secret can read every block of the volume
but cannot publish.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := a.readKey(args)
			if err != nil {
				return err
			}
			s := k.RevealSecret()
			text := base64.StdEncoding.EncodeToString(s[:])
			return a.print(keyJSON{Secret: text}, func(w io.Writer) { fmt.Fprintln(w, text) })
		},
	}
}

func (a *app) keyExport() *cobra.Command {
	var pass string
	c := &cobra.Command{
		Use:   "export VOLUME",
		Short: "Print the private key of a volume, as base64, or sealed with a passphrase",
		Long: `Prints the private key of a volume. Who has it can read the volume, publish as it, and mount it anywhere: keep a copy where a fire does not reach both.

With --passphrase-file it prints the key sealed with the passphrase in that file: one word that may stand in a compose file, and is worth nothing without the
passphrase. A passphrase that can be guessed is none: take six random words or more.`,
		Example: `  (umask 077; fractal-lazy key export db > db.key)
  fractal-lazy key export db --passphrase-file /etc/fractal/passphrase > db.sealed`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := a.client().KeyExport(c.Context(), args[0])
			if err != nil {
				return err
			}
			if pass == "" {
				return a.print(keyJSON{Privkey: k}, func(w io.Writer) { fmt.Fprintln(w, k) })
			}
			p, err := a.readPassphrase(pass)
			if err != nil {
				return err
			}
			key, err := seal.ParsePrivkey(k)
			if err != nil {
				return err
			}
			s, err := p.SealKey(key)
			if err != nil {
				return err
			}
			return a.print(keyJSON{SealedKey: s.Reveal(), Pubkey: s.Public().String()}, func(w io.Writer) { fmt.Fprintln(w, s.Reveal()) })
		},
	}
	a.passphraseFlag(c, &pass)
	return c
}

func (a *app) keyImport() *cobra.Command {
	var options []string
	var pass string
	c := &cobra.Command{
		Use:   "import NAME [FILE|-]",
		Short: "Make a volume with the private key in FILE, or on standard input",
		Long: "Makes the volume NAME here with a private key read from FILE, or from standard input. It is `volume create NAME -o privkey=...`.\n" +
			"A sealed key wants the file of its passphrase.\n\n" + optionsHelp,
		Example: `  fractal-lazy key import db < db.key
  fractal-lazy key import db db.sealed --passphrase-file /etc/fractal/passphrase`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := a.parseOptions(options)
			if err != nil {
				return usage(c, err)
			}
			for _, name := range []string{"privkey", "privkey-file", "sealed-key", "passphrase-file"} {
				if _, twice := opts[name]; twice {
					return usage(c, fmt.Errorf("the key comes from FILE or standard input, not from -o %s", name))
				}
			}
			from := first(args[1:])
			if from == "-" && pass == "-" {
				return usage(c, errors.New("the key and the passphrase cannot both come from standard input: name the file of one"))
			}
			k, err := a.importedKey(from, pass)
			if err != nil {
				return err
			}
			opts["privkey"] = k.Reveal()
			return a.createVolume(c.Context(), args[0], opts)
		},
	}
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "KEY=VALUE, as often as needed")
	a.passphraseFlag(c, &pass)
	return c
}

// first is the one argument, or "-".
func first(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return "-"
}

// readKey reads the key from the file that the one argument names, or from standard input. The argument may be the key itself.
func (a *app) readKey(args []string) (seal.Privkey, error) {
	text, err := a.readKeyText(first(args))
	if err != nil {
		return seal.Privkey{}, err
	}
	return seal.ParsePrivkey(text)
}

// keyOption resolves the value of -o privkey: @FILE, - for standard input, or the key itself, which then shows in the list of
// processes.
func (a *app) keyOption(v string) (string, error) {
	if file, ok := strings.CutPrefix(v, "@"); ok {
		return a.readKeyText(file)
	}
	if v == "-" {
		return a.readKeyText(v)
	}
	a.warnOfArgument()
	return v, nil
}

// warnOfArgument speaks of a key that stands on the command line itself: it works, for scripts that know what they do.
func (a *app) warnOfArgument() {
	fmt.Fprintln(a.Err, "fractal-lazy: a key on the command line shows in `ps` and in the shell's history; a file (@FILE with -o privkey) or standard input (-) does not")
}

// maxKeyText bounds a key's file; the longest form of a key has far less.
const maxKeyText = 1024

func (a *app) readKeyText(from string) (string, error) {
	if _, err := os.Lstat(from); from != "-" && errors.Is(err, os.ErrNotExist) && looksLikeKey(from) {
		a.warnOfArgument()
		return from, nil
	}
	text, err := a.readSecretText(from, "Private key", "key", maxKeyText)
	return strings.TrimSpace(text), err
}

// readSecretText reads what the file from holds, or standard input, at most limit bytes; from a terminal a line, without showing it.
func (a *app) readSecretText(from, prompt, what string, limit int) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("read %s: %w", what, err) }
	var in io.Reader
	switch {
	case from != "-":
		f, err := os.Open(from)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		in = f
	case isTerminal(a.In):
		fmt.Fprintf(a.Err, "%s (not shown): ", prompt)
		b, err := term.ReadPassword(int(a.In.(*os.File).Fd()))
		fmt.Fprintln(a.Err)
		if err != nil {
			return fail(err)
		}
		return string(b), nil
	default:
		in = a.In
	}
	b, err := io.ReadAll(io.LimitReader(in, int64(limit)+1))
	switch {
	case err != nil:
		return fail(err)
	case len(b) > limit:
		return fail(fmt.Errorf("more than %d bytes are no %s", limit, what))
	case strings.TrimSpace(string(b)) == "":
		return fail(errors.New("there is nothing to read"))
	}
	return string(b), nil
}

// looksLikeKey keeps a key that was given in the place of a file out of the error message.
func looksLikeKey(s string) bool {
	_, err := seal.ParsePrivkey(s)
	return err == nil || seal.IsSealedKey(s)
}
