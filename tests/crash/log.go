package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// entry name in directory dir, by inode numbers.
type dirEntry struct {
	dir  uint64
	name string
}

// treeLog is what a BTRFS that was not mounted since its crash is going to replay: its log of names.
type treeLog struct {
	entries map[dirEntry]uint64          // what directories say (DIR_INDEX)
	names   map[uint64]map[dirEntry]bool // what inodes say (INODE_REF), of those that the log has
}

var (
	logItem     = regexp.MustCompile(`^\titem \d+ key \((\d+) (\w+) (\d+)\)`)
	logLocation = regexp.MustCompile(`^\t\tlocation key \((\d+) INODE_ITEM 0\)`)
	logName     = regexp.MustCompile(`(?:^\t\t|namelen \d+ )name: (.*)$`)
)

// readLog has btrfs-progs show the log of d.
func readLog(dir string, d disk) (*treeLog, error) {
	file := filepath.Join(dir, "before")
	defer os.Remove(file)
	if err := d.store(file); err != nil {
		return nil, err
	}
	out, err := exec.Command("btrfs", "inspect-internal", "dump-tree", file).Output()
	if err != nil {
		return nil, fmt.Errorf("btrfs inspect-internal dump-tree: %w", err)
	}
	_, out, _ = bytes.Cut(out, []byte("\nlog tree key"))
	return parseLog(out), nil
}

func parseLog(out []byte) *treeLog {
	l := &treeLog{entries: map[dirEntry]uint64{}, names: map[uint64]map[dirEntry]bool{}}
	number := func(b []byte) uint64 {
		n, _ := strconv.ParseUint(string(b), 10, 64) // the offset of other items may be more
		return n
	}
	var ino, offset, location uint64
	var typ string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Bytes()
		if m := logItem.FindSubmatch(line); m != nil {
			ino, typ, offset = number(m[1]), string(m[2]), number(m[3])
			if typ == "INODE_ITEM" {
				l.names[ino] = map[dirEntry]bool{}
			}
		} else if m := logLocation.FindSubmatch(line); m != nil {
			location = number(m[1])
		} else if m := logName.FindSubmatch(line); m != nil && typ == "DIR_INDEX" {
			l.entries[dirEntry{ino, string(m[1])}] = location
		} else if m != nil && typ == "INODE_REF" && l.names[ino] != nil {
			l.names[ino][dirEntry{offset, string(m[1])}] = true
		}
	}
	return l
}

// contradicts reports whether the log says of a name that it is ino's, and of ino that this is not its name.
//
// Such a log is BTRFS's own doing: an entry that was made since the last commit is taken away, which BTRFS
// puts off; then the directory is logged for the first time since that commit, and the entry is still in the tree. No fsync
// that is missing or comes too late makes one: logs are old then, but each is of one moment.
func (l *treeLog) contradicts(e dirEntry, ino uint64) bool {
	names, logged := l.names[ino]
	return logged && l.entries[e] == ino && !names[e]
}
