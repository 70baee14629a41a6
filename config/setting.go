package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
)

// Setting describes one setting. The list of them is the one place where names, defaults and descriptions stand: flags, the help, the
// file's keys and the plugin's config.json are made from it or tested against it.
type Setting struct {
	Name    string // of the flag, without dashes, and of the file's key
	Env     string // FRACTAL_...
	Default string // as text; "" where it has none or is derived
	Help    string // one line, without a full stop
	Example string // a valid value
	Secret  bool   // never shown
	NoFile  bool   // cannot stand in the file

	set func(c *Config, text string) error
	get func(c *Config) string
}

// Settings returns every setting, in the order of the help. The caller owns the slice.
func Settings() []Setting {
	return []Setting{
		{Name: "root", Env: "FRACTAL_ROOT", Default: DefaultRoot, Example: "/var/lib/fractal", NoFile: true,
			Help: "state folder; must be on BTRFS (`fractal-lazy pool create` makes one)",
			set:  func(c *Config, v string) error { return setAbs(&c.Root, v) },
			get:  func(c *Config) string { return c.Root }},
		{Name: "socket", Env: "FRACTAL_SOCKET", Default: DefaultSocket, Example: "/run/docker/plugins/fractal-lazy.sock",
			Help: "unix socket for Docker and for the commands",
			set:  func(c *Config, v string) error { return setSocket(&c.Socket, v) },
			get:  func(c *Config) string { return c.Socket }},
		{Name: "mounts", Env: "FRACTAL_MOUNTS", Example: "/var/lib/fractal/mnt",
			Help: "folder of the mount points (default ROOT/mnt); shared:FOLDER where it has to be on a shared mount",
			set: func(c *Config, v string) error {
				v, c.MountsShared = strings.CutPrefix(v, sharedPrefix)
				return setAbs(&c.Mounts, v)
			},
			get: func(c *Config) string {
				if c.MountsShared {
					return sharedPrefix + c.Mounts
				}
				return c.Mounts
			}},
		{Name: "hive", Env: "FRACTAL_HIVE", Example: "https://hive.example.org",
			Help: "URL of the Hive, which keeps the signed manifests",
			set:  func(c *Config, v string) error { return setURL(&c.Hive, v) },
			get:  func(c *Config) string { return c.Hive }},
		{Name: "ipfs", Env: "FRACTAL_IPFS", Example: "https://hive.example.org",
			Help: "URL of the IPFS RPC API that blocks are written to",
			set:  func(c *Config, v string) error { return setURL(&c.IPFS, v) },
			get:  func(c *Config) string { return c.IPFS }},
		{Name: "gateway", Env: "FRACTAL_GATEWAY", Example: "https://gateway.example.org",
			Help: "URL of the IPFS gateway that blocks are read from (default: the same as ipfs)",
			set:  func(c *Config, v string) error { return setURL(&c.Gateway, v) },
			get:  func(c *Config) string { return c.Gateway }},
		{Name: "token", Env: "FRACTAL_TOKEN", Example: "@/etc/fractal/token", Secret: true,
			Help: "bearer token for the Hive and the RPC API, or @FILE that holds it",
			set:  func(c *Config, v string) error { return setToken(&c.Token, v) },
			get:  func(c *Config) string { return c.Token.reveal }},
		{Name: "interval", Env: "FRACTAL_INTERVAL", Default: DefaultInterval.String(), Example: "60s",
			Help: "time between snapshots where a volume has none of its own, or off",
			set:  func(c *Config, v string) error { return setInterval(&c.Interval, v) },
			get: func(c *Config) string {
				if c.Interval < 0 {
					return "off"
				}
				return c.Interval.String()
			}},
		{Name: "upload-rate", Env: "FRACTAL_UPLOAD_RATE", Example: "10MiB",
			Help: "most bytes a second that all uploads take together, or 0 for no limit",
			set:  func(c *Config, v string) error { return setRate(&c.Upload, v) },
			get:  func(c *Config) string { return showRate(c.Upload) }},
		{Name: "download-rate", Env: "FRACTAL_DOWNLOAD_RATE", Example: "10MiB",
			Help: "most bytes a second that fetching in the background takes, of all volumes together, or 0 for no limit",
			set:  func(c *Config, v string) error { return setRate(&c.Download, v) },
			get:  func(c *Config) string { return showRate(c.Download) }},
		{Name: "metrics", Env: "FRACTAL_METRICS", Example: "127.0.0.1:9477",
			Help: "loopback address for Prometheus, or off; the socket has the figures at /metrics",
			set: func(c *Config, v string) error {
				addr, open := strings.CutPrefix(v, openPrefix)
				c.MetricsOpen = open
				return setAddress(&c.Metrics, addr, open)
			},
			get: func(c *Config) string {
				if c.MetricsOpen {
					return openPrefix + c.Metrics
				}
				return c.Metrics
			}},
		{Name: "passphrase-file", Env: "FRACTAL_PASSPHRASE_FILE", Example: "/etc/fractal/passphrase",
			Help: "file with the passphrase that seals the volumes' keys on the disk; root's own, mode 0600",
			set:  func(c *Config, v string) error { return setAbs(&c.PassphraseFile, v) },
			get:  func(c *Config) string { return c.PassphraseFile }},
		{Name: "seal-keys", Env: "FRACTAL_SEAL_KEYS", Default: "on", Example: "off",
			Help: "on: with a passphrase file, keys on the disk are sealed; off: they are opened, and kept in plain text",
			set: func(c *Config, v string) error {
				err := setOneOf(&v, v, "on", "off")
				c.SealKeys = v != "off"
				return err
			},
			get: func(c *Config) string {
				if c.SealKeys {
					return "on"
				}
				return "off"
			}},
		{Name: "hold", Env: "FRACTAL_HOLD", Default: DefaultHold.String(), Example: "60s",
			Help: "how long mounts wait for a worker that died and does not come back",
			set:  func(c *Config, v string) error { return setHold(&c.Hold, v) },
			get:  func(c *Config) string { return c.Hold.String() }},
		{Name: "log-level", Env: "FRACTAL_LOG_LEVEL", Default: zerolog.InfoLevel.String(), Example: "info",
			Help: "trace, debug, info, warn or error",
			set:  func(c *Config, v string) error { return setLevel(&c.LogLevel, v) },
			get:  func(c *Config) string { return c.LogLevel.String() }},
		{Name: "log-format", Env: "FRACTAL_LOG_FORMAT", Default: "auto", Example: "json",
			Help: "json, text, or auto: text on a terminal, json elsewhere",
			set:  func(c *Config, v string) error { return setOneOf(&c.LogFormat, v, "auto", "json", "text") },
			get:  func(c *Config) string { return c.LogFormat }},
	}
}

