package volume

import (
	"os"
	"path/filepath"
	"strings"
)

// mountedRoots lists which folders of BTRFS file systems are mounted by themselves, in any mount namespace that this process can see: a
// container's volume shows there as the path of its subvolume below the root of the file system.
func mountedRoots() map[string]bool {
	roots, seen := map[string]bool{}, map[string]bool{}
	procs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, p := range procs {
		ns, err := os.Readlink(filepath.Join(p, "ns", "mnt"))
		if err != nil || seen[ns] { // it may be gone
			continue
		}
		b, err := os.ReadFile(filepath.Join(p, "mountinfo"))
		if err != nil {
			continue
		}
		seen[ns] = true
		for line := range strings.Lines(string(b)) {
			head, tail, ok := strings.Cut(line, " - ")
			if f := strings.Fields(head); ok && len(f) > 4 && strings.HasPrefix(tail, "btrfs ") {
				roots[unescape(f[3])] = true
			}
		}
	}
	return roots
}

// mountedBelow tells whether path, or a folder in it, is one of roots.
func mountedBelow(roots map[string]bool, path string) bool {
	for r := range roots {
		if r == path || strings.HasPrefix(r, path+"/") {
			return true
		}
	}
	return false
}
