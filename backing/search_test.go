package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTree_EachXattrFindsEveryInode(t *testing.T) {
	dir := filepath.Join(pool(t), "search")
	if err := CreateSubvolume(dir); err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()

	const name = "trusted.fractal.test"
	want := map[uint64]string{}
	for i := range 5000 {
		path := filepath.Join(dir, fmt.Sprintf("f%d", i))
		if err := os.WriteFile(path, make([]byte, i%9000), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(path, "user.other", []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 {
			continue
		}
		value := fmt.Sprintf("value %d", i)
		if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		want[st.Ino] = value
	}
	var last uint64
	n := 0
	err = tree.EachXattr(context.Background(), name, 0, func(ino uint64, value []byte) error {
		if ino <= last {
			t.Fatalf("inode %d after %d", ino, last)
		}
		if want[ino] != string(value) {
			t.Fatalf("inode %d has %q, want %q", ino, value, want[ino])
		}
		last, n = ino, n+1
		return nil
	})
	if err != nil || n != len(want) {
		t.Fatalf("found %d of %d, %v", n, len(want), err)
	}
	stop := errors.New("stop")
	if err := tree.EachXattr(context.Background(), name, last, func(ino uint64, _ []byte) error {
		if ino != last {
			t.Fatalf("inode %d, want %d", ino, last)
		}
		return stop
	}); !errors.Is(err, stop) {
		t.Fatalf("error %v, want the function's", err)
	}
}