// sharedPrefix before the folder of the mount points says that it has to be on a shared mount: in a managed plugin a folder that is not shows
// containers an empty folder of the plugin's own, and takes what they write.
const sharedPrefix = "shared:"

func setAbs(into *string, v string) error {
	if !filepath.IsAbs(v) {
		return fmt.Errorf("%q is not an absolute path", v)
	}
	*into = filepath.Clean(v)
	return nil
}

// maxSocket is the length of sun_path in Linux's struct sockaddr_un, without the closing zero and the suffix that the
// socket has for an instant while it is made.
const maxSocket = 107 - len(".new")

func setSocket(into *string, v string) error {
	if len(v) > maxSocket {
		return fmt.Errorf("a socket's path has at most %d bytes, this one has %d", maxSocket, len(v))
	}
	return setAbs(into, v)
}

func setURL(into *string, v string) error {
	u, err := url.Parse(v)
	if err != nil {
		return errors.New("is not a URL") // no error repeats the value, which may hold a password or a token
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return errors.New("is not an http or https URL")
	case u.User != nil:
		return errors.New("must not hold a user or a password: use the token")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("has a query or a fragment")
	}
	*into = strings.TrimRight(v, "/")
	return nil
}

// maxToken bounds a token, from wherever it comes.
const maxToken = 4096

