package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// TestOnEveryMajor runs the tests below against one server of each major, one
// after the other: a server takes longer to make than they take to run. Each
// leaves the server as it found it, but for the last, which moves it to another
// timeline.
func TestOnEveryMajor(t *testing.T) {
	tests := []struct {
		title string
		run   func(t *testing.T, c *pgtest.Cluster)
	}{
		{"Info is what the server is", testInfo},
		{"the session is ours and without time limits", testSessionSettings},
		{"the current WAL file is where the server writes", testCurrentWALFile},
		{"every switch completes a segment", testSwitchWAL},
		{"the archiver's status says that archiving fails", testFailingArchiver},
		{"a cancelled start leaves nothing on the server", testCancelledStart},
		{"closing the connection ends the backup", testCloseEndsBackup},
		{"tablespaces and databases are listed", testLists},
		{"no WAL summaries unless asked for", testSummarizer},
		{"a backup is bracketed by start and stop", testBackup},
		{"a base backup comes as its manifest says", testBaseBackup},
		{"a cancelled base backup leaves no process", testBaseBackupCancelled},
		{"an incremental that cannot be is refused", testIncrementalRefused},
		{"Info knows the timeline right after promotion", testPromotion},
	}
	config := map[string]string{"archive_mode": "on", "archive_command": "true"}
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			c := pgtest.Start(t, pgtest.Options{Major: major, Config: config})
			for _, test := range tests {
				t.Run(test.title, func(t *testing.T) { test.run(t, c) })
			}
		})
	}
}

// connect opens a session that ends with the test.
func connect(t *testing.T, dsn string) *Conn {
	t.Helper()
	c, err := Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// must fails the test on an error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v (hint: %s)", err, hint.Of(err))
		}
		return v
	}
}

