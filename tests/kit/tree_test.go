package kit

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func describe(t *testing.T, root string) []Entry {
	t.Helper()
	list, err := Describe(root)
	Must(t, err)
	return list
}

func TestTree_HasEveryKindAndIsTheSameTwice(t *testing.T) {
	dir := Pool(t)
	Must(t, Tree(dir+"/a", TreeOptions{Deep: true}))
	Must(t, Tree(dir+"/b", TreeOptions{Deep: true}))
	start := time.Now()
	a := describe(t, dir+"/a")
	t.Logf("described %d entries in %v", len(a), time.Since(start))
	if d := Diff(a, describe(t, dir+"/b")); d != "" {
		t.Errorf("two trees of the same options differ:\n%s", d)
	}
	byPath := map[string]Entry{}
	types := map[string]int{}
	for _, e := range a {
		byPath[e.Path] = e
		types[e.Type]++
	}
	for _, typ := range []string{"file", "dir", "symlink", "fifo", "socket", "char", "block"} {
		if types[typ] == 0 {
			t.Errorf("no %s in the tree", typ)
		}
	}
	if types["file"] < 20_000 {
		t.Errorf("%d files", types["file"])
	}
	for path, want := range map[string]string{
		"names/\n":                    `content=`,
		"links/4095":                  "size=4095",
		"links/other/three":           `links=["links/one" "links/other/three" "links/two" "names/zz link from another folder"]`,
		"specials/char":               "rdev=4095:1048575",
		"modes/all":                   "mode=7777 owner=1234:54321",
		"times/before 1970":           "mtime=-2.500000000",
		"times/2500":                  "mtime=16714080000.000000002",
		"sparse/hole at the end":      "data=[[0 12288]]",
		"sparse/3 GiB":                "data=[[0 4096] [1073741824 1073815552] [2147479552 2147487744] [3221221376 3221225472]]",
		"sparse/only a hole":          "data=[]",
		"locked/immutable":            "flags=i",
		"locked/append only":          "flags=a",
		"locked/immutable folder":     "flags=i",
		"properties/nodatacow":        "flags=C",
		"properties/compressed":       `xattr "btrfs.compression"="zstd"`,
		"xattrs/capabilities":         `xattr "security.capability"=`,
		"xattrs/acl":                  `xattr "system.posix_acl_access"=`,
		"xattrs/default acl":          `xattr "system.posix_acl_default"=`,
		"links/loop":                  `xattr "trusted.of a link"="l"`,
		"specials/fifo":               `xattr "trusted.of a fifo"="p"`,
		"xattrs/user":                 `xattr "user.empty"=""`,
		"locked/nodump noatime":       "flags=dA",
		"specials/socket":             "type=socket mode=0755",
		"modes/folder all":            "type=dir mode=7777",
		"modes/folder sticky":         "type=dir mode=1644",
		"contents/random 5M":          "size=5242897",
		"sparse/preallocated":         "data=[[49152 61440]]",
		"properties/nodatacow folder": "flags=C",
	} {
		if e, ok := byPath[path]; !ok || !strings.Contains(e.String(), want) {
			t.Errorf("%q: %s, want %s", path, short(e.String()), want)
		}
	}
	Must(t, Unlock(dir+"/a"))
	Must(t, os.RemoveAll(dir+"/a"))
}

func TestDescribe_HashIsSha256sum(t *testing.T) {
	dir := Pool(t)
	Must(t, os.WriteFile(dir+"/f", []byte("content"), 0o644))
	out, err := exec.Command("sha256sum", dir+"/f").Output()
	Must(t, err)
	if e := describe(t, dir)[1]; e.Path != "f" || e.Hash != strings.Fields(string(out))[0] {
		t.Errorf("%s, want %s", e, out)
	}
}

func TestDescribe_HidesMarksOnlyAndLeavesAccessTimesAlone(t *testing.T) {
	dir := Pool(t) + "/x"
	Must(t, Tree(dir, TreeOptions{Entries: -1, Small: true}))
	before := describe(t, dir)
	Must(t, unix.Setxattr(dir+"/names", "trusted.fractal.dir", []byte("mark"), 0))
	var st unix.Stat_t
	Must(t, unix.Stat(dir, &st))
	Must(t, os.Mkdir(dir+"/.fractal-lazy", 0o700))
	Must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Atim, st.Mtim}, 0))
	if d := Diff(before, describe(t, dir)); d != "" {
		t.Errorf("marks show:\n%s", d)
	}
	Must(t, unix.Setxattr(dir+"/names", "trusted.fractals", []byte("no mark"), 0))
	if d := Diff(before, describe(t, dir)); d != `! "names" xattr "trusted.fractals": none -> "no mark"` {
		t.Errorf("diff: %s", d)
	}
}

