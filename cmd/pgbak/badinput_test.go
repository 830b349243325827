package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

const encryptedConfig = `repositories:
  - name: local
    url: file://DIR/repo
    encryption: {passphrase-file: DIR/passphrase}
stanzas:
  - name: main
    pgdata: DIR/data
    connection: "host=DIR/nowhere user=postgres dbname=postgres"
`

const twoStanzas = plainConfig + `  - name: other
    pgdata: DIR/data
    connection: "host=DIR/nowhere"
`

// TestBadInput runs the real program: every mistake has its exit code, a
// sentence that names the thing, and a hint, and nothing is lost.
func TestBadInput(t *testing.T) {
	initialised := func(t *testing.T, s *site) { s.mustRun(t, "--stanza", "main", "init") }
	for _, c := range []struct {
		title   string
		config  string
		prepare func(*testing.T, *site)
		args    string
		code    int
		names   []string // on standard error; DIR is the site's directory
		hint    bool
	}{
		{"no configuration", plainConfig, nil, "--config DIR/absent.yaml info", exitConfiguration, []string{"DIR/absent.yaml", "no such file"}, true},
		{"a directory instead of the configuration", plainConfig, nil, "--config DIR info", exitConfiguration, []string{"DIR"}, true},
		{"an unknown key", plainConfig + "proceses: 4\n", nil, "info", exitConfiguration, []string{"DIR/pgbak.yaml", "line 8", `unknown key "proceses"`}, true},
		{"an unknown stanza", plainConfig, initialised, "--stanza mian check", exitConfiguration, []string{`"mian"`, "DIR/pgbak.yaml", "main"}, true},
		{"no stanza flag with two stanzas", twoStanzas, initialised, "archive-push x", exitConfiguration, []string{"no stanza was named", "main, other"}, true},
		{"an unknown repository", plainConfig, initialised, "--repo remote backup", exitConfiguration, []string{`"remote"`, "local"}, true},
		{"keys of s3 for a directory", strings.Replace(plainConfig, "file://DIR/repo", "file://DIR/repo\n    s3: {region: x}", 1), nil, "info", exitConfiguration, []string{`repository "local"`, "s3 is only for"}, false},
		{"no repository yet", plainConfig, nil, "check", exitRepository, []string{"DIR/repo", "not initialised"}, true},
		{"an empty directory instead of the repository", plainConfig, func(t *testing.T, s *site) { mkdir(t, s.path("repo")) }, "check", exitRepository, []string{"DIR/repo", "not initialised"}, true},
		{"a stanza that was not created", twoStanzas, initialised, "--stanza other check", exitRepository, []string{"stanza other"}, true},
		{"a repository of a newer format", plainConfig, func(t *testing.T, s *site) {
			initialised(t, s)
			raiseFormat(t, s)
		}, "info", exitRepository, []string{"format version 2", "DIR/repo"}, true},
		{"a wrong passphrase", encryptedConfig, func(t *testing.T, s *site) {
			s.write(t, "passphrase", []byte("correct horse battery staple\n"))
			initialised(t, s)
			s.write(t, "passphrase", []byte("incorrect horse battery\n"))
		}, "check", exitRepository, []string{"DIR/repo", "passphrase"}, true},
		{"archive-receive without a directory", plainConfig, nil, "archive-receive --slot one", exitUsage, []string{"--directory is missing"}, false},
		{"archive-receive without a slot", plainConfig, nil, "archive-receive --directory DIR/received", exitUsage, []string{"--slot is missing"}, false},
		{"archive-receive with a slot that no server takes", plainConfig, nil, "archive-receive --directory DIR/received --slot One", exitUsage, []string{`"One" is not the name of a replication slot`, "lower-case"}, false},
		{"archive-receive into a directory that is missing", plainConfig, nil, "archive-receive --directory DIR/received --slot one", exitConfiguration, []string{"DIR/received", "no such file"}, true},
		{"archive-receive into the data directory", plainConfig, func(t *testing.T, s *site) { mkdir(t, s.path("data/received")) }, "archive-receive --directory DIR/data/received --slot one", exitConfiguration, []string{"is in the data directory DIR/data"}, true},
		{"a restore of received WAL that is not there", plainConfig, initialised, "restore --target-dir DIR/restored --received DIR/received", exitRestoreRefused, []string{"DIR/received", "target cannot be reached"}, true},
		{"a passphrase that is too short", encryptedConfig, func(t *testing.T, s *site) { s.write(t, "passphrase", []byte("short\n")) },
			"init", exitConfiguration, []string{"DIR/passphrase", "5 characters"}, true},
		{"no passphrase file", encryptedConfig, nil, "init", exitConfiguration, []string{"DIR/passphrase"}, false},
		{"an encrypted repository without a passphrase", encryptedConfig, func(t *testing.T, s *site) {
			s.write(t, "passphrase", []byte("correct horse battery staple\n"))
			initialised(t, s)
			s.write(t, "pgbak.yaml", []byte(strings.ReplaceAll(plainConfig, "DIR", s.dir)))
		}, "check", exitRepository, []string{"encrypted"}, true},
		{"pgdata of another cluster", plainConfig, func(t *testing.T, s *site) {
			initialised(t, s)
			s.write(t, "data/global/pg_control", sample(t, 16, "pg_control.production.gz"))
		}, "backup", exitRepository, []string{"main", "DIR/data", "PostgreSQL 16", "PostgreSQL 17"}, true},
		{"init over the stanza of another cluster", plainConfig, func(t *testing.T, s *site) {
			initialised(t, s)
			s.write(t, "data/global/pg_control", sample(t, 16, "pg_control.production.gz"))
		}, "init", exitRepository, []string{"main", "PostgreSQL 16"}, true},
		{"no data directory", plainConfig, func(t *testing.T, s *site) { initialised(t, s); remove(t, s.path("data")) },
			"check", exitServer, []string{"DIR/data/global/pg_control"}, true},
		{"a torn control file", plainConfig, func(t *testing.T, s *site) { initialised(t, s); flip(t, s.path("data/global/pg_control"), 20) },
			"check", exitServer, []string{"DIR/data/global/pg_control", "checksum"}, true},
		{"a server that does not run", plainConfig, initialised, "check", exitServer, []string{"DIR/nowhere"}, true},
		{"a damaged repository description", plainConfig, func(t *testing.T, s *site) { initialised(t, s); flip(t, s.path("repo/pgbak-repository.json"), 30) },
			"info", exitDamaged, []string{"pgbak-repository.json"}, false},
		{"a WAL file of another cluster", plainConfig, func(t *testing.T, s *site) {
			initialised(t, s)
			path, _ := s.writeSegment(t)
			flip(t, path, 24)
		}, "archive-push " + segmentName, exitWALRefused, []string{segmentName, "system identifier"}, true},
		{"a file that is no WAL file", plainConfig, initialised, "archive-push pgbak.yaml", exitWALRefused, []string{"pgbak.yaml", "name of a WAL file"}, false},
		{"a WAL file that is not there", plainConfig, initialised, "archive-push " + segmentName, exitFailed, []string{segmentName, "no such file"}, false},
		{"another content under an archived name", plainConfig, func(t *testing.T, s *site) {
			initialised(t, s)
			path, _ := s.writeSegment(t)
			s.mustRun(t, "archive-push", path)
			flip(t, path, 10000)
		}, "archive-push " + segmentName, exitWALRefused, []string{segmentName, "different content"}, true},
		{"restore without a directory", plainConfig, initialised, "restore", exitUsage, []string{"--target-dir"}, true},
		{"restore to a target that cannot be read", plainConfig, initialised, "restore --target-dir DIR/x --type time --target yesterday", exitUsage, []string{"yesterday"}, true},
		{"no command, as in an archive_command that lost it", plainConfig, nil, "", exitUsage, []string{"no command was given"}, true},
		{"no command but flags", plainConfig, nil, "--config DIR/pgbak.yaml --stanza main", exitUsage, []string{"no command was given"}, true},
		{"help for an unknown command", plainConfig, nil, "help bakcup", exitUsage, []string{"bakcup"}, true},
		{"archive-get for an identity that cannot be", plainConfig, nil, "archive-get --identity 0 x y", exitGetTrouble, []string{"--identity 0"}, true},
		{"an unknown command", plainConfig, nil, "bakcup", exitUsage, []string{"bakcup"}, true},
		{"an unknown flag", plainConfig, nil, "info --color", exitUsage, []string{"--color"}, true},
		{"an unknown output format", plainConfig, nil, "info --output xml", exitUsage, []string{"xml"}, true},
		{"an unknown type of backup", plainConfig, nil, "backup --type incremental", exitUsage, []string{"use full, diff or incr"}, true},
		{"an annotation without a value", plainConfig, nil, "backup --annotation why", exitUsage, []string{`"why"`, "KEY=VALUE"}, true},
		{"an annotation whose key could be misread", plainConfig, nil, "backup --annotation a:b=c", exitUsage, []string{`"a:b"`, "letters, digits"}, true},
		{"a rate without a unit", plainConfig, nil, "backup --max-rate 50", exitUsage, []string{"--max-rate", `"50"`, "50MiB/s"}, true},
		{"a rate of nothing", plainConfig, nil, "backup --max-rate 0MiB/s", exitUsage, []string{"--max-rate", "1KiB/s"}, true},
		{"an absolute path to exclude", plainConfig, nil, "backup --exclude DIR/data/log", exitUsage, []string{"--exclude", "DIR/data/log", "relative to pgdata"}, true},
		{"a path to exclude that leads elsewhere", plainConfig, nil, "backup --exclude ../log", exitUsage, []string{`"../log"`, "relative to pgdata"}, true},
		{"a path to exclude that is not the shortest", plainConfig, nil, "backup --exclude ./log", exitUsage, []string{`"./log"`}, true},
		{"all to exclude", plainConfig, nil, "backup --exclude /", exitUsage, []string{`"/"`}, true},
		{"the databases to exclude", plainConfig, nil, "backup --exclude base/", exitUsage, []string{`"base/"`, "cannot be restored without it"}, true},
		{"an unknown source of a backup", plainConfig, nil, "backup --from primary", exitUsage, []string{`--from "primary" is unknown`, "prefer-standby"}, true},
		{"a backup from a standby without the way to its primary", plainConfig, initialised, "backup --from standby", exitConfiguration, []string{"--from standby: stanza main has no primary-connection"}, true},
		{"no processes", plainConfig, nil, "--processes 2000 backup", exitConfiguration, []string{"2000", "1024"}, false},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.config)
			if c.prepare != nil {
				c.prepare(t, s)
			}
			o := s.run(t, strings.Fields(strings.ReplaceAll(c.args, "DIR", s.dir))...)
			if o.code != c.code {
				t.Errorf("exit %d, want %d\n%s", o.code, c.code, o.stderr)
			}
			for _, name := range c.names {
				contains(t, o.stderr, strings.ReplaceAll(name, "DIR", s.dir))
			}
			checkForm(t, o.stderr, c.hint)
		})
	}
}

// checkForm holds the form of errors: one line "pgbak: ...", and with a hint a second one.
func checkForm(t *testing.T, stderr string, wantHint bool) {
	t.Helper()
	var rest []string
	for _, line := range strings.Split(strings.TrimSuffix(stderr, "\n"), "\n") {
		if !strings.HasPrefix(line, "time=") {
			rest = append(rest, line)
		}
	}
	hinted := len(rest) == 2 && strings.HasPrefix(rest[1], "hint: ")
	if !strings.HasPrefix(rest[0], "pgbak: ") || len(rest) > 2 || len(rest) == 2 && !hinted || wantHint && !hinted {
		t.Errorf("not in the form of an error (with a hint: %v):\n%s", wantHint, stderr)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[at] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// raiseFormat makes the repository one of a later format, as a later version
// would write it: with a checksum that fits.
func raiseFormat(t *testing.T, s *site) {
	t.Helper()
	path := s.path("repo/pgbak-repository.json")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]json.RawMessage
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	body := bytes.Replace(document["body"], []byte(`"format-version":1`), []byte(`"format-version":2`), 1)
	document["body"] = body
	document["sha256"] = fmt.Appendf(nil, `"%x"`, sha256.Sum256(body))
	if content, err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
