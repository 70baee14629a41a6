package backing

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// dump says what a stream says, a line for each command.
func dump(r io.Reader) (string, error) {
	s, err := NewSendReader(r)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", s.Version())
	for {
		c, err := s.Next()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "%d %q", c.Kind, c.Path)
		for _, p := range []struct {
			name string
			v    any
			has  bool
		}{
			{"to", c.To, c.To != ""}, {"link", c.LinkTo, c.LinkTo != ""}, {"ino", c.Ino, c.Ino != 0}, {"size", c.Size, c.Size != 0},
			{"mode", c.Mode, c.Mode != 0}, {"uid", c.UID, c.UID != 0}, {"gid", c.GID, c.GID != 0}, {"rdev", c.Rdev, c.Rdev != 0},
			{"mtime", c.Mtime, c.Mtime.Sec != 0}, {"off", c.Offset, c.Offset != 0}, {"data", len(c.Data), len(c.Data) != 0},
			{"xattr", c.XattrName, c.XattrName != ""}, {"value", string(c.XattrData), len(c.XattrData) != 0},
			{"clone", fmt.Sprint(c.ClonePath, c.CloneOffset, c.CloneLen), c.ClonePath != ""},
			{"whole", c.UnencodedFileLen, c.UnencodedFileLen != 0}, {"compression", c.Compression, c.Compression != 0},
		} {
			if p.has {
				fmt.Fprintf(&b, " %s=%q", p.name, fmt.Sprint(p.v))
			}
		}
		b.WriteByte('\n')
	}
}

