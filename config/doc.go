// Package config holds the settings of the driver: what they are called, where they come from, and whether they make sense.
//
// Terms. A setting has one name (`hive`), a flag of that name (`--hive`), a variable in the environment (`FRACTAL_HIVE`), and
// a key in the file (`"hive"`). A source is one of the four places where a value can come from.
//
// Order of the sources, the first that has a value wins:
//
//	flags > environment > file > defaults
//
// The file is ROOT/config.json unless `--config` names another. It is a JSON object, read strictly: an unknown key is an error.
// It survives `docker plugin upgrade`, where the plugin's own settings fall back to their defaults; so real configuration
// belongs there. It may hold the token and should be 0600; Load reports it when others can read it.
//
// What is guaranteed. Load never stops at the first fault: it returns a Config that is whole (a faulty setting has its default) together with
// every fault, so that a daemon can listen on its socket and answer with what is wrong. Each fault names the setting, its source and an
// example. Neither Config nor any error of this package shows the token.
//
// Concurrency. Load reads and returns; a Config is a plain value.
//
// Example:
//
//	cfg, err := config.Load(config.Sources{Flags: flags, Env: os.LookupEnv})
//	var faults config.Faults
//	if errors.As(err, &faults) {
//		// cfg.Socket can be listened on all the same.
//	}
package config
