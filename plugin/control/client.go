package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"fractal-lazy/volume"
)

// Client asks the daemon behind one socket. Make it with NewClient.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the daemon that listens on socket. It connects with the first call.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		IdleConnTimeout:    10 * time.Second,
	}}}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) Version(ctx context.Context) (Version, error) {
	return call[Version](ctx, c, "GET", "/version", nil)
}

func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "GET", "/status", nil)
}

func (c *Client) Create(ctx context.Context, name string, options map[string]string) (volume.Info, error) {
	return call[volume.Info](ctx, c, "POST", "/volumes", CreateRequest{Name: name, Options: options})
}

// List returns all volumes, sorted by name.
func (c *Client) List(ctx context.Context) ([]volume.Info, error) {
	return call[[]volume.Info](ctx, c, "GET", "/volumes", nil)
}

func (c *Client) Get(ctx context.Context, name string) (volume.Info, error) {
	return call[volume.Info](ctx, c, "GET", volumePath(name, ""), nil)
}

func (c *Client) Remove(ctx context.Context, name string, force bool) error {
	_, err := call[struct{}](ctx, c, "DELETE", volumePath(name, "")+"?force="+strconv.FormatBool(force), nil)
	return err
}

// Mount returns the mount point. It waits as long as the preparations take.
func (c *Client) Mount(ctx context.Context, name, id string, p func(volume.Progress)) (string, error) {
	r, err := stream[MountResult](ctx, c, volumePath(name, "/mount"), MountRequest{ID: id}, p)
	return r.Mountpoint, err
}

// Unmount gives up a mount, and waits as r says.
func (c *Client) Unmount(ctx context.Context, name string, r UnmountRequest, p func(volume.Progress)) (volume.Info, error) {
	return stream[volume.Info](ctx, c, volumePath(name, "/unmount"), r, p)
}

func (c *Client) Snapshot(ctx context.Context, name string, wait bool, p func(volume.Progress)) (volume.SnapshotInfo, error) {
	return stream[volume.SnapshotInfo](ctx, c, volumePath(name, "/snapshot"), SnapshotRequest{Wait: wait}, p)
}

// Snapshots lists the snapshots here and at the Hive, or with local those that are here, without asking anybody.
func (c *Client) Snapshots(ctx context.Context, name string, local bool) ([]volume.SnapshotInfo, error) {
	return call[[]volume.SnapshotInfo](ctx, c, "GET", volumePath(name, "/snapshots")+"?local="+strconv.FormatBool(local), nil)
}

// Clone makes a new volume of what the volume holds, or of a snapshot of it.
func (c *Client) Clone(ctx context.Context, name, snapshot, as string) (volume.RestoreResult, error) {
	return call[volume.RestoreResult](ctx, c, "POST", volumePath(name, "/clone"), CloneRequest{New: as, Snapshot: snapshot})
}

// Purge removes what a pattern does not keep. What could not be removed is in the result, and no error.
func (c *Client) Purge(ctx context.Context, name string, r PurgeRequest) (volume.PurgeResult, error) {
	return call[volume.PurgeResult](ctx, c, "POST", volumePath(name, "/purge"), r)
}

func (c *Client) RemoveSnapshot(ctx context.Context, name, snapshot string, force bool) (volume.SnapshotInfo, error) {
	return call[volume.SnapshotInfo](ctx, c, "POST", volumePath(name, "/snapshots/remove"), RemoveSnapshotRequest{Snapshot: snapshot, Force: force})
}

// Browse mounts a snapshot read-only, or with end takes that away; then the result is empty.
func (c *Client) Browse(ctx context.Context, name, snapshot string, end bool, p func(volume.Progress)) (BrowseResult, error) {
	return stream[BrowseResult](ctx, c, volumePath(name, "/browse"), BrowseRequest{Snapshot: snapshot, End: end}, p)
}

// Diff calls each for every change between two snapshots; to empty: the newest.
func (c *Client) Diff(ctx context.Context, name, from, to string, each func(volume.Change) error) (volume.DiffResult, error) {
	return follow[volume.DiffResult](ctx, c, volumePath(name, "/diff"), DiffRequest{From: from, To: to}, func(e Event) error {
		if e.Change == nil {
			return nil
		}
		return each(*e.Change)
	})
}

func (c *Client) Restore(ctx context.Context, name, snapshot string) (volume.RestoreResult, error) {
	return call[volume.RestoreResult](ctx, c, "POST", volumePath(name, "/restore"), RestoreRequest{Snapshot: snapshot})
}

func (c *Client) Flush(ctx context.Context, name string, p func(volume.Progress)) (volume.SnapshotInfo, error) {
	return stream[volume.SnapshotInfo](ctx, c, volumePath(name, "/flush"), struct{}{}, p)
}