func streams(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/send/*.stream")
	if err != nil || len(files) < 6 {
		t.Fatal(files, err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		out[f] = b
	}
	return out
}

func TestSendReader_GoldenStreams(t *testing.T) {
	for name, b := range streams(t) {
		got, err := dump(bytes.NewReader(b))
		must(t, err)
		text := strings.TrimSuffix(name, ".stream") + ".txt"
		if *update {
			must(t, os.WriteFile(text, []byte(got), 0o644))
		}
		want, err := os.ReadFile(text)
		must(t, err)
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestSendReader_RefusesEveryDamage(t *testing.T) {
	for name, b := range streams(t) {
		for i := 0; i < len(b); i += 1 + len(b)/700 {
			bad := bytes.Clone(b)
			bad[i] ^= 0x10
			if _, err := dump(bytes.NewReader(bad)); !errors.Is(err, ErrStream) {
				t.Errorf("%s: byte %d flipped: %v", name, i, err)
			}
			if _, err := dump(bytes.NewReader(b[:i])); !errors.Is(err, ErrStream) {
				t.Errorf("%s: cut at %d: %v", name, i, err)
			}
		}
	}
}

// command makes the bytes of one, with a good checksum.
func command(kind SendKind, attrs ...any) []byte {
	body := []byte{}
	for i := 0; i < len(attrs); i += 2 {
		var v []byte
		switch a := attrs[i+1].(type) {
		case string:
			v = []byte(a)
		case uint64:
			v = binary.LittleEndian.AppendUint64(nil, a)
		case []byte:
			v = a
		}
		body = binary.LittleEndian.AppendUint16(body, uint16(attrs[i].(int)))
		body = binary.LittleEndian.AppendUint16(body, uint16(len(v)))
		body = append(body, v...)
	}
	return seal(kind, body)
}

func seal(kind SendKind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.LittleEndian.AppendUint16(b, uint16(kind))
	b = append(append(b, 0, 0, 0, 0), body...)
	binary.LittleEndian.PutUint32(b[6:], ^crc32.Update(^uint32(0), castagnoli, b))
	return b
}

func stream(version uint32, commands ...[]byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(streamMagic), version), bytes.Join(commands, nil)...)
}

func TestSendReader_RefusesWhatNoKernelWrites(t *testing.T) {
	end := command(SendEnd)
	long := strings.Repeat("x", maxStreamPath+1)
	good := stream(1, command(SendUnlink, attrPath, "a"), end)
	if _, err := dump(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":                      {},
		"version 0":                  stream(0, end),
		"version 4":                  stream(4, end),
		"no end":                     stream(1, command(SendUnlink, attrPath, "a")),
		"command 0":                  stream(1, command(0), end),
		"command of version 2":       stream(1, command(SendFallocate, attrPath, "a", attrFallocateMode, []byte{0, 0, 0, 0}, attrOffset, uint64(0), attrSize, uint64(0)), end),
		"command of version 3":       stream(2, command(SendEnableVerity, attrPath, "a", attrVerityAlgo, []byte{1}, attrVerityBlock, []byte{0, 0, 0, 0}), end),
		"command of the future":      stream(3, command(27), end),
		"attribute 0":                stream(1, command(SendUnlink, attrPath, "a", 0, "x"), end),
		"attribute of version 2":     stream(1, command(SendUnlink, attrPath, "a", attrCompression, []byte{0, 0, 0, 0}), end),
		"attribute twice":            stream(1, command(SendUnlink, attrPath, "a", attrPath, "b"), end),
		"attribute missing":          stream(1, command(SendRename, attrPath, "a"), end),
		"number of 4 bytes":          stream(1, command(SendTruncate, attrPath, "a", attrSize, []byte{1, 2, 3, 4}), end),
		"long path":                  stream(1, command(SendUnlink, attrPath, long), end),
		"attribute behind the end":   stream(1, seal(SendUnlink, []byte{attrPath, 0, 9, 0, 'a'}), end),
		"half an attribute":          stream(1, seal(SendUnlink, []byte{attrPath}), end),
		"command over version 1":     stream(1, command(SendWrite, attrPath, "a", attrOffset, uint64(0), attrData, make([]byte, 60000), attrXattrData, make([]byte, 60000)), end),
		"a length of four gigabytes": stream(2, []byte{255, 255, 255, 255, 3, 0, 0, 0, 0, 0}),
	} {
		if _, err := dump(bytes.NewReader(b)); !errors.Is(err, ErrStream) {
			t.Errorf("%s: %v", name, err)
		}
	}
	failing := io.MultiReader(bytes.NewReader(good[:20]), failReader{})
	if _, err := dump(failing); !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrStream) {
		t.Errorf("error of the reader: %v", err)
	}
}

type failReader struct{}

func (failReader) Read([]byte) (int, error) { return 0, os.ErrPermission }

func FuzzSendReader(f *testing.F) {
	for _, b := range streams(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Checksums keep a fuzzer out: they are made right first.
		for at := streamHeader; at+commandHeader <= len(b); {
			size := int(binary.LittleEndian.Uint32(b[at:]))
			if size > len(b)-at-commandHeader {
				break
			}
			c := b[at : at+commandHeader+size]
			clear(c[6:10])
			binary.LittleEndian.PutUint32(c[6:], ^crc32.Update(^uint32(0), castagnoli, c))
			at += len(c)
		}
		if _, err := dump(bytes.NewReader(b)); err != nil && !errors.Is(err, ErrStream) {
			t.Fatal(err)
		}
	})
}

func TestSendChanges_TellsWhatChanged(t *testing.T) {
	dir := pool(t)
	v := subvolume(t, dir+"/v")
	for i := range 20 {
		write(t, fmt.Sprintf("%s/f%d", v, i), 10_000)
	}
	snap := func(name string) *Tree {
		must(t, SyncFS(v))
		must(t, Snapshot(v, dir+"/"+name, true))
		return openTree(t, dir+"/"+name)
	}
	a := snap("a")
	if got := kinds(t, a, snap("same")); !slices.Equal(got, []string{"2 ", "21 "}) {
		t.Errorf("of equal snapshots: %q", got)
	}
	must(t, os.Chmod(v+"/f3", 0o600))
	must(t, os.Rename(v+"/f4", v+"/g4"))
	f, err := os.OpenFile(v+"/f5", os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 5000)
	must(t, err)
	must(t, f.Close())
	got := kinds(t, a, snap("b"))
	for _, want := range []string{"18 f3", "10 g4", "11 f4", "22 f5"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	// Flags are in no command, but the inode is mentioned.
	fd, err := unix.Open(v+"/f7", unix.O_RDONLY, 0)
	must(t, err)
	b := openTree(t, dir+"/b")
	must(t, SetFlags(fd, 0x40))
	unix.Close(fd)
	if got := kinds(t, b, snap("c")); !slices.Contains(got, "20 f7") {
		t.Errorf("changed flags: %q", got)
	}
}

func kinds(t *testing.T, was, now *Tree) (list []string) {
	t.Helper()
	must(t, SendChanges(t.Context(), was, now, func(c *SendCommand) error {
		path := c.Path
		if c.Kind == SendSnapshot {
			path = ""
		}
		list = append(list, fmt.Sprintf("%d %s", c.Kind, path))
		return nil
	}))
	return list
}

func TestSendChanges_EndsWithItsContextAndItsReader(t *testing.T) {
	dir := pool(t)
	v := subvolume(t, dir+"/v")
	must(t, Snapshot(v, dir+"/a", true))
	for i := range 20_000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/file-%d", v, i), nil, 0o600))
	}
	must(t, Snapshot(v, dir+"/b", true))
	a, b := openTree(t, dir+"/a"), openTree(t, dir+"/b")
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := SendChanges(ctx, a, b, func(*SendCommand) error {
		if n++; n == 100 {
			cancel()
			time.Sleep(50 * time.Millisecond) // the kernel waits at a full pipe meanwhile
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n > 20_000 {
		t.Errorf("after %d commands: %v", n, err)
	}
	if err = SendChanges(t.Context(), a, b, func(*SendCommand) error { return os.ErrInvalid }); err != os.ErrInvalid {
		t.Error(err)
	}
	// A slow reader: the thread that sends gets many signals of the runtime, and none may reach the kernel.
	n = 0
	must(t, SendChanges(t.Context(), a, b, func(*SendCommand) error {
		if n++; n%1000 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	}))
	if n < 60_000 {
		t.Errorf("%d commands", n)
	}
	// A subvolume that can change is refused by the kernel.
	w := openTree(t, v)
	if err = SendChanges(t.Context(), a, w, func(*SendCommand) error { return nil }); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	must(t, DeleteSubvolume(dir+"/b")) // nothing holds it any more
}

func TestTree_NamesAreAllNamesOfAnInode(t *testing.T) {
	dir := subvolume(t, pool(t)+"/v")
	write(t, dir+"/first", 1)
	must(t, os.Mkdir(dir+"/d", 0o755))
	want := map[string]int{"first": 1}
	for i := range 3000 { // more than one item holds
		name := fmt.Sprintf("%0200d", i)
		if i%2 == 0 {
			must(t, os.Link(dir+"/first", dir+"/d/"+name))
		} else {
			must(t, os.Link(dir+"/first", dir+"/"+name))
		}
		want[name]++
	}
	must(t, SyncFS(dir))
	tree := openTree(t, dir)
	var st, sub unix.Stat_t
	must(t, unix.Stat(dir+"/first", &st))
	must(t, unix.Stat(dir+"/d", &sub))
	names, err := tree.Names(st.Ino)
	must(t, err)
	for _, n := range names {
		want[n.Name]--
		if n.Dir != RootIno && n.Dir != sub.Ino {
			t.Errorf("%s is in %d", n.Name, n.Dir)
		}
	}
	for name, n := range want {
		if n != 0 {
			t.Errorf("%s: %d", name, n)
		}
	}
	if names, err = tree.Names(sub.Ino); err != nil || len(names) != 1 || names[0] != (InodeName{RootIno, "d"}) {
		t.Error(names, err)
	}
	if names, err = tree.Names(1 << 40); err != nil || names != nil {
		t.Error(names, err)
	}
}
