package hive

import "github.com/google/uuid"

// apiPrefix stands before every path but /health.
const apiPrefix = "/api/v1"

// Volume is what the Hive says of a volume.
type Volume struct {
	Account uuid.UUID  `json:"account"`
	Writer  *uuid.UUID `json:"writer"` // nil: no machine holds the volume
}
