package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// The exit codes that the tests expect; docs/exit-codes.md has all of them.
const (
	codeOK      = 0
	codeFailed  = 1
	codeStanza  = 4
	codeServer  = 5
	codeDamaged = 6
	codeStorage = 7
	codeRefused = 8
)

// host is a server with its configuration of pgbak and a repository.
type host struct {
	*pgtest.Cluster
	dir     string // holds all that follows, belongs to the server user
	program string
	config  string
	repo    string  // the repository's directory
	bucket  *bucket // where it is instead; nil for a directory
	env     []string
}

// hostOptions say how a host differs from the usual one: the newest major, WAL
// segments of 1 MiB, a plain repository.
type hostOptions struct {
	cluster   pgtest.Options
	encrypted bool
	bucket    *bucket  // nil: the repository is in a directory
	tags      []string // of the build of pgbak
}

// newHost starts a cluster that archives into a new repository, which is
// initialised.
func newHost(t *testing.T, o hostOptions) *host {
	t.Helper()
	h := &host{dir: pgtest.TempDir(t), program: pgtest.BuildPgbak(t, o.tags...), bucket: o.bucket}
	h.config, h.repo = filepath.Join(h.dir, "pgbak.yaml"), filepath.Join(h.dir, "repo")
	settings := map[string]string{
		"archive_mode":              "on",
		"archive_command":           pgtest.BuildPgbak(t) + " --config " + h.config + " archive-push %p",
		"max_prepared_transactions": "5",
		"track_commit_timestamp":    "on",
		"autovacuum":                "off", // moments are exact only while nobody else writes WAL
		"checkpoint_timeout":        "1h",
		// A restored server looks for WAL that will never come; not for 5 s at a time.
		"wal_retrieve_retry_interval": "100ms",
	}
	for name, value := range o.cluster.Config {
		settings[name] = value
	}
	o.cluster.Config, o.cluster.Dir = settings, filepath.Join(h.dir, "data")
	if o.cluster.SegmentSizeMB == 0 {
		o.cluster.SegmentSizeMB = 1
	}
	h.Cluster = pgtest.Start(t, o.cluster)
	encryption := ""
	if o.encrypted {
		h.write(t, "passphrase", "correct horse battery staple\n")
		encryption = "\n    encryption: {passphrase-file: " + filepath.Join(h.dir, "passphrase") + "}"
	}
	h.configure(t, h.DataDir, h.DSN(), encryption)
	h.expect(t, codeOK, "init")
	return h
}

// configure writes the configuration.
func (h *host) configure(t *testing.T, pgdata, connection, encryption string) {
	t.Helper()
	place := "url: file://" + h.repo
	if h.bucket != nil {
		place = h.bucket.settings()
	}
	h.write(t, "pgbak.yaml", fmt.Sprintf(`repositories:
  - name: local
    %s%s
stanzas:
  - name: main
    pgdata: %s
    connection: %q
processes: 2
`, place, encryption, pgdata, connection))
}

// write makes a file in the host's directory.
func (h *host) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, path)
}

// outcome is how a run of the program ended; code is -1 after a signal.
type outcome struct {
	code           int
	stdout, stderr string
}

// process is a run of the program that is under way.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

// start starts the program as the server user.
func (h *host) start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: pgtest.Command(t, h.program, append([]string{"--config", h.config}, args...)...)}
	p.Env = append(p.Env, h.env...)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// end waits for the program.
func (p *process) end() outcome {
	_ = p.Wait() // the outcome is in ProcessState
	return outcome{p.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}
}

func (h *host) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return h.start(t, args...).end()
}

// expect runs the program and fails the test if it ends with another code.
func (h *host) expect(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	o := h.run(t, args...)
	if o.code != code {
		t.Fatalf("pgbak %s: exit %d, want %d\n%s%s", strings.Join(args, " "), o.code, code, o.stdout, o.stderr)
	}
	return o
}

// backupInfo is what backup and info say of a backup in JSON (docs/json.md).
type backupInfo struct {
	Label        repo.Label       `json:"label"`
	Type         repo.BackupType  `json:"type"`
	Parent       repo.Label       `json:"parent"`
	Ways         []repo.WayUse    `json:"ways"`
	WayReason    string           `json:"way-reason"`
	Status       string           `json:"status"`
	Timeline     int              `json:"timeline"`
	Source       string           `json:"source"`
	Start        repo.BackupPoint `json:"start"`
	Stop         repo.BackupPoint `json:"stop"`
	DatabaseSize int64            `json:"database-size"`
	AddedSize    int64            `json:"added-size"`
	ErrorCount   int64            `json:"page-error-count"`
	PageErrors   []repo.PageError `json:"page-errors"`
}

// taken is the output of backup.
type taken struct {
	Backup   backupInfo `json:"backup"`
	Warnings []string   `json:"warnings"`
}

// backup takes a full backup that must succeed; args are further flags.
func (h *host) backup(t *testing.T, args ...string) taken {
	t.Helper()
	return parseTaken(t, h.expect(t, codeOK, append([]string{"backup", "--output", "json"}, args...)...))
}

func parseTaken(t *testing.T, o outcome) taken {
	t.Helper()
	var b taken
	if err := json.Unmarshal([]byte(o.stdout), &b); err != nil || b.Backup.Label == "" {
		t.Fatalf("output of backup: %v\n%s%s", err, o.stdout, o.stderr)
	}
	return b
}

// backups asks info for the backups of the only stanza. Without backups info
// exits 1, which is right; anything else fails the test.
func (h *host) backups(t *testing.T) []backupInfo {
	t.Helper()
	o := h.run(t, "info", "--output", "json")
	var stanzas []struct {
		Repositories []struct {
			Status  struct{ Text string } `json:"status"`
			Backups []backupInfo          `json:"backups"`
		} `json:"repositories"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &stanzas); err != nil || len(stanzas) != 1 || len(stanzas[0].Repositories) != 1 {
		t.Fatalf("info: exit %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	r := stanzas[0].Repositories[0]
	if o.code != codeOK && (o.code != codeFailed || r.Status.Text != "no valid backups") {
		t.Fatalf("info: exit %d, status %s\n%s", o.code, r.Status.Text, o.stderr)
	}
	return r.Backups
}

// says checks that a text contains words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

// exists tells whether there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
