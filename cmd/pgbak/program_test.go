package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// site is a place with a configuration, a data directory that consists of a
// control file, and a repository: all that a command needs without a server.
type site struct {
	dir     string
	config  string
	program string
	env     []string
}

const plainConfig = `repositories:
  - name: local
    url: file://DIR/repo
stanzas:
  - name: main
    pgdata: DIR/data
    connection: "host=DIR/nowhere user=postgres dbname=postgres"
`

// newSite writes the configuration, in which DIR stands for the site's
// directory, and the data directory of a PostgreSQL 17. The repository is
// not there yet.
func newSite(t *testing.T, config string, tags ...string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), program: pgtest.BuildPgbak(t, tags...)}
	s.config = filepath.Join(s.dir, "pgbak.yaml")
	s.write(t, "pgbak.yaml", []byte(strings.ReplaceAll(config, "DIR", s.dir)))
	s.write(t, "data/global/pg_control", sample(t, 17, "pg_control.production.gz"))
	return s
}

// sample reads a real file of a major.
func sample(t *testing.T, major int, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("../../testdata/postgres", fmt.Sprint(major), name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// outcome is how a run of the program ended; code is -1 after a signal.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs the program with the site's configuration, in its directory.
func (s *site) run(t *testing.T, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(s.program, args...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"PGBAK_CONFIG=" + s.config, "PATH=" + os.Getenv("PATH"), "TZ=UTC"}, s.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (s *site) mustRun(t *testing.T, args ...string) outcome {
	t.Helper()
	o := s.run(t, args...)
	if o.code != exitOK {
		t.Fatalf("pgbak %s: exit %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o
}

// segmentName is the name of the WAL segment that writeSegment writes.
const segmentName = "000000010000000000000003"

// writeSegment makes a WAL segment of the site's cluster from the first page
// of a real one, and returns its path and content.
func (s *site) writeSegment(t *testing.T) (string, []byte) {
	t.Helper()
	control, err := postgres.ParseControl(sample(t, 17, "pg_control.production.gz"))
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, control.WALSegmentSize)
	pages, err := filepath.Glob("../../testdata/postgres/17/wal.00000001*.gz")
	if err != nil || len(pages) != 1 {
		t.Fatalf("want one first page of a segment of timeline 1, got %q (%v)", pages, err)
	}
	page := sample(t, 17, filepath.Base(pages[0]))
	copy(content, page)
	binary.LittleEndian.PutUint64(content[8:], 3*uint64(control.WALSegmentSize)) // the page's address
	for i := len(page); i < len(content); i += 64 {
		content[i] = byte(i >> 6)
	}
	s.write(t, segmentName, content)
	return s.path(segmentName), content
}

// contains says which words a text lacks.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

func testClock() time.Time { return time.Date(2026, 11, 20, 12, 34, 56, 0, time.UTC) }
