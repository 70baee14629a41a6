package ipfs

import (
	"github.com/ipfs/go-cid"
)

// repoGC removes what no pin reaches and is older than the grace; with
// ?force, which Kubo does not have, what is younger as well.
func (n *Node) repoGC(c *call) error {
	force, err := c.flag("force", false)
	if err != nil {
		return err
	}
	silent, err := c.flag("silent", false)
	if err != nil {
		return err
	}
	err = n.collect(c.r.Context(), force, func(id cid.Cid) error {
		if silent {
			return nil
		}
		return c.emit(map[string]any{"Key": map[string]string{"/": id.String()}})
	})
	if err != nil {
		return err
	}
	c.start("application/json")
	return nil
}

// repoStat counts the blocks, which takes a look at each.
func (n *Node) repoStat(c *call) error {
	only, err := c.flag("size-only", false)
	if err != nil {
		return err
	}
	count, size, err := n.blocks.count(c.r.Context())
	if err != nil {
		return err
	}
	answer := map[string]any{
		"RepoSize":   size,
		"StorageMax": uint64(1<<64 - 1), // none
		"RepoPath":   "",                // no business of a client
		"Version":    "fs-repo@1",
	}
	if !only {
		answer["NumObjects"] = count
	}
	return c.emit(answer)
}
