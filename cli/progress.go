package cli

import (
	"fmt"
	"io"
	"time"

	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
)

// progress shows long work on standard error where that is a terminal, with its rate and the time that is left. Elsewhere it shows nothing: logs and
// pipes are not filled with bars.
type progress struct {
	w     io.Writer // nil: not a terminal
	bar   *progressbar.ProgressBar
	total uint64
	rate  float64 // bytes a second, smoothed
}

func (a *app) progress() *progress {
	if a.json || !isTerminal(a.Err) {
		return &progress{}
	}
	return &progress{w: a.Err}
}

// show is called with every report.
func (p *progress) show(v volume.Progress) {
	if p.w == nil {
		return
	}
	if p.bar == nil || p.total != v.Total {
		p.total = v.Total
		p.bar = newBar(p.w, v.Total)
	}
	v.Rate = p.smooth(v.Rate)
	p.bar.Describe(label(v))
	_ = p.bar.Set64(clamp(v.Done)) // it fails only where standard error does
}

// smooth keeps a rate that is measured over a quarter of a second from dancing.
func (p *progress) smooth(rate float64) float64 {
	const weight = 0.2
	switch {
	case rate <= 0: // nothing moved just now, or nobody measured
	case p.rate == 0:
		p.rate = rate
	default:
		p.rate += weight * (rate - p.rate)
	}
	return p.rate
}

// end takes the bar away, before the result is printed.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}

func newBar(w io.Writer, total uint64) *progressbar.ProgressBar {
	most := clamp(total)
	if total == 0 {
		most = -1 // unknown: a spinner
	}
	return progressbar.NewOptions64(most,
		progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(false),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(total == 0), progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionUseANSICodes(true))
}

// label has how far it is, the rate, and the time that is left: the daemon knows the work, the bar only its share.
func label(v volume.Progress) string {
	s := v.Phase
	switch {
	case v.Total > 0:
		s += fmt.Sprintf(" %s of %s", humanize.IBytes(v.Done), humanize.IBytes(v.Total))
	case v.Done > 0:
		s += " " + humanize.IBytes(v.Done)
	}
	if v.Rate > 0 {
		s += fmt.Sprintf(", %s/s", humanize.IBytes(uint64(v.Rate)))
	}
	eta := v.ETASeconds
	if eta <= 0 && v.Rate > 0 && v.Total > v.Done {
		eta = float64(v.Total-v.Done) / v.Rate
	}
	if eta > 0 && eta < 1e7 {
		s += fmt.Sprintf(", %s left", time.Duration(eta*float64(time.Second)).Round(time.Second))
	}
	return s
}

func clamp(n uint64) int64 { return int64(min(n, 1<<62)) }
