package ipfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// readImportAnswer reads the answer of dag/import. It returns true where the
// line with the sums, which comes last, was there.
func readImportAnswer(r io.Reader) (stats bool, err error) {
	dec := json.NewDecoder(io.LimitReader(r, maxAnswer))
	for {
		var line struct {
			Root *struct {
				Cid         map[string]string
				PinErrorMsg string
			}
			Stats *struct{ BlockCount, BlockBytesCount uint64 }
		}
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return stats, nil
		}
		if err != nil {
			return false, err
		}
		if line.Root != nil && line.Root.PinErrorMsg != "" {
			return false, fmt.Errorf("pin of a root: %s", shorten(line.Root.PinErrorMsg))
		}
		stats = stats || line.Stats != nil
	}
}
