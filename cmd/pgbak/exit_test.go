package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage"
)

func TestTheDocumentationHasTheTableOfExitCodes(t *testing.T) {
	text, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, line := range strings.Split(string(text), "\n") {
		var code int
		if _, err := fmt.Sscanf(line, "| %d |", &code); err == nil {
			rows = append(rows, line)
		}
		if strings.HasPrefix(line, "## ") {
			break
		}
	}
	var want []string
	for _, m := range exitMeanings() {
		want = append(want, fmt.Sprintf("| %d | %s |", m.code, m.meaning))
	}
	if strings.Join(rows, "\n") != strings.Join(want, "\n") {
		t.Errorf("docs/exit-codes.md has\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
}

func TestExitCodes(t *testing.T) {
	sigint, sigterm := interrupted{syscall.SIGINT}, interrupted{syscall.SIGTERM}
	absent := fmt.Errorf("x is %w", archive.ErrAbsent)
	trouble := &storageError{errors.New("timeout")}
	for _, c := range []struct {
		title   string
		command string
		standby bool
		err     error
		want    int
	}{
		{"success is 0", "backup", false, nil, 0},
		{"archive-get that succeeds is 0", archiveGetName, true, nil, 0},
		{"what has no code of its own is 1", "backup", false, errors.New("x"), 1},
		{"usage is 2", "backup", false, &usageError{err: errors.New("x")}, 2},
		{"configuration is 3", "backup", false, fmt.Errorf("x: %w", &configError{errors.New("y")}), 3},
		{"a wrong passphrase is 4", "info", false, fmt.Errorf("x: %w", repo.ErrWrongPassphrase), 4},
		{"another cluster is 4", "check", false, repo.ErrIdentityMismatch, 4},
		{"a server that is not ready is 5", "backup", false, readiness.ErrNotReady, 5},
		{"WAL that does not arrive is 5", "backup", false, readiness.ErrWALTimeout, 5},
		{"damage is 6", "restore", false, &repo.DamagedError{Key: "packs/x", Err: errors.New("hash")}, 6},
		{"damage that was read through a failing store is 6", "restore", false, &repo.DamagedError{Key: "packs/x", Err: trouble}, 6},
		{"a storage failure is 7", "backup", false, trouble, 7},
		{"a full storage is 7", "backup", false, &storageError{storage.ErrNoSpace}, 7},
		{"an unreachable target is 8", "restore", false, restore.ErrUnreachable, 8},
		{"a directory in use is 8", "restore", false, restore.ErrDirectory, 8},
		{"what check found is 9, whatever it is", "check", false, &checkError{readiness.ErrNotReady}, 9},
		{"conflicting WAL is 10", archivePushName, false, repo.ErrWALConflict, 10},
		{"foreign WAL is 10", archivePushName, false, archive.ErrRefused, 10},
		{"SIGINT is 130", "backup", false, sigint, 130},
		{"SIGTERM is 143, whatever failed because of it", "backup", false, errors.Join(sigterm, trouble), 143},
		{"archive-push exits 1 on SIGTERM, so that the archiver lives", archivePushName, false, sigterm, 1},
		{"archive-push exits 1 on SIGINT", archivePushName, false, errors.Join(sigint, context.Canceled), 1},
		{"archive-get of an absent file is 1", archiveGetName, false, absent, 1},
		{"archive-get of an absent file on a standby is 1", archiveGetName, true, absent, 1},
		{"archive-get exits 143 on SIGTERM: a shutdown was asked for", archiveGetName, false, sigterm, 143},
		{"archive-get exits 143 on SIGTERM on a standby too", archiveGetName, true, sigterm, 143},
		{"a store's not-exist that proves nothing is trouble", archiveGetName, false, storage.ErrNotExist, 200},
		{"archive-get in trouble is 200", archiveGetName, false, trouble, 200},
		{"archive-get with a wrong command line is 200", archiveGetName, false, &usageError{err: errors.New("x")}, 200},
		{"archive-get with a wrong configuration is 200", archiveGetName, false, &configError{errors.New("x")}, 200},
		{"archive-get of damage is 200", archiveGetName, false, repo.ErrDamaged, 200},
		{"archive-get in trouble on a standby is 75", archiveGetName, true, trouble, 75},
		{"archive-get with a wrong configuration on a standby is 75", archiveGetName, true, &configError{errors.New("x")}, 75},
	} {
		t.Run(c.title, func(t *testing.T) {
			if got := exitCode(occasion{c.command, c.standby}, c.err); got != c.want {
				t.Errorf("exit %d, want %d", got, c.want)
			}
		})
	}
}

func TestEveryExitCodeOfArchivePushIsOneThatTheArchiverSurvives(t *testing.T) {
	for _, err := range []error{errors.New("x"), interrupted{syscall.SIGINT}, interrupted{syscall.SIGTERM}, context.Canceled,
		&usageError{err: errors.New("x")}, &configError{errors.New("x")}, repo.ErrDamaged, &storageError{errors.New("x")}} {
		if got := exitCode(occasion{command: archivePushName}, err); got < 1 || got > 125 {
			t.Errorf("%v: exit %d", err, got)
		}
	}
}

// inProcess runs the program without a process.
func inProcess(ctx context.Context, dir string, args ...string) (int, string) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, getenv: func(string) string { return "" }, clock: testClock, directory: dir}
	return a.run(ctx, args), out.String()
}

func TestNoMistakeOnTheCommandLineOfArchiveGetLooksLikeTheEndOfWAL(t *testing.T) {
	primary, standby := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(standby, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"archive-get",
		"archive-get 000000010000000000000001",
		"archive-get a b c",
		"archive-get --unknown a b",
		"--unknown archive-get a b",
		"--unknown=x archive-get a b",
		"--log-level loud archive-get a b",
		"--processes many archive-get a b",
		"--config /nowhere/pgbak.yaml archive-get a b",
		"--config archive-get a b",
		"archive-get a b --config",
	} {
		args := strings.Fields(line)
		if code, out := inProcess(t.Context(), primary, args...); code != exitGetTrouble {
			t.Errorf("pgbak %s: exit %d\n%s", line, code, out)
		}
		if code, out := inProcess(t.Context(), standby, args...); code != exitStandbyTrouble {
			t.Errorf("pgbak %s on a standby: exit %d\n%s", line, code, out)
		}
		if code, out := inProcess(t.Context(), primary, append(args, "--standby")...); code != exitStandbyTrouble && !strings.HasSuffix(line, "--config") {
			t.Errorf("pgbak %s --standby: exit %d\n%s", line, code, out)
		}
	}
}

func TestASignalDecidesAboutTheExitCode(t *testing.T) {
	for command, want := range map[string]int{"info": 143, "archive-push x": 1, "archive-get a b": 143} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(interrupted{syscall.SIGTERM})
		code, out := inProcess(ctx, t.TempDir(), append([]string{"--config", "/nowhere/pgbak.yaml"}, strings.Fields(command)...)...)
		if code != want || !strings.Contains(out, "terminated") {
			t.Errorf("%s: exit %d, want %d\n%s", command, code, want, out)
		}
	}
}
