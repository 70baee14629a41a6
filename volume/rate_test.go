package volume

import (
	"path/filepath"
	"testing"
)

// With one line for all uploads, a flush of a small volume does not wait for the end of a large upload, and that is held to the rate: at 1 MiB a second
// 24 MiB are long not done when the flush is.
func TestUploadRate_SmallFlushDoesNotWaitForALargeUpload(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a", func(o *Options, _ *Deps) { o.Upload = 1 << 20 })
	for _, name := range []string{"large", "small"} {
		x.create(name, "compression=none")
	}
	large, small := x.mount("large", "id"), x.mount("small", "id")
	shell(t, `head -c 25165824 /dev/urandom > "$1"`, filepath.Join(large, "f"))
	write(t, filepath.Join(small, "f"), "a few bytes")
	if _, err := x.Snapshot(ctx(t), "large", false, nil); err != nil {
		t.Fatal(err)
	}
	x.eventually("the large upload is under way", func() bool { return x.info("large").UploadPhase != "" })
	if s := x.flush("small"); !s.Remote {
		t.Errorf("%+v", s)
	}
	if i := x.info("large"); i.Unpublished != 1 || i.UploadError != "" {
		t.Errorf("the large upload is not under way any more: %+v", i)
	}
}