// TestDiff_FindsEachKindOfDifference changes one thing at a time, and nothing
// else may show.
func TestDiff_FindsEachKindOfDifference(t *testing.T) {
	dir := Pool(t) + "/x"
	Must(t, Tree(dir, TreeOptions{Entries: 50}))
	keepTime := func(path string, do func() error) error {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	poke := func(name string, off int64, b string) func() error {
		return func() error {
			return keepTime(dir+"/"+name, func() error {
				f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt([]byte(b), off)
				return err
			})
		}
	}
	// again makes a link, FIFO or device anew with other content.
	again := func(name string, make func(path string) error) func() error {
		path := dir + "/" + name
		return func() error {
			return keepTime(dir+"/"+name[:strings.IndexByte(name, '/')], func() error {
				return keepTime(path, func() error {
					if err := os.Remove(path); err != nil {
						return err
					}
					return make(path)
				})
			})
		}
	}
	for _, c := range []struct {
		name string
		do   func() error
		want []string // beginnings of the lines
	}{
		{"nothing", func() error { return nil }, nil},
		{"one byte", poke("contents/text 4097", 4096, "!"), []string{`! "contents/text 4097" content: `}},
		{"one byte of a large file", poke("sparse/3 GiB", 2<<30, "!"), []string{`! "sparse/3 GiB" content: `}},
		{"zeros in a hole", poke("sparse/hole in the middle", 500_000, "\x00"), []string{`! "sparse/hole in the middle" data: `}},
		{"data in a hole of a large file", poke("sparse/3 GiB", 1<<29, "!"), []string{`! "sparse/3 GiB" content: `, `! "sparse/3 GiB" data: `}},
		{"a byte longer", poke("contents/text 100", 100, "!"), []string{`! "contents/text 100" size: 100 -> 101`, `! "contents/text 100" content: `}},
		{"mode", func() error { return os.Chmod(dir+"/modes/777", 0o776) }, []string{`! "modes/777" mode: 0777 -> 0776`}},
		{"owner of a link", func() error { return os.Lchown(dir+"/links/loop", 77, 79) }, []string{`! "links/loop" owner: 77:78 -> 77:79`}},
		{"a nanosecond", func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/times/zero", []unix.Timespec{{}, {Nsec: 1}}, 0)
		}, []string{`! "times/zero" mtime: 0.000000000 -> 0.000000001`}},
		{"xattr", func() error { return unix.Setxattr(dir+"/xattrs/user", "user.text", []byte("other"), 0) },
			[]string{`! "xattrs/user" xattr "user.text": "value" -> "other"`}},
		{"xattr gone", func() error { return unix.Removexattr(dir+"/xattrs/user", "user.empty") },
			[]string{`! "xattrs/user" xattr "user.empty": "" -> none`}},
		{"ACL", func() error {
			return unix.Setxattr(dir+"/xattrs/default acl", "system.posix_acl_default", acl(7, 4, 0), 0)
		}, []string{`! "xattrs/default acl" xattr "system.posix_acl_default": `}},
		{"capabilities", func() error {
			return unix.Setxattr(dir+"/xattrs/capabilities", "security.capability", fileCaps(1), 0)
		}, []string{`! "xattrs/capabilities" xattr "security.capability": `}},
		{"flag", func() error { return setFlags(dir+"/locked/immutable", 0) }, []string{`! "locked/immutable" flags: i -> none`}},
		{"target", again("links/loop", func(path string) error {
			if err := os.Symlink("lop", path); err != nil {
				return err
			}
			if err := os.Lchown(path, 77, 79); err != nil {
				return err
			}
			return unix.Lsetxattr(path, "trusted.of a link", []byte("l"), 0)
		}), []string{`! "links/loop" size: 4 -> 3`, `! "links/loop" target: "loop" -> "lop"`}},
		{"device number", again("specials/block", func(path string) error {
			return unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(240, 78)))
		}), []string{`! "specials/block" mode: 0660 -> 0640`, `! "specials/block" rdev: 240:77 -> 240:78`}},
		{"type", again("specials/socket", func(path string) error { return unix.Mkfifo(path, 0o755) }),
			[]string{`! "specials/socket" type: socket -> fifo`}},
		{"link broken", again("links/two", func(path string) error {
			b, err := os.ReadFile(dir + "/links/one")
			if err != nil {
				return err
			}
			return os.WriteFile(path, b, 0o644)
		}), []string{`! "links/one" nlink: 4 -> 3`, `! "links/one" links: `, `! "links/other/three" nlink: 4 -> 3`, `! "links/other/three" links: `,
			`! "links/two" nlink: 4 -> 1`, `! "links/two" links: `, `! "names/zz link from another folder" nlink: 4 -> 3`, `! "names/zz link from another folder" links: `}},
		{"missing and new", func() error {
			return keepTime(dir+"/large", func() error { return os.Rename(dir+"/large/entry-000007", dir+"/large/\n") })
		}, []string{`+ "large/\n" (file) is new`, `- "large/entry-000007" (file) is missing`}},
	} {
		before := describe(t, dir)
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		diff := Diff(before, describe(t, dir))
		lines := strings.Split(diff, "\n")
		if diff == "" {
			lines = nil
		}
		ok := len(lines) == len(c.want)
		for i := 0; ok && i < len(lines); i++ {
			ok = strings.HasPrefix(lines[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s:\n%s\nwant lines beginning with\n%s", c.name, diff, strings.Join(c.want, "\n"))
		}
		if (Text(before) == Text(describe(t, dir))) != (len(c.want) == 0) {
			t.Errorf("%s: the texts do not differ as the descriptions do", c.name)
		}
	}
}

func TestDiff_IsBounded(t *testing.T) {
	var list []Entry
	for i := range 1000 {
		list = append(list, Entry{Path: strings.Repeat("x", 5000+i), Type: "file"})
	}
	d := Diff(list, nil)
	if !strings.HasSuffix(d, "... and 940 more") || len(d) > 30_000 {
		t.Errorf("%d bytes, ending with %q", len(d), d[max(0, len(d)-30):])
	}
}
