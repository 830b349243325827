package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestProgressIsShownAtIntervalsAndClearedAtTheEnd(t *testing.T) {
	var out bytes.Buffer
	now := testClock()
	a := &app{stderr: &out, clock: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(&out, nil))}
	p := a.newProgress("backup")
	p.show(1, 1024, 4096)
	if out.Len() != 0 {
		t.Errorf("shown at once: %s", &out)
	}
	now = now.Add(logPause)
	p.show(2, 2048, 4096)
	p.show(3, 3072, 4096)
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "bytes=2048") {
		t.Errorf("in a log: %s", got)
	}
	out.Reset()
	p.terminal = true
	now = now.Add(terminalPause)
	p.show(4, 3072, 4096)
	p.end()
	if got := out.String(); got != "\rbackup: 4 files, 3KB of 4KB (75%)\x1b[K\r\x1b[K" {
		t.Errorf("on a terminal: %q", got)
	}
}

func TestAFileAndTheNullDeviceAreNoTerminals(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(null) || isTerminal(file) || isTerminal(&bytes.Buffer{}) {
		t.Error("one of them counts as a terminal")
	}
}
