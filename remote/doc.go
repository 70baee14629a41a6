// Package remote reaches a second place where snapshots are kept: a block store and a Hive behind URLs of their own, or those of
// another machine, through ssh.
//
// # Terms
//
// A remote is named in ROOT/remotes.json, or is ssh://[user@]host[:port]. Through ssh the other machine runs `fractal-lazy receive`,
// which serves HTTP/2 on its standard input and output and hands requests on to the Hive and the block store that the
// driver there is set up with, with the token of that machine: nothing of it has to be known here.
//
// # Security
//
// Keys and known hosts are files in ROOT/ssh, as ssh has them: id_ed25519, id_ecdsa or id_rsa without a passphrase, and known_hosts. A host
// that is not in known_hosts is refused. On the other side whoever may run `receive` may use that machine's token; an authorized_keys line with
// command="fractal-lazy receive",restrict allows nothing else.
//
// # Concurrency
//
// A Link may be used by any number of goroutines. Nothing here survives a crash or needs to.
//
//	l, err := remote.DialSSH(ctx, "/var/lib/fractal/ssh", "ssh://root@nas")
//	defer l.Close()
//	client, err := hive.NewClient(l.Hive, "-", l.HTTP)
package remote
