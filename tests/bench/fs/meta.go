package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// metaRow is a step of work on names. The steps of a place follow each other, since each works on what the one before left.
type metaRow struct {
	name    string
	command string
	remount bool // the kernel begins without anything remembered of the mount
}

var metaRows = []metaRow{
	{"untar", "tar -xf $TAR", false},
	{"find, first", "find tree >/dev/null", true},
	{"find, second", "find tree >/dev/null", false},
	{"du, first", "du -s tree >/dev/null", true},
	{"du, second", "du -s tree >/dev/null", false},
	{"git status, first", "git -C tree status --porcelain >/dev/null", true},
	{"git status, hot", "git -C tree status --porcelain >/dev/null", false},
	{"rm -rf", "rm -rf tree", false},
}

var sqliteRows = []metaRow{
	{"SQLite commit per insert, journal", `rm -f db*; (echo "create table t(a integer primary key, b text);"; for i in $(seq $N); do echo "insert into t(b) values('row $i of the table');"; done) | sqlite3 db`, false},
	{"SQLite commit per insert, WAL", `rm -f db*; (echo "pragma journal_mode=wal; create table t(a integer primary key, b text);"; for i in $(seq $N); do echo "insert into t(b) values('row $i of the table');"; done) | sqlite3 db >/dev/null`, false},
}

// makeTar makes the archive: a source tree with its git repository, about a dozen files a folder, most of them small.
func (b *bench) makeTar(ctx context.Context) error {
	work := filepath.Join(b.dir, "origin")
	if err := os.MkdirAll(filepath.Join(work, "tree"), 0o755); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	dir := ""
	for i := range b.files {
		if i%12 == 0 {
			n := i / 12
			dir = filepath.Join(work, "tree", fmt.Sprintf("part-%02d/module-%02d/src-%d", n/400, n/20%20, n%20))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		body := bytes.Repeat([]byte(fmt.Sprintf("line of file %d, which is different: %x\n", i, rnd.Uint64())), int(rnd.ExpFloat64()*40)+1)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%05d.go", i)), body, 0o644); err != nil {
			return err
		}
		if i%100 == 0 {
			if err := os.Symlink(fmt.Sprintf("file-%05d.go", i), filepath.Join(dir, "link")); err != nil {
				return err
			}
		}
	}
	git := "git -c init.defaultBranch=main init -q tree && cd tree && git add -A && git -c user.name=b -c user.email=b@example.org commit -qm all && git gc -q"
	if _, _, err := sh(ctx, work, git); err != nil {
		return err
	}
	b.tar = filepath.Join(b.dir, "tree.tar")
	if _, _, err := sh(ctx, work, "tar -cf "+b.tar+" tree"); err != nil {
		return err
	}
	n, err := countTar(b.tar)
	if err != nil {
		return err
	}
	fmt.Printf("tree.tar: %d names, a git repository of %d files\n", n, b.files)
	return os.RemoveAll(work)
}

func countTar(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, n := tar.NewReader(f), 0
	for {
		if _, err := r.Next(); err != nil {
			if n > 0 && err.Error() == "EOF" {
				return n, nil
			}
			return n, err
		}
		n++
	}
}

// metadata runs the rows on every place, round by round.
func (b *bench) metadata(ctx context.Context, rows []metaRow, places []*place) error {
	for round := range b.rounds {
		for k := range places {
			p := places[(k+round)%len(places)]
			for _, r := range rows {
				if r.remount {
					if err := p.remount(); err != nil {
						return err
					}
				}
				line := fmt.Sprintf("TAR=%s N=%d; %s", b.tar, b.inserts, r.command)
				_, took, err := sh(ctx, p.dir, line)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", r.name, p.name, err)
				}
				b.add(r.name, r.command, p, took.Seconds(), false)
			}
			// What one leaves to be written is not the next one's.
			if _, _, err := sh(ctx, p.data, "sync -f ."); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}
