package volume

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
)

// childEnv makes the test binary a daemon that mounts volume "db" of the root it names.
const childEnv = "FRACTAL_VOLUME_TEST_ROOT"

func childDaemon(root string) {
	m, err := Open(context.Background(), Deps{Log: zerolog.New(os.Stderr)}, Options{Root: root, Interval: -1})
	if err == nil {
		err = m.Create(context.Background(), "db", nil)
	}
	var path string
	if err == nil {
		path, err = m.Mount(context.Background(), "db", "1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(path)
	select {}
}

func TestOpen_ClearsTheMountOfAKilledDaemon(t *testing.T) {
	w := newWorld(t)
	root := filepath.Join(w.dir, "a")
	must(t, os.Mkdir(root, 0o755))
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+root)
	child.Stderr = newSink(t, "child")
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	in := bufio.NewScanner(out)
	if !in.Scan() {
		child.Wait()
		t.Fatal("the child did not mount")
	}
	dir := in.Text()
	shell(t, `echo kept > "$1/f"; sync "$1/f"`, dir)
	must(t, child.Process.Kill())
	child.Wait()
	shell(t, `if ls "$1" 2>/dev/null; then exit 1; fi`, dir) // dead indeed

	a := w.machine("a")
	if i := a.info("db"); len(i.Mounts) != 0 || i.Mountpoint != "" {
		t.Fatalf("%+v", i)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("the dead mount stays: %v", err)
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "kept\n")
}
