package failover

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// What fails back to A after B changed a little of it. A has the rest on its disk, and takes it from there: what comes over the network is the
// difference. C, which never had the volume, shows what it is without: it fetches all.
func TestFailback_FetchesOnlyTheDifference(t *testing.T) {
	for name, died := range map[string]bool{"A gave the volume back": false, "A died with changes of its own": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, plainBinary)
			a := w.device("a", w.url)
			mount, key := a.newVolume("v", "takeover=always", "compression=none")
			makeArchive(t, mount)
			a.flush("v")
			if died {
				write(t, mount+"/only on A", "divergent")
				fsync(t, mount+"/only on A")
				a.die()
			} else {
				a.cli("volume", "umount", "v")
			}

			b := w.device("b", w.url)
			b.create("v", key, "takeover=always", "compression=none")
			mount = b.mount("v")
			changeArchive(t, mount)
			b.flush("v")
			want := describe(t, mount)
			b.cli("volume", "umount", "v")

			if died {
				a.start()
			}
			mount = a.mount("v")
			same(t, "A's mount, read at once", want, describe(t, mount))
			a.cli("hydrate", "--wait", "v")
			same(t, "A's mount, complete", want, describe(t, mount))
			i := a.inspect("v")
			a.cli("volume", "umount", "v")

			c := w.device("c", w.url)
			c.create("v", key, "takeover=always", "compression=none")
			c.mount("v")
			c.cli("hydrate", "--wait", "v")
			j := c.inspect("v")
			t.Logf("of %d bytes: A took %d from its disk and fetched %d; C, without an old state, fetched %d", i.BytesTotal, i.BytesTaken, i.BytesFetched, j.BytesFetched)
			// B wrote 40 times 4 KiB, each in a chunk of its own, a new file of 1 MiB, and 20 small files, which lie in a few packs.
			if limit := uint64(40*256<<10 + 1<<20 + 20*512<<10 + 2<<20); i.BytesFetched > limit || i.BytesFetched > j.BytesFetched*2/5 {
				t.Errorf("A fetched %d bytes, the difference is at most %d", i.BytesFetched, limit)
			}
			if j.BytesFetched < 60<<20 || j.BytesTaken != 0 {
				t.Errorf("C fetched %d bytes and took %d: what is compared with?", j.BytesFetched, j.BytesTaken)
			}
			if i.BytesTaken+i.BytesFetched < 60<<20 {
				t.Errorf("A took %d and fetched %d", i.BytesTaken, i.BytesFetched)
			}
		})
	}
}

// makeArchive makes about 66 MiB.
func makeArchive(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"photos", "photos/2024", "notes"} {
		kit.Must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	kit.Must(t, os.WriteFile(root+"/database", noise(1, 40<<20), 0o600))
	for i := range 10 {
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/photos/2024/%d", root, i), noise(100+uint64(i), 2<<20+i*1000), 0o644))
	}
	for i := range 400 {
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/notes/%03d", root, i), noise(1000+uint64(i), 10_000+i*10), 0o644))
	}
	kit.Must(t, os.Link(root+"/photos/2024/3", root+"/a photo"))
	f, err := os.Create(root + "/sparse")
	kit.Must(t, err)
	_, err = f.WriteAt(noise(7, 1<<20), 100<<20)
	kit.Must(t, err)
	kit.Must(t, f.Close())
}

// changeArchive is what B does to it.
func changeArchive(t *testing.T, root string) {
	t.Helper()
	f, err := os.OpenFile(root+"/database", os.O_RDWR, 0)
	kit.Must(t, err)
	for i := range 40 {
		_, err := f.WriteAt(noise(5000+uint64(i), 4096), int64(i)<<20+8192)
		kit.Must(t, err)
	}
	kit.Must(t, f.Close())
	for i := range 20 {
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/notes/%03d", root, i*20), noise(6000+uint64(i), 9000), 0o644))
	}
	kit.Must(t, os.WriteFile(root+"/new", noise(9, 1<<20), 0o644))
	kit.Must(t, os.Remove(root+"/photos/2024/0"))
	kit.Must(t, os.Truncate(root+"/photos/2024/1", 1_500_000))
	kit.Must(t, unix.Setxattr(root+"/photos/2024/2", "user.note", []byte("x"), 0))
	kit.Must(t, os.Chmod(root+"/photos/2024/4", 0o600))
}
