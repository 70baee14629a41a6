package hive

import "errors"

var (
	// ErrNotFound: the Hive does not know the volume or the manifest, or the volume has no manifest.
	ErrNotFound = errors.New("the Hive does not know it")
	// ErrUnavailable: no answer, or none that this API knows: refused, timed out, 5xx, 429, an unexpected redirect, a body that is
	// too long or that is not what was asked for. Trying again later may help.
	ErrUnavailable = errors.New("the Hive is unavailable")
	// ErrDenied: 401 or 403; the token is unknown, or the volume belongs to another account.
	ErrDenied = errors.New("the Hive refused the token")
	// ErrUnsupported: this Hive does not have the call, which the original API does not have either.
	ErrUnsupported = errors.New("the Hive cannot do that")
	// ErrRejected: 400 or another 4xx; the text holds the Hive's reason. The same request will be rejected again.
	ErrRejected = errors.New("the Hive rejected it")
	// ErrSignature: the bytes were not signed with the volume's key.
	ErrSignature = errors.New("manifest has a bad signature")
	// ErrHash: the volume's own manifest, but another one than the one that was asked for.
	ErrHash = errors.New("manifest has another hash than the one asked for")
	// ErrFormat: the bytes are no manifest, or one outside the bounds of this package.
	ErrFormat = errors.New("not a manifest")
)
