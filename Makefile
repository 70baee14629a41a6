# The commands of the project. `make demo` and `make test` install what they need, on Debian as root.

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := build

GO      ?= go
BINARY  := bin/fractal-lazy
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The tests mount file systems, so a package needs its memory and its loop devices: no more at once than there are cores, and not many.
TESTP       ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 4 ? 4 : n)))
TESTTIMEOUT ?= 20m
TESTFLAGS   ?=
PKG         ?= ./...
SUMMARY     ?=
FUZZTIME    ?= 30s

# The managed plugin: its name in Docker, what it is built for, and the certificates that it trusts.
PLUGIN ?= fractal-lazy
ARCH   ?= $(shell $(GO) env GOARCH)
CERTS  ?= /etc/ssl/certs/ca-certificates.crt
DOCKER ?= docker

PLUGINDIR = build/plugin/$(ARCH)

PREFIX ?= /usr/local
UNITS  ?= /etc/systemd/system

.PHONY: kill-upload history history-mutants build test test-docker test-docker-short demo demo-short bench-archive bench-failover bench-mount bench-start bench-snapshot bench-fs soak fuzz deps vet clean plugin plugin-rootfs plugin-push install uninstall install-holder uninstall-holder crash crash-short posix model model-short storm

## build: bin/fractal-lazy, one static file
build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BINARY) .

## deps: install what the tests and the demo need
deps:
	@.ci/install

## test: every test, with the race detector, on real file systems
test: deps build
	$(GO) vet ./...
	$(GO) test -json -race -count=1 -timeout $(TESTTIMEOUT) -p $(TESTP) $(TESTFLAGS) $(PKG) | $(GO) run .ci/summary.go $(if $(SUMMARY),-file $(SUMMARY))

## test-docker: the plugin in real Docker engines, which the tests start for themselves
test-docker:
	@.ci/install docker.io busybox-static iproute2 docker-registry docker-compose qemu-user-static
	$(GO) test -json -tags docker -count=1 -timeout $(TESTTIMEOUT) $(TESTFLAGS) ./tests/docker | $(GO) run .ci/summary.go $(if $(SUMMARY),-file $(SUMMARY))

# What CI runs of it: the plugin made and enabled, volumes used and removed, kept through disable and enable, moved to another engine, and the worker and the plugin killed.
DOCKERSHORT = TestPlugin_Answers|TestRun_WhatOneContainer|TestRun_ContainersShare|TestVolume_RemoveRefusesWhatIsInUse|TestFailover_StoppedOnOne|TestWorker_KilledUnder|TestWorker_KilledWhileAContainer|TestCrash_PluginKilled|TestHolder_PluginKilled|TestHolder_PluginDisabled

## test-docker-short: the core of test-docker, in a few minutes; where no engine can run it says so
test-docker-short:
	@.ci/install docker.io busybox-static iproute2 || true
	FRACTAL_DOCKER_SHORT=1 $(GO) test -json -tags docker -count=1 -timeout 15m -run '^($(DOCKERSHORT))' $(TESTFLAGS) ./tests/docker | $(GO) run .ci/summary.go $(if $(SUMMARY),-file $(SUMMARY))

## plugin-rootfs: build/plugin/ARCH, what `docker plugin create` takes; ARCH=arm64 builds for that
plugin-rootfs:
	@[ -r $(CERTS) ] || { echo "No certificates in $(CERTS): apt-get install ca-certificates, or say CERTS=FILE" >&2; exit 1; }
	rm -rf $(PLUGINDIR)
	install -D -m 644 $(CERTS) $(PLUGINDIR)/rootfs/etc/ssl/certs/ca-certificates.crt
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(PLUGINDIR)/rootfs/fractal-lazy .
	install -m 644 config.json $(PLUGINDIR)/config.json

