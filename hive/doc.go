// Package hive speaks the Fractal storage API, from both sides: it holds the codec of the manifest, the Client that the
// driver uses, and the Server that is the embedded default for the storage backend.
//
// Terms. A volume is known to the Hive by its public key and belongs to an account; a bearer token stands for an account. A
// manifest describes one snapshot: who made it, its generation, its parent, and where its data is. It is signed with the
// volume's private key and named by its Hash. The writer is the one machine whose manifests the Hive takes.
//
// What is guaranteed. Encode and DecodeManifest are inverse: what decodes, encodes to the same bytes, so there is one encoding of
// a manifest and one Hash. Every length is bounded before it is believed. Client hands out no manifest whose signature and
// hash it did not check, so a Hive can withhold a manifest, but neither invent one nor change it. Server has stored a manifest
// durably before it answers; of two manifests of one generation it takes exactly one.
//
// The Hive is NOT kept from reading manifests: they are signed and not encrypted. A clone's manifest carries the Secret of
// its parent's volume (see ParentVolume), which lets the Hive read that volume. docs/THREAT-MODEL.md says more.
//
// Concurrency. Client and Server may be used by any number of goroutines at once. A Manifest is a plain value; who shares one
// must not change it. Neither Client nor Server starts a goroutine that outlives a call.
//
// After a crash. Server writes in transactions of SQLite (WAL, synchronous=FULL): a request is there as a whole or not at
// all, and one that was answered is there. A client that saw no answer posts the same manifest again, which is accepted.
//
// Example:
//
//	c, err := hive.NewClient("https://hive.example", token, nil)
//	if err != nil {
//		return err
//	}
//	m := &hive.Manifest{Creation: now, Machine: machine, Path: path, Size: n, SizeTotal: n, Generation: 1, Data: "ipfs://" + root}
//	if _, err := c.Post(ctx, key.Public(), m.Sign(key)); err != nil {
//		return fmt.Errorf("publish snapshot: %w", err)
//	}
//	latest, err := c.Latest(ctx, key.Public())
package hive