func (c *Client) Hydrate(ctx context.Context, name string, r HydrateRequest, p func(volume.Progress)) (volume.Info, error) {
	return stream[volume.Info](ctx, c, volumePath(name, "/hydrate"), r, p)
}

// Verify reads a published snapshot back from the block store. That it is damaged is no error: the result says so.
func (c *Client) Verify(ctx context.Context, name string, r VerifyRequest, p func(volume.Progress)) (volume.Verification, error) {
	return stream[volume.Verification](ctx, c, volumePath(name, "/verify"), r, p)
}

// KeyExport returns the volume's private key, as base64.
func (c *Client) KeyExport(ctx context.Context, name string) (string, error) {
	k, err := call[Key](ctx, c, "POST", volumePath(name, "/key"), struct{}{})
	return k.Privkey, err
}

// Synchronize brings the newest generation of a volume that is not in use here, as far as the budget goes.
func (c *Client) Synchronize(ctx context.Context, name string, r SynchronizeRequest, p func(volume.Progress)) (volume.Synchronization, error) {
	return stream[volume.Synchronization](ctx, c, volumePath(name, "/synchronize"), r, p)
}

// Replicate brings published snapshots to a second place.
func (c *Client) Replicate(ctx context.Context, name string, r ReplicateRequest, p func(volume.Progress)) (volume.Replication, error) {
	return stream[volume.Replication](ctx, c, volumePath(name, "/replicate"), r, p)
}

// ImportButtervolume takes volumes of Buttervolume over. One that could not be taken over is in the result, and no error.
func (c *Client) ImportButtervolume(ctx context.Context, r ImportButtervolumeRequest) (volume.ButterResult, error) {
	return call[volume.ButterResult](ctx, c, "POST", "/import/buttervolume", r)
}

// Schedule returns the jobs of a volume, of all where name is empty.
func (c *Client) Schedule(ctx context.Context, name string) (Schedule, error) {
	return call[Schedule](ctx, c, "GET", "/schedule?volume="+url.QueryEscape(name), nil)
}

// SetJob schedules an action, or changes when it runs.
func (c *Client) SetJob(ctx context.Context, r JobRequest) (Schedule, error) {
	return call[Schedule](ctx, c, "POST", "/schedule", r)
}

// PauseJobs holds all jobs, or lets them go on.
func (c *Client) PauseJobs(ctx context.Context, paused bool) (Schedule, error) {
	path := "/schedule/resume"
	if paused {
		path = "/schedule/pause"
	}
	return call[Schedule](ctx, c, "POST", path, struct{}{})
}

func volumePath(name, rest string) string { return "/volumes/" + url.PathEscape(name) + rest }

// call sends one request and decodes its one answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16*MaxBody))
	if err != nil {
		return out, c.broken(ctx, err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("answer of the daemon at %s: %w", c.socket, err)
	}
	return out, nil
}

// stream sends one request and reads events until its result.
func stream[T any](ctx context.Context, c *Client, path string, body any, p func(volume.Progress)) (T, error) {
	return follow[T](ctx, c, path, body, func(e Event) error {
		if e.Progress != nil && p != nil {
			p(*e.Progress)
		}
		return nil
	})
}

// follow is stream, for who wants other lines than progress; an error of each ends it.
func follow[T any](ctx context.Context, c *Client, path string, body any, each func(Event) error) (T, error) {
	var out T
	resp, err := c.send(ctx, "POST", path, body)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4096), MaxBody)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return out, fmt.Errorf("answer of the daemon at %s: %w", c.socket, err)
		}
		switch {
		case e.Error != "":
			return out, &Error{Message: e.Error, Code: e.Code}
		case e.Result != nil:
			if err := json.Unmarshal(e.Result, &out); err != nil {
				return out, fmt.Errorf("answer of the daemon at %s: %w", c.socket, err)
			}
			return out, nil
		}
		if err := each(e); err != nil {
			return out, err
		}
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return out, c.broken(ctx, err)
}

// send returns an answer of 2xx, or an error.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	kind := "application/json"
	if raw, ok := body.(io.Reader); ok {
		r, kind = raw, CARType
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fractal"+Prefix+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	var e Event
	if json.Unmarshal(b, &e) != nil || e.Error == "" {
		return nil, fmt.Errorf("%w: the daemon at %s answered %s: is it a fractal-lazy of this version?", ErrRequest, c.socket, resp.Status)
	}
	return nil, &Error{Message: e.Error, Code: e.Code}
}

// broken says why no answer came.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the made-up URL
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s: start it with `fractal-lazy run`, or name its socket with --socket or FRACTAL_SOCKET", ErrUnreachable, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: no permission for %s: use sudo", ErrUnreachable, c.socket)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: it stopped before it answered (socket %s)", ErrUnreachable, c.socket)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.socket, err)
}
