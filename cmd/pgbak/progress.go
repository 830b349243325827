package main

import (
	"fmt"
	"os"
	"time"
)

// How often progress is shown: on a terminal often enough to look alive, in a
// log rarely enough not to fill it.
const (
	terminalPause = 200 * time.Millisecond
	logPause      = 10 * time.Second
)

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

// show takes the files and bytes done, and the bytes in all, 0 if unknown.
func (p *progress) show(files, bytes, total int64) {
	pause := logPause
	if p.terminal {
		pause = terminalPause
	}
	now := p.app.clock()
	if now.Sub(p.last) < pause {
		return
	}
	p.last = now
	if !p.terminal {
		p.app.log.Info(p.word+" under way", "files", files, "bytes", bytes, "bytes-total", total, "seconds", int(now.Sub(p.begin).Seconds()))
		return
	}
	of := ""
	if total > 0 {
		of = fmt.Sprintf(" of %s (%d%%)", sizeText(total), bytes*100/total)
	}
	// The escape sequence clears the rest of the line.
	fmt.Fprintf(p.app.stderr, "\r%s: %d files, %s%s\x1b[K", p.word, files, sizeText(bytes), of)
	p.shown = true
}

// end clears the line on the terminal.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
}