func setToken(into *Token, v string) error {
	if file, ok := strings.CutPrefix(v, "@"); ok {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; of the host a managed plugin sees its state folder alone, as %s", err, DefaultRoot)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, maxToken+1)
		n, err := readFull(f, b)
		if err != nil {
			return err
		}
		v = string(b[:n])
	}
	v = strings.TrimSpace(v)
	if v == "" {
		return errors.New("is empty")
	}
	if len(v) > maxToken {
		return fmt.Errorf("is longer than %d bytes", maxToken)
	}
	for i := 0; i < len(v); i++ {
		if v[i] <= ' ' || v[i] > '~' {
			return errors.New("holds a character that no HTTP header can carry")
		}
	}
	into.reveal = v
	return nil
}

// MinInterval keeps a slip of the pen (`60ms`) from taking snapshots all the time.
const MinInterval = time.Second

func setInterval(into *time.Duration, v string) error {
	if v == "off" || v == "0" {
		*into = -1
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		if n, nerr := strconv.ParseUint(v, 10, 31); nerr == nil {
			d = time.Duration(n) * time.Second // a bare number counts seconds
		} else {
			return fmt.Errorf("%q is not a duration", v)
		}
	}
	if d < MinInterval {
		return fmt.Errorf("%s is shorter than %s", d, MinInterval)
	}
	*into = d
	return nil
}

func setHold(into *time.Duration, v string) error {
	var d time.Duration
	if err := setInterval(&d, v); err != nil {
		return err
	}
	if d < 0 {
		return errors.New("must end some time: processes that wait for it cannot be killed")
	}
	*into = d
	return nil
}

// openPrefix before an address says that others may reach it.
const openPrefix = "open:"

// setAddress takes an IP address and a port. Unless open is set it must be one that other machines cannot reach: what is behind it asks for no token.
func setAddress(into *string, v string, open bool) error {
	if v == "off" && !open {
		*into = ""
		return nil
	}
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("%q is not of the form 127.0.0.1:9477", v)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port between 1 and 65535", v)
	}
	switch ip := net.ParseIP(host); {
	case open && ip == nil:
		return fmt.Errorf("%q has no IP address; 0.0.0.0 and [::] are all of this machine", v)
	case !open && (ip == nil || !ip.IsLoopback()):
		return fmt.Errorf("%q can be reached by others, and asks nobody for a token: use 127.0.0.1 or [::1], or say %s%s", v, openPrefix, v)
	}
	*into = v
	return nil
}

// minRate keeps a forgotten unit (`10`) from stopping everything, and the pause before a block shorter than servers are patient.
const minRate = 64 << 10

func setRate(into *uint64, v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil {
		return fmt.Errorf("%q is not a size, such as 10MiB", v)
	}
	if n != 0 && n < minRate {
		return fmt.Errorf("%d bytes a second is below the least, %s", n, humanize.IBytes(minRate))
	}
	*into = n
	return nil
}

func showRate(n uint64) string {
	if n == 0 {
		return ""
	}
	return humanize.IBytes(n)
}

func setLevel(into *zerolog.Level, v string) error {
	var name string
	if err := setOneOf(&name, strings.ToLower(v), "trace", "debug", "info", "warn", "error"); err != nil {
		return err
	}
	l, err := zerolog.ParseLevel(name)
	if err != nil {
		return err
	}
	*into = l
	return nil
}

func setOneOf(into *string, v string, of ...string) error {
	for _, o := range of {
		if v == o {
			*into = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", v, strings.Join(of, ", "))
}