## plugin: make the managed plugin PLUGIN in the engine that DOCKER_HOST names, not yet enabled
plugin: plugin-rootfs
	$(DOCKER) plugin create $(PLUGIN) $(PLUGINDIR)
	@echo "Next: docker plugin set $(PLUGIN) FRACTAL_HIVE=URL FRACTAL_IPFS=URL FRACTAL_TOKEN=TOKEN && docker plugin enable $(PLUGIN)"

## plugin-push: the same, and push it to the registry in its name; PLUGIN=registry.example.org/fractal-lazy:1.0
plugin-push: plugin
	$(DOCKER) plugin push $(PLUGIN)

## install: the binary and a systemd service, for hosts without the managed plugin
install: build
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/fractal-lazy
	install -d -m 755 $(DESTDIR)$(UNITS)
	sed 's|@BIN@|$(PREFIX)/bin|' systemd/fractal-lazy.service >$(DESTDIR)$(UNITS)/fractal-lazy.service
	chmod 644 $(DESTDIR)$(UNITS)/fractal-lazy.service
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "Next: systemctl enable --now fractal-lazy"

## uninstall: take both away, but for the binary where the holder needs it; volumes stay
uninstall:
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now fractal-lazy || true; fi
	rm -f $(DESTDIR)$(UNITS)/fractal-lazy.service
	[ -e $(DESTDIR)$(UNITS)/fractal-lazy-holder.service ] || rm -f $(DESTDIR)$(PREFIX)/bin/fractal-lazy

## install-holder: the binary, and a service that keeps mounts while the plugin is disabled, upgraded or killed
install-holder: build
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/fractal-lazy
	install -d -m 755 $(DESTDIR)$(UNITS)
	sed 's|@BIN@|$(PREFIX)/bin|' systemd/fractal-lazy-holder.service >$(DESTDIR)$(UNITS)/fractal-lazy-holder.service
	chmod 644 $(DESTDIR)$(UNITS)/fractal-lazy-holder.service
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "Next: systemctl enable --now fractal-lazy-holder"

## uninstall-holder: take the service away, and the binary where nothing else needs it
uninstall-holder:
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now fractal-lazy-holder || true; fi
	rm -f $(DESTDIR)$(UNITS)/fractal-lazy-holder.service
	[ -e $(DESTDIR)$(UNITS)/fractal-lazy.service ] || rm -f $(DESTDIR)$(PREFIX)/bin/fractal-lazy

## demo: a database fails over to another machine, and answers at once
demo: deps build
	$(GO) run ./tests/demo -binary $(BINARY)

## demo-short: the same with a quarter of the data
demo-short: deps build
	$(GO) run ./tests/demo -binary $(BINARY) -short

## bench-failover: what a recorded working set brings (BENCH="-rtt 50ms -rate 20000000 -working 5" for another link and more rounds)
bench-failover: deps build
	$(GO) run ./tests/demo -binary $(BINARY) -short -working 3 $(BENCH)

## bench-archive: peak memory of an export and an import of 1 GiB, and of 200,000 small files
bench-archive: deps
	$(GO) test -count=1 -timeout 40m -v -run TestArchive_MemoryIsFlat ./cli -archive.mib 1024 -archive.files 200000

## bench-mount: how long mounting takes, with 1,000 files and with 100,000
bench-mount: deps build
	$(GO) run ./tests/bench/mount -binary $(BINARY)

## bench-start: how long the driver needs to its socket with 1,000 volumes in the pool, which has to be under 200 ms (BENCH="-sealed" for sealed keys)
bench-start: deps build
	$(GO) run ./tests/bench/start -binary $(BINARY) $(BENCH)

## bench-snapshot: what a snapshot costs after a change, beside btrfs send, restic and borg (BENCH="-files 100000 -big 2048" for more)
bench-snapshot: deps
	@type restic borg zstd openssl >/dev/null 2>&1 || apt-get -qq install -y --no-install-recommends restic borgbackup zstd openssl || true
	$(GO) build -o build/bench-snapshot ./tests/bench/snapshot
	build/bench-snapshot $(BENCH)

