package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/config"
	"fractal-lazy/hive"
	"fractal-lazy/store/ipfs"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

const (
	defaultHiveListen = "127.0.0.1:7070"
	defaultHiveData   = "/var/lib/fractal-hive"

	hiveHeaderTimeout = 10 * time.Second
	hiveIdleTimeout   = 2 * time.Minute
	hiveStallTimeout  = time.Minute // without a byte in a body that is being sent or received
	hiveGrace         = 10 * time.Second
)

func (a *app) hiveCommand() *cobra.Command {
	var listen, data, tokens, level string
	c := &cobra.Command{
		Use:   "hive",
		Short: "Run the storage backend: the Hive's API, and an IPFS block node, on one address",
		Long: `Serves the storage API under /api/v1, Kubo's RPC (the part that the driver uses) under /api/v0, the gateway for blocks under /ipfs,
and /health, until SIGTERM. Blocks and manifests are on the disk before they are acknowledged.

--tokens names a file of lines "TOKEN ACCOUNT-UUID". Without it any UUID is a token and its own account; then only loopback is listened on.
The gateway asks for no token: a block is sealed, and found only by who knows its CID. Put a proxy with TLS in front where the network is not yours.`,
		Example: `  fractal-lazy hive --listen 127.0.0.1:7070 --data /var/lib/fractal-hive
  fractal-lazy hive --listen 0.0.0.0:7070 --data /var/lib/fractal-hive --tokens /etc/fractal/tokens`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&listen, "listen", defaultHiveListen, "address and port; port 0 takes a free one, which is printed")
	c.Flags().StringVar(&data, "data", defaultHiveData, "folder for manifests and blocks")
	c.Flags().StringVar(&tokens, "tokens", "", "file of bearer tokens")
	c.Flags().StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := zerolog.ParseLevel(level)
		if err != nil {
			return usage(c, fmt.Errorf("--log-level %q is none of trace, debug, info, warn, error", level))
		}
		if tokens == "" {
			if err := checkLoopback(listen); err != nil {
				return usage(c, err)
			}
		}
		return a.serveHive(c.Context(), listen, data, tokens, a.logger(config.Config{LogLevel: l, LogFormat: "auto"}))
	}
	return c
}

// checkLoopback refuses an address that others could reach.
func checkLoopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not of the form 127.0.0.1:7070", listen)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--listen %s can be reached by others, so it needs --tokens FILE; without, listen on %s", listen, defaultHiveListen)
}

func (a *app) serveHive(ctx context.Context, listen, data, tokensFile string, log zerolog.Logger) (err error) {
	var tokens hive.Tokens // nil: any UUID
	if tokensFile != "" {
		if tokens, err = hive.LoadTokens(tokensFile); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("hive: %w", err)
	}
	defer l.Close()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("hive: folder for the data: %w", err)
	}
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: filepath.Join(data, "ipfs"), Authorized: func(r *http.Request) bool {
		_, ok := tokens.Account(r)
		return ok
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	api, err := hive.NewServer(filepath.Join(data, "hive.db"), tokens, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, api.Close()) }()

	srv := &http.Server{
		Handler: hiveHandler(api.Handler(), node.Handler()), ErrorLog: nil,
		ReadHeaderTimeout: hiveHeaderTimeout, IdleTimeout: hiveIdleTimeout, MaxHeaderBytes: 64 << 10,
	}
	fmt.Fprintf(a.Out, "http://%s\n", l.Addr())
	log.Info().Str("listen", l.Addr().String()).Str("data", data).Bool("tokens", tokensFile != "").Msg("hive is listening")
	return serveUntil(ctx, srv, l, log)
}

// hiveHandler puts both halves on one address.
func hiveHandler(api, blocks http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", api)
	mux.Handle("/health", api)
	mux.Handle("/api/v0/", unstalled(blocks, hiveStallTimeout))
	mux.Handle("/ipfs/", unstalled(blocks, hiveStallTimeout))
	return mux
}

// serveUntil serves until ctx ends and then lets requests finish for a while.
func serveUntil(ctx context.Context, srv *http.Server, l net.Listener, log zerolog.Logger) error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("hive: %w", err)
	case <-ctx.Done():
	}
	log.Info().Msg("stopping")
	grace, cancel := context.WithTimeout(context.Background(), hiveGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		log.Warn().Msg("requests that did not end in time are cut off")
		srv.Close()
	}
	<-served
	return nil
}
