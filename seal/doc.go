// Package seal holds the keys of a volume and everything that is done with
// them: it is the only code that sees key bytes.
//
// # Terms
//
// A Privkey is an ed25519 seed; its Pubkey names the volume and checks the
// signatures of its manifests. The Secret is BLAKE2s-256 of the Privkey: who
// has it can read the volume but not publish in its name. A Sealer encrypts
// and decrypts with three keys derived from the Secret. A SealedKey is a Privkey
// sealed with a Passphrase. docs/FORMAT.md has the derivations and the layout of sealed bytes.
//
// # What it guarantees
//
//   - Sealing is deterministic: equal kind, associated data and plaintext give
//     equal bytes under one Secret, so that equal content is one block.
//   - The nonce is a keyed hash of all that is sealed. No nonce ever serves two
//     different messages.
//   - What was sealed as one Kind, or with other associated data, does not open
//     as another: Open returns ErrOpen and no plaintext.
//   - A SealedKey that is forged costs bounded memory and time, and one is opened at a time in the process.
//   - A file whose path came from outside is read only where its owner keeps it as a secret.
//   - A Privkey, a Sealer, a Passphrase or a SealedKey that is printed, logged or marshalled shows
//     "[redacted]". Only the methods named Reveal... give key material away.
//
// All types may be used from many goroutines at once. Nothing is kept on disk,
// so a crash leaves nothing behind.
//
//	k, err := seal.GeneratePrivkey()
//	if err != nil {
//		return err
//	}
//	s := k.Sealer()
//	sealed := s.Seal(nil, seal.KindData, nil, plain)
//	plain, err = s.Open(nil, seal.KindData, nil, sealed)
package seal
