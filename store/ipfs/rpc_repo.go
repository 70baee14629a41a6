package ipfs

import (
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore/query"
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

func (n *Node) repoStat(c *call) error {
	size, err := n.blocks.ds.DiskUsage(c.r.Context())
	if err != nil {
		return err
	}
	answer := map[string]any{
		"RepoSize":   size,
		"StorageMax": uint64(1<<64 - 1), // none
		"RepoPath":   "",                // no business of a client
		"Version":    "fs-repo@1",
	}
	if only, err := c.flag("size-only", false); err != nil {
		return err
	} else if only {
		return c.emit(answer)
	}
	res, err := n.blocks.ds.Query(c.r.Context(), query.Query{KeysOnly: true})
	if err != nil {
		return err
	}
	defer res.Close()
	count := uint64(0)
	for r := range res.Next() {
		if r.Error != nil {
			return r.Error
		}
		count++
	}
	answer["NumObjects"] = count
	return c.emit(answer)
}
