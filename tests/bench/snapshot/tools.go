package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// tool backs snapshots up.
type tool interface {
	name() string
	// backup backs the snapshot at path up, after those before it.
	backup(ctx context.Context, path string) (cost, error)
	close()
}

func newTools(ctx context.Context, b *bench, only string) ([]tool, error) {
	wanted := func(name string) bool { return only == "" || strings.Contains(","+only+",", ","+name+",") }
	first, err := newOurs(b)
	if err != nil {
		return nil, err
	}
	list := []tool{first}
	for _, t := range []struct {
		name  string
		needs []string
		make  func(context.Context, *bench) (tool, error)
	}{
		{"send", []string{"btrfs", "zstd", "openssl"}, newSend},
		{"restic", []string{"restic"}, newRestic},
		{"borg", []string{"borg"}, newBorg},
	} {
		if !wanted(t.name) {
			continue
		}
		made, err := tool(nil), error(nil)
		for _, program := range t.needs {
			if _, e := exec.LookPath(program); e != nil {
				made = absent{t.name, program}
			}
		}
		if made == nil {
			if made, err = t.make(ctx, b); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
		list = append(list, made)
	}
	return list, nil
}

// absent stands for a tool that is not installed.
type absent struct{ tool, program string }

func (a absent) name() string { return a.tool }
func (a absent) close()       {}
func (a absent) backup(context.Context, string) (cost, error) {
	return cost{note: "not measured: " + a.program + " is not installed"}, nil
}

// measured runs programs, as a pipe where there are several, and says what they cost in all.
func measured(cmds ...*exec.Cmd) (cost, error) {
	var c cost
	var said bytes.Buffer
	for i, cmd := range cmds {
		cmd.Stderr = &said
		if i > 0 {
			r, w, err := os.Pipe()
			if err != nil {
				return c, err
			}
			defer r.Close()
			defer w.Close()
			cmds[i-1].Stdout, cmd.Stdin = w, r
		}
	}
	begin := time.Now()
	for _, cmd := range cmds {
		if err := cmd.Start(); err != nil {
			return c, err
		}
	}
	for i, cmd := range cmds { // ours of the pipes would keep their readers waiting
		if w, ok := cmd.Stdout.(*os.File); ok && i+1 < len(cmds) {
			w.Close()
		}
	}
	var err error
	for _, cmd := range cmds {
		if e := cmd.Wait(); e != nil && err == nil {
			err = fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), e, strings.TrimSpace(said.String()))
		}
		c.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		c.memory += cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	c.wall = time.Since(begin)
	return c, err
}

// send is btrfs send, compressed and encrypted into a file that is synced.
type send struct {
	dir, parent, secret string
	n                   int
}

func newSend(_ context.Context, b *bench) (tool, error) {
	s := &send{dir: filepath.Join(b.dir, "send"), secret: uuid.NewString()}
	return s, os.Mkdir(s.dir, 0o700)
}

func (s *send) name() string { return "send" }
func (s *send) close()       {}

func (s *send) backup(ctx context.Context, path string) (cost, error) {
	args := []string{"send", "-q"}
	if s.parent != "" {
		args = append(args, "-p", s.parent)
	}
	s.n++
	name := filepath.Join(s.dir, fmt.Sprint(s.n))
	f, err := os.Create(name)
	if err != nil {
		return cost{}, err
	}
	defer f.Close()
	// One round of key derivation: the others have keys at hand, too.
	crypt := exec.CommandContext(ctx, "openssl", "enc", "-chacha20", "-pbkdf2", "-iter", "1", "-pass", "env:SECRET")
	crypt.Env = append(os.Environ(), "SECRET="+s.secret)
	crypt.Stdout = f
	c, err := measured(exec.CommandContext(ctx, "btrfs", append(args, path)...), exec.CommandContext(ctx, "zstd", "-q", "-3", "-c"), crypt)
	if err != nil {
		return c, err
	}
	begin := time.Now()
	if err := f.Sync(); err != nil {
		return c, err
	}
	c.wall += time.Since(begin)
	st, err := f.Stat()
	if err != nil {
		return c, err
	}
	c.bytes, s.parent = st.Size(), path
	return c, nil
}

// archive is a tool with a repository in a folder. It finds every snapshot in the same place, or it would take all files for new ones.
type archive struct {
	tool, repo, place string
	env               []string
	args              func(n int) []string
	n                 int
}

func newArchive(b *bench, name string) (*archive, error) {
	dir := filepath.Join(b.dir, name)
	a := &archive{tool: name, repo: filepath.Join(dir, "repo"), place: filepath.Join(dir, "volume")}
	return a, errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(a.place, 0o700))
}

func newRestic(ctx context.Context, b *bench) (tool, error) {
	a, err := newArchive(b, "restic")
	if err != nil {
		return nil, err
	}
	a.env = append(os.Environ(), "RESTIC_PASSWORD="+uuid.NewString(), "RESTIC_REPOSITORY="+a.repo, "RESTIC_CACHE_DIR="+a.repo+"-cache")
	a.args = func(int) []string { return []string{"restic", "backup", "-q", "--host", "bench", a.place} }
	return a, a.command(ctx, "restic", "init", "-q")
}

func newBorg(ctx context.Context, b *bench) (tool, error) {
	a, err := newArchive(b, "borg")
	if err != nil {
		return nil, err
	}
	a.env = append(os.Environ(), "BORG_PASSPHRASE="+uuid.NewString(), "BORG_REPO="+a.repo, "BORG_BASE_DIR="+a.repo+"-base")
	a.args = func(n int) []string {
		return []string{"borg", "create", "--compression", "zstd,3", "--files-cache", "ctime,size,inode", fmt.Sprintf("::%d", n), a.place}
	}
	return a, a.command(ctx, "borg", "init", "-e", "repokey-blake2")
}

func (a *archive) name() string { return a.tool }
func (a *archive) close()       { _ = unix.Unmount(a.place, unix.MNT_DETACH) }

func (a *archive) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = a.env
	_, err := measured(cmd)
	return err
}

func (a *archive) backup(ctx context.Context, path string) (cost, error) {
	if err := unix.Mount(path, a.place, "", unix.MS_BIND, ""); err != nil {
		return cost{}, fmt.Errorf("mount: %w", err)
	}
	defer a.close()
	before, err := folder(a.repo)
	if err != nil {
		return cost{}, err
	}
	a.n++
	args := a.args(a.n)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = a.env
	c, err := measured(cmd)
	if err != nil {
		return c, err
	}
	after, err := folder(a.repo)
	c.bytes = max(after-before, 0)
	return c, err
}

// folder is how many bytes the files in it have.
func folder(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
