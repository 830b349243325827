package main

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

// How often progress is shown: on a terminal often enough to look alive, in a
// log rarely enough not to fill it.
const (
	terminalPause = 200 * time.Millisecond
	logPause      = 10 * time.Second
)

// rateMemory is how long the rate remembers: what was read so long ago weighs
// a third of what is read now.
const rateMemory = 15 * time.Second

// progress shows how far a long run has come: as one line that overwrites
// itself on a terminal, as log records elsewhere. It is called from one
// goroutine at a time.
type progress struct {
	app      *app
	word     string // "backup"
	terminal bool
	begin    time.Time
	last     time.Time
	shown    bool

	// The rate is a mean over the recent past, since a run may be fast over
	// what it finds unchanged and slow over the rest.
	measured      time.Time // zero before the first call
	measuredBytes int64
	weighed       float64 // bytes that the mean has seen, the older the less
	weight        float64 // seconds, likewise
}

func (a *app) newProgress(word string) *progress {
	now := a.clock()
	return &progress{app: a, word: word, terminal: isTerminal(a.stderr), begin: now, last: now}
}

// isTerminal tells whether w is a character device, and not the null device.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// show takes the files and bytes done, and the bytes in all, 0 if unknown. The
// bytes in all may be an estimate: once more are done, they are unknown.
func (p *progress) show(files, bytes, total int64) {
	now := p.app.clock()
	if p.measured.IsZero() {
		p.measured, p.measuredBytes = now, bytes // what comes before the first byte is waiting, not reading
	}
	pause := logPause
	if p.terminal {
		pause = terminalPause
	}
	if now.Sub(p.last) < pause {
		return
	}
	p.last = now
	rate := p.rate(now, bytes)
	if bytes > total {
		total = 0
	}
	if p.terminal {
		p.line(bytes, total, rate)
	} else {
		p.record(now, files, bytes, total, rate)
	}
}

// rate is in bytes per second.
func (p *progress) rate(now time.Time, bytes int64) int64 {
	passed := now.Sub(p.measured).Seconds()
	if passed > 0 {
		memory := rateMemory.Seconds()
		keep := math.Exp(-passed / memory)
		weight := memory * (1 - keep) // of these seconds, the later ones more than the earlier
		p.weighed = p.weighed*keep + weight*float64(bytes-p.measuredBytes)/passed
		p.weight = p.weight*keep + weight
		p.measured, p.measuredBytes = now, bytes
	}
	if p.weight == 0 {
		return 0
	}
	return int64(math.Round(p.weighed / p.weight))
}

// left is the time until all is done; unknown without a rate or a total.
func left(bytes, total, rate int64) (d time.Duration, known bool) {
	if total <= 0 || rate <= 0 {
		return 0, false
	}
	seconds := float64(total-bytes) / float64(rate)
	const most = 1000 * 3600 // more says nothing any more
	return time.Duration(min(seconds, most) * float64(time.Second)).Round(time.Second), seconds < most
}

// line shows the bar, which fits 80 columns.
func (p *progress) line(bytes, total, rate int64) {
	var b strings.Builder
	fmt.Fprintf(&b, "\r%s", p.word)
	if total > 0 {
		const width = 15
		done := int(float64(width) * float64(bytes) / float64(total))
		fmt.Fprintf(&b, " [%-*s] %d%%, %s of %s", width, strings.Repeat("#", done), percent(bytes, total), sizeText(bytes), sizeText(total))
	} else {
		fmt.Fprintf(&b, " %s", sizeText(bytes))
	}
	fmt.Fprintf(&b, ", %s/s", sizeText(rate))
	if d, ok := left(bytes, total, rate); ok {
		fmt.Fprintf(&b, ", %s left", leftText(d))
	}
	// The escape sequence clears the rest of the line.
	fmt.Fprintf(p.app.stderr, "%s\x1b[K", &b)
	p.shown = true
}

// record logs the same; what is not known is not in it.
func (p *progress) record(now time.Time, files, bytes, total, rate int64) {
	fields := []any{"files", files, "bytes", bytes, "bytes-per-second", rate, "seconds", int(now.Sub(p.begin).Seconds())}
	if total > 0 {
		fields = append(fields, "bytes-total", total, "percent", percent(bytes, total))
	}
	if d, ok := left(bytes, total, rate); ok {
		fields = append(fields, "seconds-left", int(d.Seconds()))
	}
	p.app.log.Info(p.word+" under way", fields...)
}

func percent(bytes, total int64) int { return int(100 * float64(bytes) / float64(total)) }

// leftText gives a duration without what changes too fast to read.
func leftText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// end clears the line on the terminal.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
}
