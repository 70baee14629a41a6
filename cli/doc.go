// Package cli holds the commands: those that serve (`run`, `hive`), those that ask the daemon over its socket, and those that need
// neither (`key generate`, `pool`, `version`).
//
// What is guaranteed. Standard output carries the result alone: text for people, or with --json one JSON document whose fields are
// stable. Everything else, progress and errors too, goes to standard error. The exit code tells what kind of failure it was: see ExitCode.
// A private key is read from a file or from standard input, never from an argument, and written only by the `key` commands that are there
// for it.
//
// Concurrency. Main may be called several times in a process, one after the other or at once; it keeps no global state and does not exit.
//
// Example:
//
//	os.Exit(cli.Main(context.Background(), cli.IO{Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv}))
package cli
