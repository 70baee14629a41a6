package kit

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
)

// treeChild names, in the environment, the folder in which this program makes
// and describes a tree instead of running tests: a process that serves a mount
// must not use it (the Go runtime's poller would ask the mount and wait for itself).
const treeChild = "KIT_TREE_CHILD"

var treeOptions = TreeOptions{Entries: 500, Deep: true}

func TestMain(m *testing.M) {
	root := os.Getenv(treeChild)
	if root == "" {
		os.Exit(m.Run())
	}
	err := Tree(root, treeOptions)
	var list []Entry
	if err == nil {
		list, err = Describe(root)
	}
	if err == nil {
		err = gob.NewEncoder(os.Stdout).Encode(list)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestTree_ThroughFuseIsTheSameAsBesideIt makes the tree through a mounted
// volume and describes it there, below the mount, and where no FUSE took part.
func TestTree_ThroughFuseIsTheSameAsBesideIt(t *testing.T) {
	pool := Pool(t)
	Must(t, backing.CreateSubvolume(pool+"/vol"))
	tree, err := backing.OpenTree(pool + "/vol")
	Must(t, err)
	defer tree.Close()
	whole, err := lazy.Open(context.Background(), tree, nil, nil, lazy.Options{}) // without a mark: complete
	Must(t, err)
	defer whole.Close()
	mnt := t.TempDir()
	fs, err := fusefs.Mount(tree, whole, mnt, fusefs.Options{})
	Must(t, err)
	defer func() {
		if err := fs.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
			fs.Detach()
		}
		fs.Wait()
		NoLeaks(t, mnt)
	}()

	start := time.Now()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), treeChild+"="+mnt+"/x")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	var through []Entry
	Must(t, gob.NewDecoder(bytes.NewReader(out)).Decode(&through))
	t.Logf("made and described in %v", time.Since(start))
	if d := Diff(describe(t, pool+"/vol/x"), through); d != "" {
		t.Errorf("through FUSE it looks different:\n%s", d)
	}
	Must(t, Tree(pool+"/y", treeOptions))
	if d := Diff(describe(t, pool+"/y"), through); d != "" {
		t.Errorf("made through FUSE it is different:\n%s", d)
	}
}
