package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Leaks names what is left under the folder prefix: mounts, loop devices with
// a file there, and processes other than this one that run from there, have their
// working directory, an argument or an open file there.
func Leaks(prefix string) ([]string, error) {
	prefix = filepath.Clean(prefix)
	if p, err := filepath.EvalSymlinks(prefix); err == nil {
		prefix = p
	}
	if prefix == "/" || !filepath.IsAbs(prefix) {
		return nil, fmt.Errorf("look for leaks in %q: not a folder of its own", prefix)
	}
	var found []string
	mounts, err := mountsUnder(prefix)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		found = append(found, "mount "+m)
	}
	loops, err := loopsUnder(prefix)
	if err != nil {
		return nil, err
	}
	for dev, file := range loops {
		found = append(found, "loop device "+dev+" on "+file)
	}
	found = append(found, holders(prefix)...)
	sort.Strings(found)
	return found, nil
}

// NoLeaks fails the test where Leaks finds something that does not go away within two seconds.
func NoLeaks(t testing.TB, prefix string) {
	t.Helper()
	end := time.Now().Add(2 * time.Second)
	for {
		found, err := Leaks(prefix)
		if err != nil {
			t.Error(err)
			return
		}
		if len(found) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("left under %s:\n  %s", prefix, strings.Join(found, "\n  "))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// under reports whether path is prefix or inside it.
func under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// mountsUnder returns the mount points at or below prefix, as this mount namespace has them.
func mountsUnder(prefix string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && under(unescape(f[4]), prefix) {
			list = append(list, unescape(f[4]))
		}
	}
	return list, nil
}

// unescape undoes the octal escapes of /proc/self/mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// loopsUnder returns the loop devices whose file is at or below prefix, and the files.
func loopsUnder(prefix string) (map[string]string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil { // detached meanwhile
			continue
		}
		file := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), " (deleted)")
		if under(file, prefix) {
			found["/dev/"+strings.Split(name, "/")[3]] = file
		}
	}
	return found, nil
}

// holders names the other processes that have anything at or below prefix.
func holders(prefix string) []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	var list []string
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		if why := holds(dir, prefix); why != "" {
			name, _ := os.ReadFile(dir + "/comm") // gone meanwhile: no name
			list = append(list, fmt.Sprintf("process %s (%s): %s", pid, strings.TrimSpace(string(name)), why))
		}
	}
	return list
}

// holds says what a process, by its folder in /proc, has under prefix, or "".
// Errors mean that it has ended.
func holds(dir, prefix string) string {
	for _, link := range []string{"exe", "cwd", "root"} {
		if to, err := os.Readlink(dir + "/" + link); err == nil && under(to, prefix) {
			return link + " " + to
		}
	}
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil {
		for arg := range strings.SplitSeq(string(b), "\x00") {
			// Also --data=PATH and -o file=PATH.
			if i := strings.Index(arg, prefix); i >= 0 && under(arg[i:], prefix) && (i == 0 || arg[i-1] == '=') {
				return "argument " + arg
			}
		}
	}
	fds, _ := filepath.Glob(dir + "/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && under(strings.TrimSuffix(to, " (deleted)"), prefix) {
			return "open file " + to
		}
	}
	return ""
}
