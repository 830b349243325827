package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFlagsOfBackupDoWhatTheySay is judged by the server's log, by the clock,
// and by what a restore brings back.
func TestFlagsOfBackupDoWhatTheySay(t *testing.T) {
	// With a target of 0 a spread checkpoint need not be waited for.
	h := host(t, map[string]string{"log_checkpoints": "on", "checkpoint_completion_target": "0"})
	h.expect(t, exitOK, "init")
	for path, content := range map[string]string{"core.1": "a dump", "notes/keep": "a note", "notes/more/x": "more", "noted": "not excluded"} {
		name := filepath.Join(h.DataDir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	take := func(args ...string) (b backupInfo, took time.Duration) {
		var taken backupResult
		begin := time.Now()
		o := h.expect(t, exitOK, append([]string{"backup", "--output", "json"}, args...)...)
		took = time.Since(begin)
		if err := json.Unmarshal([]byte(o.stdout), &taken); err != nil {
			t.Fatal(err)
		}
		return *taken.Backup, took
	}
	logged := func() (spread, immediate int) {
		return strings.Count(h.Log(), "checkpoint starting: force wait"), strings.Count(h.Log(), "checkpoint starting: immediate force wait")
	}

	spread, immediate := logged()
	take("--start-fast=false")
	if s, i := logged(); s != spread+1 || i != immediate {
		t.Errorf("--start-fast=false: %d spread and %d immediate checkpoints", s-spread, i-immediate)
	}
	spread, immediate = logged()
	free, _ := take()
	if s, i := logged(); s != spread || i != immediate+1 {
		t.Errorf("by default: %d spread and %d immediate checkpoints", s-spread, i-immediate)
	}

	const perSecond = 8 << 20
	bounded, took := take("--max-rate", "8MiB/s", "--annotation", "ticket=4711", "--annotation", "k8s.io/why=a=b ü", "--annotation", "empty=",
		"--exclude", "core.1", "--exclude", "notes/")
	if least := time.Duration(float64(bounded.DatabaseSize-1<<20) / perSecond * float64(time.Second)); took < least {
		t.Errorf("reading %d bytes took %v, at 8MiB/s it takes %v", bounded.DatabaseSize, took, least)
	}
	if a := bounded.Annotations; len(a) != 3 || a["ticket"] != "4711" || a["k8s.io/why"] != "a=b ü" || a["empty"] != "" {
		t.Errorf("annotations %q", a)
	}
	contains(t, h.expect(t, exitOK, "info", "--set", string(bounded.Label)).stdout, "annotation: ticket: 4711", "annotation: k8s.io/why: a=b ü")

	for label, want := range map[string]string{
		string(free.Label):    "core.1 noted notes notes/keep notes/more notes/more/x",
		string(bounded.Label): "noted notes",
	} {
		into := filepath.Join(h.dir, label)
		h.expect(t, exitOK, "restore", "--target-dir", into, "--set", label)
		var got []string
		for _, path := range []string{"core.1", "noted", "notes", "notes/keep", "notes/more", "notes/more/x"} {
			if _, err := os.Lstat(filepath.Join(into, path)); err == nil {
				got = append(got, path)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of backup %s came back %q, want %q", label, got, want)
		}
	}
}

func TestAnnotationsThatAreRefused(t *testing.T) {
	many := make([]string, 65)
	for i := range many {
		many[i] = strings.Repeat("k", i+1) + "="
	}
	for _, c := range []struct {
		title string
		pairs []string
		want  string
	}{
		{"no value", []string{"key"}, `--annotation "key" is not of the form KEY=VALUE`},
		{"no key", []string{"=value"}, `--annotation "=value" is not of the form KEY=VALUE`},
		{"the same key twice", []string{"a=1", "b=2", "a=3"}, `--annotation names "a" twice`},
		{"a key with a space", []string{"a b=1"}, `the key "a b" is not made of`},
		{"a key with a new line", []string{"a\nstatus=1"}, `the key "a\nstatus" is not made of`},
		{"a key that begins with a dash", []string{"-a=1"}, `the key "-a" is not made of`},
		{"a key that is too long", []string{strings.Repeat("k", 65) + "=1"}, "is not made of at most 64"},
		{"a value of two lines", []string{"a=1\n2"}, `--annotation a: the value "1\n2" is not one line of text`},
		{"a value with an escape sequence", []string{"a=\x1b[2J"}, "is not one line of text"},
		{"a value that is no text", []string{"a=\xff"}, "is not one line of text"},
		{"a value that is too long", []string{"a=" + strings.Repeat("v", 1025)}, "--annotation a: the value has 1025 bytes, more than 1024"},
		{"too many", many, "--annotation is given 65 times: a backup takes 64"},
	} {
		if _, err := parseAnnotations(c.pairs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.title, err, c.want)
		}
	}
	if m, err := parseAnnotations([]string{strings.Repeat("k", 64) + "=" + strings.Repeat("v", 1024), "A9._/-=", "b=x=y"}); err != nil || len(m) != 3 || m["b"] != "x=y" {
		t.Errorf("%d annotations, %v", len(m), err)
	}
}
