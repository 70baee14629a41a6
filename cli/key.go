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
}

func (a *app) keyPubkey() *cobra.Command {
	return &cobra.Command{
		Use:     "pubkey [FILE|-]",
		Short:   "Print the public key of a private key, as hex",
		Long:    "Reads a private key (hex, base64 or base32) from FILE, or from standard input, and prints its public key: the volume's name at the Hive.",
		Example: `  fractal-lazy key pubkey db.key`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := a.readKey(args)
			if err != nil {
				return err
			}
			return a.print(keyJSON{Pubkey: k.Public().String()}, func(w io.Writer) { fmt.Fprintln(w, k.Public()) })
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
	return &cobra.Command{
		Use:               "export VOLUME",
		Short:             "Print the private key of a volume, as base64",
		Long:              "Prints the private key of a volume. Who has it can read the volume, publish as it, and mount it anywhere: keep a copy where a fire does not reach both.",
		Example:           `  (umask 077; fractal-lazy key export db > db.key)`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := a.client().KeyExport(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(keyJSON{Privkey: k}, func(w io.Writer) { fmt.Fprintln(w, k) })
		},
	}
}

func (a *app) keyImport() *cobra.Command {
	var options []string
	c := &cobra.Command{
		Use:     "import NAME [FILE|-]",
		Short:   "Make a volume with the private key in FILE, or on standard input",
		Long:    "Makes the volume NAME here with a private key read from FILE, or from standard input. It is `volume create NAME -o privkey=...`.\n\n" + optionsHelp,
		Example: `  fractal-lazy key import db < db.key`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := a.parseOptions(options)
			if err != nil {
				return usage(c, err)
			}
			if _, twice := opts["privkey"]; twice {
				return usage(c, errors.New("the key comes from FILE or standard input, not from -o privkey"))
			}
			k, err := a.readKey(args[1:])
			if err != nil {
				return err
			}
			opts["privkey"] = k.Reveal()
			return a.createVolume(c.Context(), args[0], opts)
		},
	}
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "KEY=VALUE, as often as needed")
	return c
}

// readKey reads the key from the file that the one argument names, or from standard input. The argument may be the key itself.
func (a *app) readKey(args []string) (seal.Privkey, error) {
	from := "-"
	if len(args) > 0 {
		from = args[0]
	}
	text, err := a.readKeyText(from)
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
	var in io.Reader
	switch {
	case from != "-":
		f, err := os.Open(from)
		if errors.Is(err, os.ErrNotExist) && looksLikeKey(from) {
			a.warnOfArgument()
			return from, nil
		}
		if err != nil {
			return "", fmt.Errorf("read key: %w", err)
		}
		defer f.Close()
		in = f
	case isTerminal(a.In):
		fmt.Fprint(a.Err, "Private key (not shown): ")
		b, err := term.ReadPassword(int(a.In.(*os.File).Fd()))
		fmt.Fprintln(a.Err)
		if err != nil {
			return "", fmt.Errorf("read key: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	default:
		in = a.In
	}
	b, err := io.ReadAll(io.LimitReader(in, maxKeyText+1))
	if err != nil {
		return "", fmt.Errorf("read key: %w", err)
	}
	if len(b) > maxKeyText {
		return "", fmt.Errorf("read key: more than %d bytes are no key", maxKeyText)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", errors.New("read key: there is nothing to read")
	}
	return text, nil
}

// looksLikeKey keeps a key that was given in the place of a file out of the error message.
func looksLikeKey(s string) bool {
	_, err := seal.ParsePrivkey(s)
	return err == nil
}
