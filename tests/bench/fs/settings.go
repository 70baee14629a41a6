package main

import (
	"context"

	"fractal-lazy/fusefs"
)

// setting is one thing that makes the mount faster, which can be switched off.
type setting struct {
	name string
	what string
	off  func(*fusefs.Options)
}

var settings = []setting{
	{"entry", "the kernel keeps names (24 h)", func(o *fusefs.Options) { o.Timeouts.Entry = -1 }},
	{"negative", "the kernel keeps that a name does not exist (24 h)", func(o *fusefs.Options) { o.Timeouts.Negative = -1 }},
	{"attr", "the kernel keeps attributes (24 h)", func(o *fusefs.Options) { o.Timeouts.Attr = -1 }},
	{"passthrough", "the kernel reads and writes the backing file itself", func(o *fusefs.Options) { o.NoPassthrough = true }},
}

func settingNamed(name string) (setting, bool) {
	for _, s := range settings {
		if s.name == name {
			return s, true
		}
	}
	return setting{}, false
}

func (b *bench) bySetting(ctx context.Context, only string) error { return nil }
