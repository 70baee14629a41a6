package backing

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSubvolume_CreateSnapshotDelete(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	write(t, vol+"/x", 5000)
	must(t, Snapshot(vol, dir+"/ro", true))
	must(t, Snapshot(vol, dir+"/rw", false))
	if err := os.WriteFile(dir+"/ro/y", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to read-only snapshot: %v", err)
	}
	write(t, dir+"/rw/y", 1)
	if ino(t, dir+"/ro/x") != ino(t, vol+"/x") {
		t.Error("a snapshot should keep inode numbers")
	}

	parent, err := Info(vol)
	must(t, err)
	snap, err := Info(dir + "/ro")
	must(t, err)
	if snap.ParentUUID != parent.UUID || !snap.Readonly || parent.Readonly || snap.ID == parent.ID {
		t.Errorf("info: %+v of %+v", snap, parent)
	}
	if age := time.Since(snap.Created); age < -time.Second || age > time.Minute {
		t.Errorf("created %v ago", age)
	}

	for _, name := range []string{"/ro", "/rw", "/vol"} {
		must(t, DeleteSubvolume(dir+name))
		if _, err := os.Lstat(dir + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestSubvolume_RefusesTakenNamesAndWrongPlaces(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	must(t, os.Mkdir(dir+"/plain", 0o755))
	must(t, os.Symlink("nowhere", dir+"/dangling"))
	must(t, os.Symlink(vol, dir+"/link"))
	other := t.TempDir()
	for what, c := range map[string]struct{ err, want error }{
		"create, taken by a subvolume":   {CreateSubvolume(vol), ErrExists},
		"create, taken by a folder":      {CreateSubvolume(dir + "/plain"), ErrExists},
		"create, taken by a link":        {CreateSubvolume(dir + "/dangling"), ErrExists},
		"create on another file system":  {CreateSubvolume(other + "/x"), ErrNotBtrfs},
		"create without parent":          {CreateSubvolume(dir + "/none/x"), os.ErrNotExist},
		"snapshot to a taken name":       {Snapshot(vol, dir+"/plain", true), ErrExists},
		"snapshot of a folder":           {Snapshot(dir+"/plain", dir+"/s", true), ErrNotSubvolume},
		"snapshot of a link":             {Snapshot(dir+"/link", dir+"/s", true), ErrNotSubvolume},
		"snapshot to another disk":       {Snapshot(vol, other+"/s", true), ErrNotBtrfs},
		"delete of a folder":             {DeleteSubvolume(dir + "/plain"), ErrNotSubvolume},
		"delete of a link":               {DeleteSubvolume(dir + "/link"), ErrNotSubvolume},
		"delete of nothing":              {DeleteSubvolume(dir + "/none"), os.ErrNotExist},
		"read-only flag of a folder":     {SetReadonly(dir+"/plain", true), ErrNotSubvolume},
		"check of another file system":   {CheckPool(other), ErrNotBtrfs},
		"generation on another file sys": {second(Generation(other)), ErrNotBtrfs},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", what, c.err, c.want)
		}
	}
	if _, err := os.Lstat(vol); err != nil {
		t.Errorf("the volume behind the link is gone: %v", err)
	}
	if _, err := os.Lstat(dir + "/plain/vol"); err == nil {
		t.Error("a snapshot landed inside a folder")
	}
	must(t, CheckPool(dir))
}

func second[A, B any](_ A, b B) B { return b }

func TestIsSubvolume_TellsRootsFromFoldersAndLinks(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	must(t, os.Mkdir(vol+"/sub", 0o755))
	must(t, os.Symlink(vol, dir+"/link"))
	for path, want := range map[string]bool{dir: true, vol: true, vol + "/sub": false, dir + "/link": false, "/": false, "/dev/null": false} {
		if got, err := IsSubvolume(path); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", path, got, err, want)
		}
	}
	if _, err := IsSubvolume(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestDeleteSubvolume_WithNestedOnesIsRefused(t *testing.T) {
	vol := subvolume(t, pool(t)+"/vol")
	for i := range 300 { // more than the kernel tells at once
		subvolume(t, vol+"/in"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	if n, err := Nested(vol); n != 300 || err != nil {
		t.Errorf("nested: %d, %v, want 300", n, err)
	}
	if err := DeleteSubvolume(vol); !errors.Is(err, ErrNested) {
		t.Errorf("delete: %v", err)
	}
}

func TestDeleteSubvolume_GivesSpaceBackSoonAndKeepsOpenFiles(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	write(t, vol+"/big", 200<<20)
	fd := openFile(t, vol+"/big", unix.O_RDONLY)
	must(t, Snapshot(vol, dir+"/snap", true))
	must(t, SyncFS(dir))
	full, err := PoolStatus(dir)
	must(t, err)
	must(t, DeleteSubvolume(vol))
	if n, err := unix.Pread(fd, make([]byte, 4096), 100<<20); n != 4096 || err != nil {
		t.Errorf("read of an open file of a deleted subvolume: %d, %v", n, err)
	}
	must(t, unix.Close(fd))
	must(t, DeleteSubvolume(dir+"/snap"))
	start := time.Now()
	for {
		must(t, SyncFS(dir))
		now, err := PoolStatus(dir)
		must(t, err)
		if now.Free >= full.Free+190<<20 {
			t.Logf("space was back after %v", time.Since(start))
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("free: %d before, %d ten seconds after", full.Free, now.Free)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSetReadonly_TurnsWritingOffAndOn(t *testing.T) {
	vol := subvolume(t, pool(t)+"/vol")
	must(t, SetReadonly(vol, true))
	must(t, SetReadonly(vol, true))
	if err := os.Mkdir(vol+"/x", 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("mkdir: %v", err)
	}
	if i, err := Info(vol); !i.Readonly || err != nil {
		t.Errorf("info: %+v, %v", i, err)
	}
	must(t, SetReadonly(vol, false))
	must(t, os.Mkdir(vol+"/x", 0o755))
}

func TestList_FindsSubvolumesWithTheirPaths(t *testing.T) {
	dir := pool(t)
	must(t, os.MkdirAll(dir+"/volumes/k", 0o755))
	vol := subvolume(t, dir+"/volumes/k/data")
	must(t, Snapshot(vol, dir+"/volumes/k/snap", true))
	list, err := List(dir)
	must(t, err)
	if len(list) != 2 || list[0].Path != "volumes/k/data" || list[1].Path != "volumes/k/snap" || list[1].ParentUUID != list[0].UUID {
		t.Errorf("list: %+v", list)
	}
	for _, s := range list {
		i, err := Info(dir + "/" + s.Path)
		must(t, err)
		if i.ID != s.ID || i.UUID != s.UUID || i.CreatedTransid != s.CreatedTransid {
			t.Errorf("list has %+v, info %+v", s, i)
		}
	}
}