## bench-fs: files and names on a mount beside plain BTRFS and the stock loopback (BENCH=-short, BENCH=-settings)
bench-fs:
	@.ci/install fio postgresql-15 sqlite3 git
	$(GO) build -o build/bench-fs ./tests/bench/fs
	unshare --mount --propagation private build/bench-fs $(BENCH)

## soak: 20 minutes of mounting, reading, writing, snapshots and removal, with steady memory (SOAK="-minutes 60")
soak: deps
	$(GO) build -o build/soak ./tests/soak
	build/soak $(SOAK)

## crash: 2,000 crashes of a half-fetched volume, each mounted and compared; then each rule switched off, which has to be found
crash: deps
	$(GO) run -tags crashtest ./tests/crash -images 2000 -rules 400

## crash-short: the same with 200 images (SEED=2 for others)
crash-short: deps
	$(GO) run -tags crashtest ./tests/crash -images 200 -seed $(or $(SEED),1)

## posix: pjdfstest, xfstests and fsx on mounts of ours, beside plain BTRFS (PJDFSTEST=DIR XFSTESTS=DIR; about 2 hours; POSIX="-tests generic/013 -only chmod -ops 4000" for less; docs/POSIX.md)
posix:
	@[ -x "$(PJDFSTEST)/pjdfstest" ] && [ -x "$(XFSTESTS)/ltp/fsx" ] || { \
		echo "make posix runs suites that are no part of this repository. It needs a checkout of each, built as its README says:"; \
		echo "  pjdfstest  https://github.com/pjd/pjdfstest                          $(if $(wildcard $(PJDFSTEST)/pjdfstest),found,not found: it has the program pjdfstest)"; \
		echo "  xfstests   https://git.kernel.org/pub/scm/fs/xfs/xfstests-dev.git    $(if $(wildcard $(XFSTESTS)/ltp/fsx),found,not found: it has the program ltp/fsx)"; \
		echo "Then, as root: make posix PJDFSTEST=/path/to/pjdfstest XFSTESTS=/path/to/xfstests"; \
		echo "fsx needs neither: go run ./tests/posix -ops 1000000"; exit 1; } >&2
	@$(MAKE) --no-print-directory deps
	@mkdir -p build
	$(GO) build -o build/posix ./tests/posix
	nice -n 10 build/posix -pjdfstest "$(PJDFSTEST)" -xfstests "$(XFSTESTS)" -ops 1000000 $(POSIX)

## history: thousands of snapshots, failovers, purges and crashes on two machines, against a model; HISTORY="-ops N -seed S" for others
history: deps
	$(GO) build -o build/history ./tests/history
	build/history $(HISTORY)

## history-mutants: faults are put into the program one after the other, and the histories have to find each (MUTANTS="-only purge-newest -ops N -seed S")
history-mutants: deps
	$(GO) build -tags crashtest -o build/history-mutants ./tests/history
	build/history-mutants -mutants -ops 3000 $(MUTANTS)

## model: a million random operations on a mount and on plain BTRFS, compared; MODEL="-ops N -seed S" for others
model: deps
	$(GO) build -o build/model ./tests/model
	build/model $(MODEL)

## model-short: the same with 50,000 operations (SEED=6 for others)
model-short: deps
	$(GO) build -o build/model ./tests/model
	build/model -ops 50000 -stage 1250 -seed $(or $(SEED),5)

## kill-upload: 100 kills of an upload at random moments: the same root, and little sent twice
kill-upload: deps
	FRACTAL_KILLS=100 $(GO) test -count=1 -v -timeout 30m -run TestPublish_KilledAtRandomMoments ./replica

## storm: the driver's worker killed 300 times under load (PostgreSQL, SQLite, git, mappings and more); nobody may see an error (KILLS=1000)
storm: deps
	FRACTAL_KILLS=$(or $(KILLS),300) $(GO) test -count=1 -v -timeout $(TESTTIMEOUT) ./tests/storm

## fuzz: every fuzz target for FUZZTIME
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

## clean: remove what was built
clean:
	rm -rf bin build
