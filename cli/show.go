package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
)

// ago is a time as people read it.
func ago(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return humanize.Time(*t)
}

// inspectVolume writes one volume, a field a line; what does not apply is left out.
func inspectVolume(w io.Writer, v volume.Info) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	when := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return at.UTC().Format(time.RFC3339) + " (" + humanize.Time(*at) + ")"
	}
	line("Name", v.Name)
	line("Public key", v.Pubkey)
	line("State", v.State)
	line("Locked", v.LockedWhy)
	if v.CloneOf != "" {
		line("Clone of", v.CloneOf+", which stays until this one is whole and published")
	}
	line("Fenced by", v.FencedBy)
	line("Offline", v.OfflineWhy)
	line("Mount point", v.Mountpoint)
	line("Mounted by", v.Mount)
	line("Not direct", v.MountWhy)
	line("Mounted for", strings.Join(v.Mounts, ", "))
	line("Generation", fmt.Sprint(v.Generation))
	line("Replicated", when(v.LastReplicated))
	if l := v.UploadLag; l != nil && *l > 0 {
		line("Upload lag", time.Duration(*l*float64(time.Second)).Round(time.Second).String())
	}
	line("Size", fmt.Sprintf("%s in %d files", humanize.IBytes(v.BytesTotal), v.FilesTotal))
	line("Remote", fmt.Sprintf("%s in %d files", humanize.IBytes(v.BytesRemote), v.FilesRemote))
	if v.BytesTaken > 0 {
		line("From here", humanize.IBytes(v.BytesTaken)+" taken from older snapshots on this machine, "+humanize.IBytes(v.BytesFetched)+" fetched")
	}
	if v.Rate > 0 {
		line("Fetching", fmt.Sprintf("%s/s, %s left", humanize.IBytes(uint64(v.Rate)), time.Duration(v.ETASeconds*float64(time.Second)).Round(time.Second)))
	}
	if v.Paused {
		line("Fetching", "paused")
	}
	line("Stalled since", when(v.StalledSince))
	line("Stalled by", v.StalledWhy)
	if v.Unpublished > 0 {
		line("Unpublished", fmt.Sprintf("%d snapshots", v.Unpublished))
	}
	line("Upload", v.UploadPhase)
	line("Upload failed", v.UploadError)
	if v.SizeUsed > 0 {
		line("Of its limit", humanize.IBytes(v.SizeUsed))
	}
	line("Limit is soft", v.SizeSoft)
	line("Left out", v.LeftOut)
	line("Divergent", strings.Join(v.Divergent, ", "))
	for _, k := range slices.Sorted(maps.Keys(v.Options)) {
		line("Option "+k, v.Options[k])
	}
	line("Created", v.Created.UTC().Format(time.RFC3339))
	t.Flush()
}
