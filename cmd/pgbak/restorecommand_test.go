package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

func TestHelpThatWasAskedForIsNoMistake(t *testing.T) {
	for _, line := range []string{"help", "--help", "help restore", "restore --help"} {
		if code, out := inProcess(t.Context(), t.TempDir(), strings.Fields(line)...); code != exitOK || !strings.Contains(out, "Usage:") {
			t.Errorf("pgbak %s: exit %d\n%s", line, code, out)
		}
	}
}

func TestTheTextOfTheRestoreCommand(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sel := selection{config: &config{path: "/etc/pg bak/it's.yaml"}, stanza: stanzaConfig{Name: "main"}}
	got, err := restoreCommandSetting(sel, "100%", repo.Identity{Number: 3})
	want := `trap 'if [ $? -eq 2 ]; then [ -e standby.signal ] && exit 75; exit 200; fi' EXIT; ` +
		program + ` --config '/etc/pg bak/it'\''s.yaml' --stanza main --repo 100%% archive-get --identity 3 %f "%p"`
	if err != nil || got != want {
		t.Errorf("restore_command\n%s\nwant\n%s\n(%v)", got, want, err)
	}
}

// status runs a command as PostgreSQL runs restore_command.
func status(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestACrashIsNotTheEndOfWALAndOtherStatusesStay(t *testing.T) {
	recovery, standby := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(standby, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(dir, program string) int {
		cmd := exec.Command("sh", "-c", crashGuard+program)
		cmd.Dir = dir
		return status(t, cmd)
	}
	for _, code := range []int{0, 1, 75, 127, 143, 200} {
		program := "sh -c 'exit " + strconv.Itoa(code) + "'"
		if r, s := run(recovery, program), run(standby, program); r != code || s != code {
			t.Errorf("exit %d became %d in recovery and %d on a standby", code, r, s)
		}
	}
	if r, s := run(recovery, "sh -c 'exit 2'"), run(standby, "sh -c 'exit 2'"); r != exitGetTrouble || s != exitStandbyTrouble {
		t.Errorf("a crash became %d in recovery and %d on a standby, want %d and %d", r, s, exitGetTrouble, exitStandbyTrouble)
	}
	for signal, want := range map[string]int{"TERM": exitTerminated, "KILL": 128 + 9} {
		if got := run(recovery, "sh -c 'kill -"+signal+" $$'"); got != want {
			t.Errorf("death by SIG%s became %d, want %d", signal, got, want)
		}
	}
}

// A shell that cannot start a process ends with 2 too, before any command of
// its own could look at that.
func TestAShellThatCannotForkIsNotTheEndOfWAL(t *testing.T) {
	limit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Fatal(err)
	}
	cmd := pgtest.Command(t, limit, "--nproc=0", "sh", "-c", crashGuard+"/bin/true")
	cmd.Dir = "/"
	if got := status(t, cmd); got != exitGetTrouble {
		t.Errorf("exit %d, want %d", got, exitGetTrouble)
	}
}

// TestACrashOfArchiveGetStopsRecovery takes the memory from archive-get that
// the Go runtime needs to start, in the setting that restore wrote.
func TestACrashOfArchiveGetStopsRecovery(t *testing.T) {
	h := host(t, nil)
	h.expect(t, exitOK, "init")
	h.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	h.expect(t, exitOK, "backup")
	h.Exec(t, "INSERT INTO t SELECT generate_series(1001, 2000)")
	h.expect(t, exitOK, "check")
	into := filepath.Join(h.dir, "restored")
	contains(t, h.expect(t, exitOK, "restore", "--target-dir", into, "--plan").stdout, "archives into this stanza, on a new timeline", "--archive-mode off")
	o := h.expect(t, exitOK, "restore", "--target-dir", into, "--archive-mode", "off")
	if strings.Contains(o.stdout, "archives into this stanza") {
		t.Errorf("with archive_mode off it says\n%s", o.stdout)
	}
	path := filepath.Join(into, "postgresql.auto.conf")
	settings, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	limited := strings.Replace(string(settings), "EXIT; ", "EXIT; ulimit -v 500000; ", 1)
	contains(t, limited, "ulimit", "archive-get --identity 1 %f")
	if err := os.WriteFile(path, []byte(limited), 0o600); err != nil {
		t.Fatal(err)
	}
	c := pgtest.Open(t, into, 17, nil)
	if c.WaitExit(t, time.Minute) == 0 {
		t.Error("the server ended as if it had been asked to")
	}
	contains(t, c.Log(), "exit code 200")
	if tli := timelineOf(t, into); tli != 1 {
		t.Errorf("the server promoted to timeline %d", tli)
	}
	if err := os.WriteFile(path, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	again := pgtest.Open(t, into, 17, nil)
	again.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if rows := again.Query(t, "SELECT count(*) FROM t"); rows != "2000" {
		t.Errorf("%s rows came back, want 2000", rows)
	}
	again.Stop(t, "fast")
}

func TestTheIdentitiesThatArchiveGetAsks(t *testing.T) {
	id := func(number int, system uint64, major int, size int64) repo.Identity {
		return repo.Identity{Number: number, SystemID: system, Major: major, SegmentSize: size}
	}
	// 1 was upgraded to 2 and rolled back to, as 3; 4 is 3 with another segment size.
	all := []repo.Identity{id(1, 7, 16, 16<<20), id(2, 8, 17, 16<<20), id(3, 7, 16, 16<<20), id(4, 7, 16, 64<<20)}
	control := func(system uint64, major int, size int64) *postgres.Control {
		return &postgres.Control{SystemID: system, Major: major, WALSegmentSize: size}
	}
	for _, c := range []struct {
		title   string
		number  int
		control *postgres.Control
		want    string
	}{
		{"all that are the cluster, the newest first", 0, control(7, 16, 16<<20), "3 1"},
		{"the one that was named", 1, control(7, 16, 16<<20), "1"},
		{"one with another segment size is another archive", 0, control(7, 16, 64<<20), "4"},
		{"a number of another cluster, as it is in another repository, does not decide", 2, control(7, 16, 16<<20), "3 1"},
		{"nor does a number that is not there", 9, control(8, 17, 16<<20), "2"},
		{"a foreign cluster has none", 0, control(9, 17, 16<<20), ""},
		{"nor has another major", 1, control(7, 17, 16<<20), ""},
		{"nor has another segment size", 1, control(7, 16, 1<<20), ""},
		{"without a data directory the current one", 0, nil, "4"},
		{"without a data directory the one that was named", 2, nil, "2"},
		{"without a data directory a number that is not there", 9, nil, ""},
	} {
		var got []string
		for _, i := range wantedIdentities(all, c.number, c.control) {
			got = append(got, strconv.Itoa(i.Number))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.title, got, c.want)
		}
	}
}