func testInfo(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	got := must(conn.Info(t.Context()))(t)

	file, err := os.ReadFile(filepath.Join(c.DataDir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	control := must(postgres.ParseControl(file))(t)
	if d := time.Since(got.Now).Abs(); d > time.Minute {
		t.Errorf("Now = %v, %v away from this machine's clock", got.Now, d)
	}
	want := Info{
		Version: got.Version, Major: c.Major, SystemID: control.SystemID, Timeline: 1, DataDirectory: c.DataDir,
		ArchiveMode: "on", ArchiveCommand: "true", WALLevel: "replica", WALSegmentSize: 16 << 20,
		BlockSize: 8 << 10, DataChecksums: true, FullPageWrites: true, CheckpointTimeout: 5 * time.Minute, Now: got.Now,
	}
	if got != want {
		t.Errorf("Info:\n got %+v\nwant %+v", got, want)
	}
	if got.Version/10000 != c.Major {
		t.Errorf("Version = %d, want one of %d", got.Version, c.Major)
	}
}

func testPromotion(t *testing.T, c *pgtest.Cluster) {
	// Much to replay and so to write, which keeps the checkpoint that follows the
	// promotion busy: until it ends, pg_control has the old timeline.
	c.Exec(t, "CREATE TABLE replayed AS SELECT generate_series(1, 200000) AS n")
	c.Kill(t)
	signal := filepath.Join(c.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, signal)
	c.Start(t)
	conn := connect(t, c.DSN())
	if info := must(conn.Info(t.Context()))(t); !info.InRecovery || info.Timeline != 1 {
		t.Errorf("standby: in recovery %t on timeline %d, want true on 1", info.InRecovery, info.Timeline)
	}
	var refused *pgconn.PgError
	if _, err := conn.SwitchWAL(t.Context()); !errors.As(err, &refused) || refused.Code != "55000" {
		t.Errorf("SwitchWAL on a standby: %v, want the server's refusal", err)
	}
	c.Promote(t)
	if info := must(conn.Info(t.Context()))(t); info.InRecovery || info.Timeline != 2 {
		t.Errorf("promoted: in recovery %t on timeline %d, want false on 2", info.InRecovery, info.Timeline)
	}
	if c.Query(t, "SELECT timeline_id FROM pg_control_checkpoint()") != "1" {
		t.Error("the checkpoint was too quick to show whether Info needs it")
	}
}

func testSessionSettings(t *testing.T, c *pgtest.Cluster) {
	c.Exec(t, "ALTER ROLE postgres SET search_path = public")
	c.Exec(t, "ALTER ROLE postgres SET statement_timeout = '1h'")
	c.Exec(t, "ALTER ROLE postgres SET lock_timeout = '1h'")
	defer c.Exec(t, "ALTER ROLE postgres RESET ALL")
	if c.Major >= 14 {
		c.Exec(t, "ALTER ROLE postgres SET idle_session_timeout = '1h'")
	}
	if c.Major >= 17 {
		c.Exec(t, "ALTER ROLE postgres SET transaction_timeout = '1h'")
	}
	conn := connect(t, c.DSN())
	rows, err := conn.query(t.Context(), "show", `SELECT name, setting FROM pg_settings WHERE name IN
			('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'transaction_timeout',
			'search_path', 'application_name', 'client_encoding')`)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"search_path": "pg_catalog", "application_name": "pgbak", "client_encoding": "UTF8"}
	for i := range rows {
		name, got := rows[i].text("name"), rows[i].text("setting")
		if w, ok := want[name]; ok && got != w || !ok && got != "0" {
			t.Errorf("%s = %q, want %q", name, got, w)
		}
	}
}

func testLists(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	if got := must(conn.Tablespaces(t.Context()))(t); len(got) != 0 {
		t.Errorf("tablespaces of a fresh cluster: %v, want none", got)
	}
	location := filepath.Join(pgtest.TempDir(t), "dir with space")
	if err := os.Mkdir(location, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, location)
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE fast LOCATION '%s'", location))
	c.Exec(t, `CREATE DATABASE "it's" TABLESPACE fast`)
	defer c.Exec(t, "DROP TABLESPACE fast")
	defer c.Exec(t, `DROP DATABASE "it's"`)

	spaces := must(conn.Tablespaces(t.Context()))(t)
	if len(spaces) != 1 || spaces[0].Name != "fast" || spaces[0].Location != location || spaces[0].OID < 16384 {
		t.Errorf("tablespaces: %+v, want fast at %s", spaces, location)
	}
	var names []string
	for _, d := range must(conn.Databases(t.Context()))(t) {
		names = append(names, d.Name)
		if want := c.Query(t, "SELECT oid FROM pg_database WHERE datname = "+quote(d.Name)); fmt.Sprint(d.OID) != want {
			t.Errorf("database %s has OID %d, want %s", d.Name, d.OID, want)
		}
	}
	for _, want := range []string{"template0", "template1", "postgres", "it's"} {
		if !strings.Contains("\n"+strings.Join(names, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("databases %q do not hold %q", names, want)
		}
	}
}

// notListening is a connection string to where no server is.
func notListening(t *testing.T) string {
	return fmt.Sprintf("host=%s port=5432 user=postgres password=secret dbname=postgres", t.TempDir())
}

func TestConnectSaysWhatToDo(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	cases := []struct {
		title, dsn, want, hint string
	}{
		{"no socket", notListening(t), "connect to the server: ", "start it"},
		{"nobody listens on the port", "host=127.0.0.1 port=1 user=postgres password=secret", "connect to the server: ", "start it"},
		{"unknown database", strings.Replace(c.DSN(), "dbname=postgres", "dbname=nosuch", 1), `"nosuch" does not exist`, "dbname="},
		{"unknown role", strings.Replace(c.DSN(), "user=postgres", "user=nosuch", 1), `"nosuch" does not exist`, "pg_hba.conf"},
		{"value with a space", "host=127.0.0.1 password=my secret user=postgres", "failed to parse as keyword/value", "apostrophes"},
		{"port that is none", "postgres://me:secret@127.0.0.1:54x/postgres", "invalid port", "write the connection"},
		{"address that is none", "postgres://me:secret@[::1/postgres", "failed to parse as URL", "write the connection"},
		{"password in the place of a port", "postgres://a@u:se:secret@h/db", "invalid port", "write the connection"},
		{"certificate that is not there", "host=127.0.0.1 password=secret sslmode=verify-full sslrootcert=/nonexistent/ca.pem", "read the connection settings: open /nonexistent/ca.pem", ""},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			conn, err := Connect(t.Context(), tc.dsn)
			if err == nil {
				conn.Close(t.Context())
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			if h := hint.Of(err); !strings.Contains(h, tc.hint) {
				t.Errorf("hint %q does not say %q", h, tc.hint)
			}
			if text := fmt.Sprintf("%v %+v %s", err, err, hint.Of(err)); strings.Contains(text, "secret") {
				t.Errorf("the error shows the password: %s", text)
			}
		})
	}
}

func TestPasswordIsNotShownByARefusal(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	c.Exec(t, "CREATE ROLE guarded LOGIN PASSWORD 'right'")
	hba := filepath.Join(c.DataDir, "pg_hba.conf")
	if err := os.WriteFile(hba, []byte("local all guarded scram-sha-256\nlocal all all trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "SELECT pg_reload_conf()")
	c.WaitFor(t, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'", "1", 10*time.Second)
	dsn := strings.Replace(c.DSN(), "user=postgres", "user=guarded password=wrongsecret", 1)
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var conn *Conn
		if conn, err = Connect(t.Context(), dsn); err != nil {
			break
		}
		conn.Close(t.Context()) // the server has not read pg_hba.conf again yet
	}
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != codeInvalidPassword {
		t.Fatalf("error %v, want the server's %s", err, codeInvalidPassword)
	}
	if strings.Contains(err.Error(), "wrongsecret") {
		t.Errorf("the error shows the password: %v", err)
	}
	if h := hint.Of(err); !strings.Contains(h, "PGPASSFILE") {
		t.Errorf("hint %q does not say where passwords belong", h)
	}
}

func TestMissingPrivilegeIsExplained(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	c.Exec(t, "CREATE ROLE modest LOGIN")
	conn := connect(t, strings.Replace(c.DSN(), "user=postgres", "user=modest", 1))
	_, err := conn.StartBackup(t.Context(), "label", true)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != codeInsufficientPrivilege {
		t.Fatalf("error %v, want the server's %s", err, codeInsufficientPrivilege)
	}
	if h := hint.Of(err); !strings.Contains(h, "grant") {
		t.Errorf("hint %q does not say what to grant", h)
	}
}
