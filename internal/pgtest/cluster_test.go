package pgtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// eachMajor runs a test on every major.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	for _, major := range Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) { test(t, major) })
	}
}

func TestClusterLivesThroughStopAndCrash(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		c := Start(t, Options{Major: major})
		if got, want := c.Query(t, "show server_version_num"), strconv.Itoa(major); !strings.HasPrefix(got, want) || len(got) != 6 {
			t.Errorf("server_version_num is %s, want one of %s", got, want)
		}
		if got := c.Query(t, "show data_checksums"); got != "on" {
			t.Errorf("data_checksums is %s, want on", got)
		}
		c.Exec(t, "create table kept as select 1 as a, null as b, 'x|y' as c; create table more (a int)")
		if got, want := c.Query(t, "select * from kept; select count(*) from more"), "1||x|y\n0"; got != want {
			t.Errorf("query gives %q, want %q", got, want)
		}

		c.Stop(t, "fast")
		if c.Running() {
			t.Error("the server runs after Stop")
		}
		if got := c.WaitExit(t, time.Second); got != 0 {
			t.Errorf("exit status after a fast stop is %d, want 0", got)
		}
		c.Start(t)

		c.Exec(t, "insert into more values (42)")
		children := descendants(c.postmaster.cmd.Process.Pid)
		if len(children) < 3 {
			t.Errorf("only %d processes below the postmaster", len(children))
		}
		c.Kill(t)
		for _, pid := range children {
			if alive(pid) {
				t.Errorf("process %d survived Kill", pid)
			}
		}
		c.Start(t)
		if got := c.Query(t, "select a from more"); got != "42" {
			t.Errorf("after a crash the table holds %q, want 42", got)
		}
		if !strings.Contains(c.Log(), "automatic recovery in progress") {
			t.Error("the log does not tell of crash recovery")
		}
	})
}

func TestOptionsReachTheCluster(t *testing.T) {
	dir := filepath.Join(TempDir(t), "elsewhere")
	c := Start(t, Options{
		Dir: dir, NoChecksums: true, SegmentSizeMB: 1, InitArgs: []string{"--allow-group-access"},
		Config: map[string]string{"application_name": "it's mine", "archive_mode": "on", "fsync": "on"},
	})
	for setting, want := range map[string]string{
		"data_directory":      dir,
		"data_checksums":      "off",
		"wal_segment_size":    "1MB",
		"data_directory_mode": "0750",
		"application_name":    "it's mine",
		"archive_mode":        "on",
		"fsync":               "on",
		"shared_buffers":      "16MB",
	} {
		if got := c.Query(t, "show "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	if majors := Majors(); c.Major != majors[len(majors)-1] {
		t.Errorf("without a major PostgreSQL %d starts, want the newest of %v", c.Major, majors)
	}
}

func TestOpenedStandbyAnswersAndIsPromoted(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		primary := Start(t, Options{Major: major})
		primary.Exec(t, "create table t as select 7 as a; checkpoint")
		primary.Stop(t, "fast")
		dir := filepath.Join(TempDir(t), "standby")
		copyTree(t, primary.DataDir, dir)
		signal := filepath.Join(dir, "standby.signal")
		if err := os.WriteFile(signal, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		GiveToServer(t, signal)
		primary.Start(t)

		standby := Open(t, dir, major, map[string]string{"primary_conninfo": primary.DSN()})
		standby.WaitReady(t, time.Minute)
		if got := standby.Query(t, "select pg_is_in_recovery()"); got != "t" {
			t.Fatalf("the standby is in recovery: %s, want t", got)
		}
		primary.Exec(t, "insert into t values (8)")
		standby.WaitFor(t, "select count(*) from t", "2", time.Minute)
		standby.Promote(t)
		standby.Exec(t, "insert into t values (9)")
	})
}

func TestOpenReportsAServerThatGivesUp(t *testing.T) {
	c := Start(t, Options{})
	c.Stop(t, "fast")
	signal := filepath.Join(c.DataDir, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	GiveToServer(t, signal)
	// Without a restore_command the server refuses.
	opened := Open(t, c.DataDir, c.Major, nil)
	if got := opened.WaitExit(t, time.Minute); got != 1 {
		t.Errorf("exit status is %d, want 1", got)
	}
	if !strings.Contains(opened.Log(), "restore_command") {
		t.Errorf("the log does not say why:\n%s", opened.Log())
	}
	if said := failure(t, func(tb testing.TB) { opened.WaitReady(tb, time.Minute) }); !strings.Contains(said, "ended and will not accept") {
		t.Errorf("WaitReady says %q", said)
	}
}

func TestWaitForEndsInTime(t *testing.T) {
	c := Start(t, Options{})
	said := failure(t, func(tb testing.TB) { c.WaitFor(tb, "select 1", "2", 100*time.Millisecond) })
	if !strings.Contains(said, `it answers "1"`) {
		t.Errorf("WaitFor says %q", said)
	}
	if said := failure(t, func(tb testing.TB) { c.Exec(tb, "select 1/0") }); !strings.Contains(said, "division by zero") {
		t.Errorf("Exec says %q", said)
	}
	var refused *pgconn.PgError
	if _, err := c.TryQuery("select * from absent"); !errors.As(err, &refused) || refused.Code != "42P01" {
		t.Errorf("TryQuery gives %v, want a *pgconn.PgError with code 42P01", err)
	}
}

func TestServerListensOnTCPToo(t *testing.T) {
	c := Start(t, Options{})
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestConnectKeepsASession(t *testing.T) {
	c := Start(t, Options{})
	conn := c.Connect(t, "application_name=session")
	for _, sql := range []string{"create temporary table seen as select current_setting('application_name') as name", "select name from seen"} {
		results, err := conn.Exec(t.Context(), sql).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if got := unaligned(results); strings.HasPrefix(sql, "select") && got != "session" {
			t.Errorf("the session knows %q, want session", got)
		}
	}
}

func TestPgbenchRuns(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		c := Start(t, Options{Major: major})
		Pgbench(t, c, "-i", "-q", "-s", "1")
		if out := Pgbench(t, c, "-c", "2", "-t", "20"); !strings.Contains(out, "40/40") {
			t.Errorf("pgbench says:\n%s", out)
		}
		if got := c.Query(t, "select count(*) from pgbench_history"); got != "40" {
			t.Errorf("%s rows of history, want 40", got)
		}
	})
}

// TestServerEndsWithItsTest runs this test binary again as a test that kills itself while its server runs.
func TestServerEndsWithItsTest(t *testing.T) {
	const marker = "PGTEST_DIE_WITH_SERVER"
	if os.Getenv(marker) != "" {
		c := Start(t, Options{})
		fmt.Println("postmaster", c.postmaster.cmd.Process.Pid, c.SocketDir, filepath.Dir(c.DataDir))
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsTest$")
	cmd.Env = append(os.Environ(), marker+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	var pid int
	var socketDir, dataParent string
	if _, err := fmt.Sscanf(string(text), "postmaster %d %s %s", &pid, &socketDir, &dataParent); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	defer removeAll(t, socketDir)
	defer removeAll(t, dataParent)
	for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("postmaster %d lives on", pid)
		}
	}
}
