package plugin

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// A device that is switched off has so much time for the final upload, and is told what is left when it is over.
func TestUnmount_WaitIsBoundedAndSaysWhatIsLeft(t *testing.T) {
	ctx, n := bg(t), newNetwork(t)
	a := serve(t, n.manager(t), Options{})
	_, err := a.client.Create(ctx, "db", nil)
	must(t, err)
	path, err := a.client.Mount(ctx, "db", "", nil)
	must(t, err)
	put(t, filepath.Join(path, "file"), []byte("one"))
	_, err = a.client.Flush(ctx, "db", nil)
	must(t, err)
	lag := func() float64 {
		t.Helper()
		info, err := a.client.Get(ctx, "db")
		must(t, err)
		st, err := a.client.Status(ctx)
		must(t, err)
		if info.UploadLag == nil || len(st.Volumes) != 1 || st.Volumes[0].UploadLag == nil {
			t.Fatalf("no lag: %+v", st.Volumes)
		}
		if (*info.UploadLag > 0) != (*st.Volumes[0].UploadLag > 0) {
			t.Errorf("lag %v, status has %v", *info.UploadLag, *st.Volumes[0].UploadLag)
		}
		return *info.UploadLag
	}
	if l := lag(); l != 0 {
		t.Errorf("all is published, and the lag is %v", l)
	}
	put(t, filepath.Join(path, "file"), []byte("two"))
	if lag() == 0 {
		t.Error("a change is not published, and the lag is 0")
	}

	n.down.Store(true)
	progress := 0
	_, err = a.client.Unmount(ctx, "db", control.UnmountRequest{Wait: true, WaitSeconds: 1.5}, func(volume.Progress) { progress++ })
	if !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "not given back after 1.5s: 1 snapshots wait") || !strings.Contains(err.Error(), "in the background") {
		t.Errorf("%v", err)
	}
	if progress == 0 {
		t.Error("no progress was shown")
	}
	info, err := a.client.Get(ctx, "db")
	if err != nil || info.State != volume.StateUploading || info.Unpublished != 1 || *info.UploadLag == 0 {
		t.Errorf("%+v, %v", info, err)
	}
	n.down.Store(false)
	info, err = a.client.Unmount(ctx, "db", control.UnmountRequest{Wait: true, WaitSeconds: 3600}, nil)
	if err != nil || info.State != volume.StateUnmounted || info.Generation != 2 {
		t.Errorf("the same call again: %+v, %v", info, err)
	}
	if l := lag(); l != 0 {
		t.Errorf("all is published, and the lag is %v", l)
	}
	for _, bad := range []float64{-1, 1e9} {
		if _, err := a.client.Unmount(ctx, "db", control.UnmountRequest{Wait: true, WaitSeconds: bad}, nil); !errors.Is(err, control.ErrRequest) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
