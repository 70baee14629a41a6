package ipfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"time"

	"fractal-lazy/store"
)

// errAnswered ends the writing of a body whose answer is there already.
var errAnswered = errors.New("the server answered before the end of the stream")

// PutMany implements store.Store: one CAR stream to dag/import, of unknown
// length and with back pressure, so that the sequence is read no faster than
// the store takes it. Roots are not pinned. An empty sequence asks nothing.
func (c *client) PutMany(ctx context.Context, blocks iter.Seq2[store.Block, error]) error {
	var up *upload
	var seqErr error // of the sequence, or of what it gave
	for b, err := range blocks {
		if err == nil {
			err = checkPut(b)
		}
		if err != nil {
			seqErr = err
			break
		}
		if up == nil {
			if up, err = c.startUpload(ctx, b); err != nil {
				return err
			}
		}
		if store.WriteCARBlock(up.w, b) != nil {
			break // the request ended; finish knows why
		}
	}
	if up == nil {
		if seqErr == nil {
			seqErr = ctx.Err()
		}
		return seqErr
	}
	return up.finish(seqErr)
}

// checkPut refuses what the store would refuse, before it costs the stream.
func checkPut(b store.Block) error {
	if len(b.Data) > store.MaxBlock {
		return fmt.Errorf("put %s: %w", b.CID, store.ErrTooLarge)
	}
	if err := store.Verify(b.CID, b.Data); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// upload is one dag/import under way: the caller writes to w, a goroutine
// runs the request and ends when the answer was read.
type upload struct {
	w    *bufio.Writer // the CAR
	pipe *io.PipeWriter
	form *multipart.Writer
	done chan error // the request's outcome, once
}

func (c *client) startUpload(ctx context.Context, first store.Block) (*upload, error) {
	pr, pw := io.Pipe()
	own, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(c.slowly(), func() { cancel(errStalled) })
	// One buffer in front of the pipe makes large writes of the many small
	// ones; the form sits above it so that both share it.
	w := bufio.NewWriterSize(pw, 256<<10)
	form := multipart.NewWriter(w)
	args := url.Values{
		"pin-roots":       {"false"},
		"stats":           {"true"},
		"allow-big-block": {"false"},
	}
	req, err := c.rpcRequest(own, "dag/import", args, &offered{pr, stall, c.slowly()})
	if err != nil {
		stall.Stop()
		cancel(nil)
		return nil, err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	// A server that refuses the token says so before the blocks are sent.
	req.Header.Set("Expect", "100-continue")
	up := &upload{w: w, pipe: pw, form: form, done: make(chan error, 1)}
	go func() {
		err := c.runUpload(ctx, req, func() { stall.Reset(c.slowly()) })
		stall.Stop()
		cancel(nil)
		// Whoever still writes must not wait for a reader that is gone.
		pr.CloseWithError(errAnswered)
		up.done <- err
	}()

	head := textproto.MIMEHeader{}
	head.Set("Content-Disposition", `form-data; name="file"; filename="blocks.car"`)
	head.Set("Content-Type", "application/octet-stream")
	if _, err := form.CreatePart(head); err != nil {
		return nil, up.finish(err)
	}
	// A CAR names roots; what is one is known only at the end, and with
	// pin-roots=false it does not matter: the first block stands in.
	if err := store.WriteCARHeader(w, first.CID); err != nil {
		return nil, up.finish(err)
	}
	return up, nil
}

// offered is the body of an upload. stall runs while the server has not taken what was read last, or owes its answer, and not while there is nothing to send.
type offered struct {
	io.ReadCloser
	stall *time.Timer
	limit time.Duration
}

func (o *offered) Read(p []byte) (int, error) {
	o.stall.Stop()
	defer o.stall.Reset(o.limit)
	return o.ReadCloser.Read(p)
}

// finish ends the stream and returns what came of it. With seqErr it is cut
// off and seqErr returned.
func (up *upload) finish(seqErr error) error {
	end := seqErr
	if end == nil {
		end = up.form.Close()
	}
	if end == nil {
		end = up.w.Flush()
	}
	// A body that ends with an error makes the transport cut the connection:
	// the server sees an incomplete stream, never a shorter one.
	up.pipe.CloseWithError(end) // io.EOF where nil
	err := <-up.done
	if seqErr != nil {
		return seqErr
	}
	if err == nil && end != nil {
		// 200 for a stream that was not read to its end.
		return fmt.Errorf("/api/v0/dag/import: %w: %w", store.ErrUnavailable, end)
	}
	return err
}

// runUpload does the request and reads its answer: JSON objects, a line each.
func (c *client) runUpload(ctx context.Context, req *http.Request, arrived func()) error {
	const what = "/api/v0/dag/import"
	res, err := c.http.Do(req)
	if err != nil {
		return transportError(ctx, what, stalled(req.Context(), err))
	}
	res.Body = &moving{res.Body, arrived}
	defer drain(res.Body)
	if res.StatusCode != http.StatusOK {
		return c.statusError(res, what)
	}
	stats, err := readImportAnswer(res.Body)
	if err != nil {
		return transportError(ctx, what, stalled(req.Context(), err))
	}
	if err := c.trailerError(res, what); err != nil {
		return err
	}
	if !stats {
		return fmt.Errorf("%s: %w: the answer ended early", what, store.ErrUnavailable)
	}
	return nil
}
