package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/tests/kit"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	run := fsxMain
	switch {
	case os.Getenv(fsxEnv) != "":
	case os.Getenv(copyEnv) != "":
		run = copyMain
	default:
		runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
		os.Exit(m.Run())
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func testStage(t *testing.T) *stage {
	t.Helper()
	kit.NeedRoot(t)
	dir := t.TempDir()
	s, err := newStage(dir, 4<<30, zerolog.Nop())
	kit.Must(t, err)
	t.Cleanup(func() {
		kit.Must(t, s.close())
		kit.NoLeaks(t, dir)
	})
	return s
}

func TestFsx_EveryState(t *testing.T) {
	s := testStage(t)
	for state, ops := range map[string]int{statePlain: 2000, stateLocal: 4000, stateThrough: 2000, stateHalf: 12000} {
		var out bytes.Buffer
		if err := runFsx(context.Background(), s, state, ops, 1, &out); err != nil {
			t.Errorf("%v", err)
		}
		missed := "clone, collapse, dedupe, insert"
		if state == statePlain {
			missed = "collapse, insert"
		}
		if got := strings.TrimSpace(out.String()); got != "" && !strings.HasSuffix(got, "has no "+missed) {
			t.Errorf("want no %s; %s", missed, got)
		}
	}
}

// TestFsx_FindsWhatIsWrong lets the model believe in another content.
func TestFsx_FindsWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	kit.Must(t, writeContent(path, 1, fsxSize))
	p := content(1, fsxSize)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("the content was not written: %v", err)
	}
	p[fsxSize-5]++
	x, err := newFsx(path, p, fsxSize+fsxMore, 1)
	kit.Must(t, err)
	defer x.close()
	if err := x.compare(0, len(p)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("byte %d", fsxSize-5)) {
		t.Errorf("a wrong byte gives %v", err)
	}
	x.m.p = x.m.p[:fsxSize-6]
	if x.size() == nil {
		t.Error("a wrong size is not found")
	}
}

const copyEnv = "POSIX_COPY"

// copyMain copies a hole of the file args[0] over remote data of the file args[1].
func copyMain(args []string) error {
	src, err := os.Open(args[0])
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	in, out := int64(0), int64(16*page)
	if n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, 8*page, 0); n != 8*page {
		return fmt.Errorf("copied %d: %v", n, err)
	}
	return nil
}

// TestCopyFileRange_OfAHoleIntoARemoteFile: BTRFS makes the target a hole too, and a hole of a file with a mark means missing.
func TestCopyFileRange_OfAHoleIntoARemoteFile(t *testing.T) {
	s := testStage(t)
	want := bytes.Repeat([]byte("remote content. "), 64*page/16)
	kit.Must(t, s.volume("v", func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), want, 0o644) }))
	dir := filepath.Join(s.dir, "mnt")
	kit.Must(t, os.Mkdir(dir, 0o755))
	m, err := s.mount("v", dir, lazy.Options{Prefetch: lazy.PrefetchNone}, fusefs.Options{})
	kit.Must(t, err)
	for _, args := range [][]string{{"truncate", "-s", "1M", dir + "/holes"}, {"/proc/self/exe", dir + "/holes", dir + "/f"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), copyEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	got, err := exec.Command("cat", dir+"/f").Output()
	if err != nil {
		t.Error(err)
	}
	clear(want[16*page : 24*page])
	if i := differs(got, want); i >= 0 {
		t.Errorf("byte %d differs", i)
	}
	kit.Must(t, m.unmount())
	kit.Must(t, s.hydrate(context.Background(), "v"))
	if got, err = os.ReadFile(filepath.Join(s.path("v"), "f")); err != nil || differs(got, want) >= 0 {
		t.Errorf("when everything is there, byte %d differs (%v)", differs(got, want), err)
	}
	kit.Must(t, backing.DeleteSubvolume(s.path("v")))
}

// TestDocument_ExplainsEachDifference holds docs/POSIX.md against what the program lets pass.
func TestDocument_ExplainsEachDifference(t *testing.T) {
	b, err := os.ReadFile("../../docs/POSIX.md")
	kit.Must(t, err)
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (generic/\d+) \|`).FindAllStringSubmatch(string(b), -1) {
		rows[m[1]] = true
	}
	for _, list := range []map[string]string{explained, leftOut} {
		for test := range list {
			if !rows[test] {
				t.Errorf("docs/POSIX.md has no row for %s", test)
			}
			delete(rows, test)
		}
	}
	for test := range rows {
		t.Errorf("docs/POSIX.md explains %s, which is not let pass", test)
	}
}

// TestFollow_ReadsWhatCheckPrints covers each way a test ends.
func TestFollow_ReadsWhatCheckPrints(t *testing.T) {
	x := &xfstests{limit: time.Minute, out: io.Discard}
	got, err := x.follow(strings.NewReader("FSTYP         -- fuse\n\ngeneric/001 6s ...  5s\ngeneric/002       [not run] no such thing\n" +
		"generic/003 10s ... - output mismatch (see x)\n    --- tests/generic/003.out\n    +++ generic/003 more\n" +
		"generic/004 ... [failed, exit status 1]- output mismatch (see y)\ngeneric/005 3s ...  4s\nRan: generic/001\nFailures: generic/003 generic/004\n"))
	kit.Must(t, err)
	want := map[string]string{"generic/001": "pass", "generic/002": "notrun", "generic/003": "fail", "generic/004": "fail", "generic/005": "pass"}
	for test, status := range want {
		if got[test].status != status {
			t.Errorf("%s: %+v, want %s", test, got[test], status)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
}
