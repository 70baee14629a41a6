package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fractal-lazy/volume"

	dockervolume "github.com/docker/go-plugins-helpers/volume"
)

// driver is Docker's side: each method is one call of the volume plugin protocol.
type driver struct{ s *Server }

var _ dockervolume.Driver = (*driver)(nil)

func (d *driver) Create(r *dockervolume.CreateRequest) error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	return d.s.bounded("create", r.Name, func(ctx context.Context, v Volumes) error { return v.Create(ctx, r.Name, r.Options) })
}

func (d *driver) Remove(r *dockervolume.RemoveRequest) error {
	return d.s.bounded("remove", r.Name, func(ctx context.Context, v Volumes) error { return v.Remove(ctx, r.Name, false) })
}

func (d *driver) Mount(r *dockervolume.MountRequest) (*dockervolume.MountResponse, error) {
	path := make(chan string, 1)
	err := d.s.bounded("mount", r.Name, func(ctx context.Context, v Volumes) error {
		p, err := v.Mount(ctx, r.Name, r.ID)
		path <- p
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dockervolume.MountResponse{Mountpoint: <-path}, nil
}

func (d *driver) Unmount(r *dockervolume.UnmountRequest) error {
	return d.s.bounded("unmount", r.Name, func(ctx context.Context, v Volumes) error {
		err := v.Unmount(ctx, r.Name, r.ID)
		if errors.Is(err, volume.ErrUnknown) {
			return nil // what is gone is not mounted; an error would only keep Docker from letting go
		}
		if err == nil {
			d.s.forgetRate(v, r.Name)
		}
		return err
	})
}

func (d *driver) Path(r *dockervolume.PathRequest) (*dockervolume.PathResponse, error) {
	info, err := d.info("path", r.Name)
	if err != nil {
		return nil, err
	}
	return &dockervolume.PathResponse{Mountpoint: info.Mountpoint}, nil
}

func (d *driver) Get(r *dockervolume.GetRequest) (*dockervolume.GetResponse, error) {
	info, err := d.info("get", r.Name)
	if err != nil {
		return nil, err
	}
	v, err := dockerVolume(info)
	if err != nil {
		return nil, err
	}
	return &dockervolume.GetResponse{Volume: v}, nil
}

func (d *driver) info(op, name string) (info volume.Info, err error) {
	found := make(chan volume.Info, 1)
	err = d.s.bounded(op, name, func(_ context.Context, v Volumes) error {
		info, err := v.Get(name)
		found <- info
		return err
	})
	if err != nil {
		return volume.Info{}, err
	}
	return <-found, nil
}

func (d *driver) List() (*dockervolume.ListResponse, error) {
	found := make(chan []volume.Info, 1)
	err := d.s.bounded("list", "", func(_ context.Context, v Volumes) error {
		found <- v.List()
		return nil
	})
	if err != nil {
		return nil, err
	}
	list := &dockervolume.ListResponse{Volumes: []*dockervolume.Volume{}}
	for _, info := range <-found {
		one, err := dockerVolume(info)
		if err != nil {
			return nil, err
		}
		list.Volumes = append(list.Volumes, one)
	}
	return list, nil
}

// Capabilities says "local": doc.go has the reason.
func (d *driver) Capabilities() *dockervolume.CapabilitiesResponse {
	return &dockervolume.CapabilitiesResponse{Capabilities: dockervolume.Capability{Scope: "local"}}
}

// dockerVolume turns what is known of a volume into Docker's form; Status has the fields of `volume inspect --json` but those that Docker shows itself.
func dockerVolume(info volume.Info) (*dockervolume.Volume, error) {
	b, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("status of %q: %w", info.Name, err)
	}
	status := map[string]any{}
	if err := json.Unmarshal(b, &status); err != nil {
		return nil, fmt.Errorf("status of %q: %w", info.Name, err)
	}
	for _, k := range []string{"name", "mountpoint", "created"} {
		delete(status, k)
	}
	v := &dockervolume.Volume{Name: info.Name, Mountpoint: info.Mountpoint, Status: status}
	if !info.Created.IsZero() {
		v.CreatedAt = info.Created.UTC().Format(time.RFC3339)
	}
	return v, nil
}
