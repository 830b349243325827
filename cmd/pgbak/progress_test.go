package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shown is a progress whose clock a test moves.
type shown struct {
	*progress
	out bytes.Buffer
	now time.Time
}

func newShown(terminal bool) *shown {
	s := &shown{now: testClock()}
	a := &app{stderr: &s.out, clock: func() time.Time { return s.now }, log: slog.New(slog.NewJSONHandler(&s.out, nil))}
	s.progress = a.newProgress("backup")
	s.terminal = terminal
	return s
}

// after moves the clock, shows, and gives what was written.
func (s *shown) after(d time.Duration, files, bytes, total int64) string {
	s.now = s.now.Add(d)
	s.out.Reset()
	s.show(files, bytes, total)
	return s.out.String()
}

func TestProgressOnATerminal(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	s := newShown(true)
	for _, step := range []struct {
		title        string
		after        time.Duration
		bytes, total int64
		want         string
	}{
		{"nothing at once", 0, 0, gib, ""},
		{"the first second", time.Second, 100 * mib, gib, "\rbackup [#              ] 9%, 100MB of 1GB, 100MB/s, 9s left\x1b[K"},
		{"nothing when it was shown just now", terminalPause - 1, 101 * mib, gib, ""},
		{"a steady rate", time.Second - terminalPause + 1, 200 * mib, gib, "\rbackup [##             ] 19%, 200MB of 1GB, 100MB/s, 8s left\x1b[K"},
		{"a rate that follows what is slower", time.Minute, 260 * mib, gib, "\rbackup [###            ] 25%, 260MB of 1GB, 1.2MB/s, 10m21s left\x1b[K"},
		{"a rate that has come to rest", time.Hour, 260 * mib, gib, "\rbackup [###            ] 25%, 260MB of 1GB, 0B/s\x1b[K"},
		{"hours that are left", time.Hour, 300 * mib, gib, "\rbackup [####           ] 29%, 300MB of 1GB, 11.4KB/s, 18h05m left\x1b[K"},
		{"the end", time.Second, gib, gib, "\rbackup [###############] 100%, 1GB of 1GB, 46.7MB/s, 0s left\x1b[K"},
		{"more than was expected", time.Second, gib + mib, gib, "\rbackup 1GB, 43.8MB/s\x1b[K"},
	} {
		if got := s.after(step.after, 1, step.bytes, step.total); got != step.want {
			t.Errorf("%s: %q, want %q", step.title, got, step.want)
		}
	}
	s.out.Reset()
	if s.end(); s.out.String() != "\r\x1b[K" {
		t.Errorf("at the end: %q", s.out.String())
	}
}

func TestProgressFitsALineOfATerminal(t *testing.T) {
	s := newShown(true)
	s.word = "restore"
	const most = 1023<<40 + 900<<30
	s.after(0, 0, 0, most)
	s.weighed, s.weight = 1023.9*(1<<30)*1e6, 1e6
	line := strings.TrimSuffix(strings.TrimPrefix(s.after(time.Second, 1, most, most), "\r"), "\x1b[K")
	if len(line) >= 80 || !strings.Contains(line, "100%") || !strings.Contains(line, "left") {
		t.Errorf("%d columns: %q", len(line), line)
	}
}

func TestProgressInALog(t *testing.T) {
	s := newShown(false)
	for _, step := range []struct {
		title        string
		after        time.Duration
		bytes, total int64
		want         []string // nil: no record
		not          string
	}{
		{"not before the first pause", logPause - 1, 0, 4000, nil, ""},
		{"all that is known", logPause, 1000, 4000, []string{`"msg":"backup under way"`, `"files":7`, `"bytes":1000,`, `"bytes-total":4000`,
			`"percent":25`, `"bytes-per-second":100`, `"seconds":19`, `"seconds-left":30`}, "none"},
		{"not again before the next", logPause - 1, 2000, 4000, nil, ""},
		{"the total is not known", 1, 2000, 0, []string{`"bytes":2000,`, `"bytes-per-second":100`, `"seconds":29`}, "total"},
		{"nor the time that is left", 2 * logPause, 2000, 0, []string{`"seconds":49`}, "left"},
	} {
		got := s.after(step.after, 7, step.bytes, step.total)
		if (got == "") != (step.want == nil) || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: %q", step.title, got)
		}
		for _, part := range step.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %s is not in %s", step.title, part, got)
			}
		}
		if step.not != "" && strings.Contains(got, step.not) {
			t.Errorf("%s: %s is in %s", step.title, step.not, got)
		}
	}
	s.out.Reset()
	if s.end(); s.out.Len() > 0 {
		t.Errorf("at the end: %q", s.out.String())
	}
}

// TestATerminalGetsALine has a real one: a pseudo-terminal.
func TestATerminalGetsALine(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	now := testClock()
	a := &app{stderr: terminal, clock: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(terminal, nil))}
	p := a.newProgress("backup")
	p.show(1, 0, 4096)
	now = now.Add(time.Second)
	p.show(1, 1024, 4096)
	got, err := bufio.NewReader(master).ReadString('t')
	if err != nil || got != "\rbackup [###            ] 25%, 1KB of 4KB, 1KB/s, 3s left" {
		t.Errorf("%q, %v", got, err)
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
