package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// hosted is a cluster and a configuration for it.
type hosted struct {
	*pgtest.Cluster
	dir, program, config string
	template             string // of the configuration
}

// host starts a cluster whose archive_command pushes to the repository.
func host(t *testing.T, settings map[string]string) *hosted {
	t.Helper()
	return hostWith(t, plainConfig, settings)
}

// hostWith does so with another configuration than plainConfig.
func hostWith(t *testing.T, template string, settings map[string]string) *hosted {
	t.Helper()
	h := &hosted{dir: pgtest.TempDir(t), program: pgtest.BuildPgbak(t), template: template}
	h.config = filepath.Join(h.dir, "pgbak.yaml")
	all := map[string]string{"archive_mode": "on", "archive_command": h.program + " --config " + h.config + " archive-push %p"}
	for name, value := range settings {
		all[name] = value
	}
	h.Cluster = pgtest.Start(t, pgtest.Options{Major: 17, SegmentSizeMB: 1, Dir: filepath.Join(h.dir, "data"), Config: all})
	h.configure(t, h.DSN())
	return h
}

func (h *hosted) configure(t *testing.T, dsn string) {
	t.Helper()
	text := strings.ReplaceAll(strings.Replace(h.template, "host=DIR/nowhere user=postgres dbname=postgres", dsn, 1), "DIR", h.dir)
	if err := os.WriteFile(h.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs the program as the server user.
func (h *hosted) run(t *testing.T, args ...string) outcome {
	t.Helper()
	cmd := pgtest.Command(t, h.program, append([]string{"--config", h.config}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (h *hosted) expect(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	o := h.run(t, args...)
	if o.code != code {
		t.Fatalf("pgbak %s: exit %d, want %d\n%s%s", strings.Join(args, " "), o.code, code, o.stdout, o.stderr)
	}
	return o
}

func TestCheckProvesThatWALArrivesAndInfoShowsIt(t *testing.T) {
	h := host(t, nil)
	h.expect(t, exitOK, "init")
	h.expect(t, exitOK, "init") // again changes nothing
	var result checkResult
	o := h.expect(t, exitOK, "check", "--output", "json")
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
		t.Fatal(err)
	}
	if !result.OK || len(result.Problems) != 0 || len(result.Repositories) != 1 || len(result.Repositories[0].WALSegment) != 24 {
		t.Errorf("result %+v", result)
	}
	o = h.expect(t, exitOK, "check")
	contains(t, o.stdout, "arrived", "stanza main: ok")
	o = h.expect(t, exitFailed, "info")
	contains(t, o.stdout, "no valid backups", "PostgreSQL 17", result.Repositories[0].WALSegment)
	contains(t, o.stderr, "no valid backups")
}

func TestCheckFindsWhatKeepsWALFromArriving(t *testing.T) {
	for _, c := range []struct {
		title    string
		settings map[string]string
		want     []string
	}{
		{"archive_mode off", map[string]string{"archive_mode": "off"}, []string{"archive_mode is off", "archive_mode = on"}},
		{"no archive_command", map[string]string{"archive_command": ""}, []string{"archive_command is not set"}},
		{"an archive_command that fails", map[string]string{"archive_command": "false"}, []string{"did not reach the repository within 2s", "archive_command fails", "does not call pgbak"}},
		{"an archive_command that stores elsewhere", map[string]string{"archive_command": "true"}, []string{"did not reach the repository", "does not call pgbak"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			h := host(t, c.settings)
			h.expect(t, exitOK, "init")
			o := h.expect(t, exitCheckFailed, "check", "--archive-timeout", "2s")
			contains(t, o.stdout+o.stderr, c.want...)
			contains(t, o.stderr, "hint: ")
			var result checkResult
			o = h.expect(t, exitCheckFailed, "check", "--archive-timeout", "2s", "--output", "json")
			if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || result.OK || len(result.Problems) == 0 {
				t.Errorf("result %+v, %v", result, err)
			}
		})
	}
}

func TestPGDataAndTheServerMustBeOneCluster(t *testing.T) {
	h, other := host(t, nil), host(t, nil)
	h.expect(t, exitOK, "init")
	h.configure(t, other.DSN())
	o := h.expect(t, exitRepository, "init")
	contains(t, o.stderr, "system identifier", "hint: ")
	o = h.expect(t, exitCheckFailed, "check")
	contains(t, o.stderr, "system identifier", "hint: ")
	h.Stop(t, "fast")
	h.configure(t, h.DSN())
	o = h.expect(t, exitServer, "check")
	contains(t, o.stderr, "hint: ")
	h.expect(t, exitOK, "init") // does not need the server
}

func TestAfterAnUpgradeTheStanzaTakesTheNewIdentity(t *testing.T) {
	s := newSite(t, plainConfig)
	if o := s.run(t, "init", "--upgrade"); o.code != exitRepository || !strings.Contains(o.stderr, "hint: ") {
		t.Errorf("init --upgrade of nothing: exit %d\n%s", o.code, o.stderr)
	}
	if _, err := os.Stat(s.path("repo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("init --upgrade has made a repository (%v)", err)
	}
	s.mustRun(t, "init")
	s.write(t, "data/global/pg_control", sample(t, 18, "pg_control.production.gz"))
	if o := s.run(t, "init"); o.code != exitRepository {
		t.Errorf("init without --upgrade: exit %d", o.code)
	}
	contains(t, s.mustRun(t, "init", "--upgrade").stdout, "identity 2", "PostgreSQL 18")
	contains(t, s.mustRun(t, "init", "--upgrade").stdout, "identity 2")
	contains(t, s.run(t, "info").stdout, "PostgreSQL 17", "PostgreSQL 18")
}

func TestAFaultyRepositoryDoesNotKeepWALFromTheOther(t *testing.T) {
	s := newSite(t, strings.Replace(plainConfig, "stanzas:", "  - name: second\n    url: file://DIR/second\nstanzas:", 1))
	s.mustRun(t, "init")
	path, content := s.writeSegment(t)
	if err := os.Rename(s.path("repo"), s.path("away")); err != nil {
		t.Fatal(err)
	}
	o := s.run(t, "archive-push", path)
	if o.code != exitRepository {
		t.Errorf("push: exit %d\n%s", o.code, o.stderr)
	}
	contains(t, o.stderr, `repository "local"`)
	s.mustRun(t, "--repo", "second", "archive-get", segmentName, "fetched")
	o = s.mustRun(t, "archive-get", segmentName, "fetched")
	contains(t, o.stderr, `repository \"local\"`)
	if got, err := os.ReadFile(s.path("fetched")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("other content came back (%v)", err)
	}
	if o := s.run(t, "archive-get", "000000010000000000000009", "fetched"); o.code != exitGetTrouble {
		t.Errorf("absent from one, trouble with the other: exit %d", o.code)
	}
	if err := os.Rename(s.path("away"), s.path("repo")); err != nil {
		t.Fatal(err)
	}
	if o := s.run(t, "archive-get", "000000010000000000000009", "fetched"); o.code != exitFailed {
		t.Errorf("absent from both: exit %d", o.code)
	}
	contains(t, s.mustRun(t, "archive-push", path).stderr, "second already")
}
