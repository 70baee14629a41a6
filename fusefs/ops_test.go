package fusefs

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ownMethods are the methods written for FS, without those of the embedded default.
func ownMethods(t *testing.T) map[string]bool {
	t.Helper()
	pkgs, err := parser.ParseDir(token.NewFileSet(), ".", func(i fs.FileInfo) bool { return !strings.HasSuffix(i.Name(), "_test.go") }, 0)
	must(t, err)
	own := map[string]bool{}
	for _, file := range pkgs["fusefs"].Files {
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			if star, ok := fn.Recv.List[0].Type.(*ast.StarExpr); ok && star.X.(*ast.Ident).Name == "FS" {
				own[fn.Name.Name] = true
			}
		}
	}
	return own
}

func TestOperations_ListHoldsAgainstTheCode(t *testing.T) {
	own := ownMethods(t)
	listed := map[string]bool{"String": true}
	names := map[string]bool{}
	for _, o := range operations {
		if names[o.name] {
			t.Errorf("%s is listed twice", o.name)
		}
		names[o.name] = true
		listed[o.method] = true
		if o.method != "" && !own[o.method] {
			t.Errorf("%s: FS has no method %s of its own", o.name, o.method)
		}
		if o.method == "" && o.reason == "" {
			t.Errorf("%s is left out without a reason", o.name)
		}
	}
	raw := reflect.TypeFor[fuse.RawFileSystem]()
	for i := range raw.NumMethod() {
		if m := raw.Method(i).Name; own[m] && !listed[m] {
			t.Errorf("method %s answers a request that is not listed", m)
		}
	}
	// Opcodes 1 to 53 of linux/fuse.h without 7 and 19, which do not exist.
	if len(names) != 51 {
		t.Errorf("%d requests listed, the protocol has 51", len(names))
	}
}

func TestErrno_Table(t *testing.T) {
	for _, c := range []struct {
		err   error
		errno syscall.Errno
		loud  bool
	}{
		{nil, 0, false},
		{ErrIntegrity, syscall.EIO, true},
		{fmt.Errorf("chunk 3: %w", ErrIntegrity), syscall.EIO, true},
		{ErrInterrupted, syscall.EINTR, false},
		{ErrNoSpace, syscall.ENOSPC, false},
		{ErrFenced, syscall.EROFS, false},
		{ErrTimeout, syscall.EIO, true},
		{ErrRemote, syscall.EIO, true},
		{context.Canceled, syscall.EINTR, false},
		{fmt.Errorf("fetch: %w", context.Canceled), syscall.EINTR, false},
		{context.DeadlineExceeded, syscall.EIO, true},
		{fmt.Errorf("fetch: %w: %w", ErrRemote, context.Canceled), syscall.EIO, true},
		{unix.ENOTEMPTY, syscall.ENOTEMPTY, false},
		{fmt.Errorf("open: %w", unix.ESTALE), syscall.ESTALE, false},
		{&fs.PathError{Op: "open", Path: "x", Err: unix.EACCES}, syscall.EACCES, false},
		{syscall.Errno(0), syscall.EIO, true},
		{errors.New("something else"), syscall.EIO, true},
	} {
		errno, loud := toErrno(c.err)
		if errno != c.errno || loud != c.loud {
			t.Errorf("%v: got %v (logged %t), want %v (%t)", c.err, errno, loud, c.errno, c.loud)
		}
	}
}
