package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/plugin"
	"fractal-lazy/plugin/control"
	"fractal-lazy/replica"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/volume"

	"github.com/rs/zerolog"
)

// daemonEnv makes this program a driver: its value is a daemonConfig.
const daemonEnv = "HISTORY_DAEMON"

// daemonConfig is what a driver of a machine is started with.
type daemonConfig struct {
	Root, Socket, Token string
	Hive, IPFS          string // URLs
	SecondHive          string // of the second place
	SecondIPFS          string
	Clock               string // file with the seconds that its clock is ahead
}

// second is the name of the one second place that there is.
const second = "second"

// daemon is what `fractal-lazy worker` does, with a clock that the history sets.
func daemon(text string) error {
	var c daemonConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	log := zerolog.New(os.Stderr).With().Timestamp().Int("pid", os.Getpid()).Logger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := plugin.New(plugin.Options{Version: control.Version{Version: "history"}, Log: log})
	if err := s.Listen(c.Socket); err != nil {
		return err
	}
	here, err := placeAt(c.Hive, c.IPFS, c.Token, &http.Client{Transport: laterHive{c.Clock}})
	if err != nil {
		return err
	}
	m, err := volume.Open(ctx, volume.Deps{
		Store: here.Store, Hive: here.Hive, Log: log, Remotes: secondPlace(c), Now: func() time.Time { return time.Now().Add(ahead(c.Clock)) },
	}, volume.Options{Root: c.Root, Interval: -1})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- m.Run(context.Background()) }()
	s.SetBackend(m)
	err = s.Run(ctx, 5*time.Second)
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(err, m.Close(limit), <-ran)
}

// laterHive has the Hive's Date go by the history's clock: a driver whose clock is not that of the Hive removes nothing.
type laterHive struct{ clock string }

func (l laterHive) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		resp.Header.Set("Date", time.Now().Add(ahead(l.clock)).UTC().Format(http.TimeFormat))
	}
	return resp, err
}

func placeAt(hiveURL, ipfsURL, token string, hc *http.Client) (p replica.Place, err error) {
	if p.Hive, err = hive.NewClient(hiveURL, token, hc); err != nil {
		return p, err
	}
	p.Store, err = ipfs.NewClient(ipfs.Options{RPC: ipfsURL, Token: token})
	return p, err
}

// secondPlace implements volume.Remotes.
type secondPlace daemonConfig

var _ volume.Remotes = secondPlace{}

func (s secondPlace) Check(name string) error {
	if name != second {
		return fmt.Errorf("there is no place %q", name)
	}
	return nil
}

func (s secondPlace) Open(_ context.Context, name string) (*volume.Remote, error) {
	if err := s.Check(name); err != nil {
		return nil, err
	}
	p, err := placeAt(s.SecondHive, s.SecondIPFS, s.Token, nil)
	return &volume.Remote{Place: p}, err
}

// ahead reads how far the clock of all machines is ahead of the real one: a history of minutes spans years.
func ahead(file string) time.Duration {
	b, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		panic(err)
	}
	return time.Duration(n) * time.Second
}
