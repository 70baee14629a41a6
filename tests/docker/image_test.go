//go:build docker

package docker

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// image writes the tar file of a root file system for `docker import`.
type image struct {
	f    *os.File
	tar  *tar.Writer
	have map[string]bool
	err  error // the first one
}

func newImage(file string) (*image, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	return &image{f: f, tar: tar.NewWriter(f), have: map[string]bool{}}, nil
}

func (i *image) close() error {
	if err := i.tar.Close(); i.err == nil {
		i.err = err
	}
	if err := i.f.Close(); i.err == nil {
		i.err = err
	}
	return i.err
}

// put adds an entry, and the folders above it, once.
func (i *image) put(h *tar.Header, body []byte) {
	h.Name = path.Clean(h.Name)
	if i.err != nil || i.have[h.Name] {
		return
	}
	if up := path.Dir(h.Name); up != "." && up != "/" {
		i.dir(up, 0o755)
	}
	i.have[h.Name] = true
	h.Size = int64(len(body))
	if i.err = i.tar.WriteHeader(h); i.err == nil {
		_, i.err = i.tar.Write(body)
	}
}

func (i *image) dir(name string, mode int64) {
	i.put(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (i *image) file(name, text string, mode int64) {
	i.put(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, []byte(text))
}

func (i *image) link(name, to string) {
	i.put(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

// copy adds a file of this machine under its own name, links followed; a folder with all that is in it.
func (i *image) copy(from string) {
	if i.err != nil {
		return
	}
	st, err := os.Stat(from)
	if err != nil {
		i.err = err
		return
	}
	name := from[1:]
	if !st.IsDir() {
		b, err := os.ReadFile(from)
		if err != nil {
			i.err = err
			return
		}
		i.file(name, string(b), int64(st.Mode().Perm()))
		return
	}
	i.dir(name, 0o755)
	list, err := os.ReadDir(from)
	if err != nil {
		i.err = err
		return
	}
	for _, e := range list {
		i.copy(filepath.Join(from, e.Name()))
	}
}

// busybox adds the shell and the tools of every image.
func (i *image) busybox() {
	in, err := os.Open("/bin/busybox")
	if err != nil {
		i.err = fmt.Errorf("%w: apt-get install busybox-static", err)
		return
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		i.err = err
		return
	}
	i.file("bin/busybox", string(b), 0o755)
	for _, tool := range []string{"sh", "cat", "ls", "echo", "sleep", "stat", "mkdir", "rm", "mv", "ln", "dd", "md5sum", "touch", "sync", "test", "find",
		"seq", "head", "tail", "wc", "id", "chown", "chmod", "date", "kill", "ps", "mount", "df", "true", "false", "cp", "grep", "usleep", "sort", "env"} {
		i.link("bin/"+tool, "busybox")
	}
	i.dir("tmp", 0o1777)
	for _, d := range []string{"proc", "sys", "dev", "etc", "data", "root"} {
		i.dir(d, 0o755)
	}
}

// makeBusybox makes the image that most tests use. /content is what copy-up copies.
func makeBusybox(file string) error {
	i, err := newImage(file)
	if err != nil {
		return err
	}
	i.busybox()
	i.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n", 0o644)
	i.file("etc/group", "root:x:0:\napp:x:1000:\n", 0o644)
	i.dir("content", 0o750)
	i.file("content/from-image", "made with the image\n", 0o640)
	i.file("content/below/deep", "deep\n", 0o600)
	i.link("content/link", "below/deep")
	return i.close()
}
