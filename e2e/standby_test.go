package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// withStandby gives a host a standby, on which pgbak then runs: what is returned
// is that standby with a configuration of its own for the same stanza.
func withStandby(t *testing.T, primary *host) *host {
	t.Helper()
	s := *primary
	s.Cluster = pgtest.StartStandby(t, primary.Cluster)
	s.follow(t, primary.config, primary.DSN(), "postgres")
	return &s
}

// follow writes the configuration of a standby from that of the primary that
// made the stanza, with this primary-connection. Both connections are a role's.
func (h *host) follow(t *testing.T, config, primary, role string) {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "    pgdata:")
	name := filepath.Base(h.SocketDir) + ".yaml"
	as := func(dsn string) string { return strings.Replace(dsn, "user=postgres", "user="+role, 1) }
	h.config = filepath.Join(h.dir, name)
	h.write(t, name, head+fmt.Sprintf("    pgdata: %s\n    connection: %q\n    primary-connection: %q\nprocesses: 2\n", h.DataDir, as(h.DSN()), as(primary)))
}

// leastRole makes the role of docs/operations.md.
func leastRole(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	start, stop := "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	if c.Major < 15 {
		start, stop = "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
	}
	c.Exec(t, "CREATE ROLE pgbak LOGIN; GRANT pg_read_all_settings TO pgbak")
	c.Exec(t, "GRANT EXECUTE ON FUNCTION pg_switch_wal(), pg_create_restore_point(text), "+start+", "+stop+" TO pgbak")
}

// TestABackupFromAStandby is the main job with the files of a standby, on every
// major, by a role that may do no more than it needs.
func TestABackupFromAStandby(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{encrypted: major%2 == 1, cluster: pgtest.Options{Major: major}})
			fillForStandby(t, p)
			s := withStandby(t, p)
			s.follow(t, s.config, p.DSN(), "pgbak")
			p.write(t, "data/of-the-primary", "x")
			pgtest.GiveToServer(t, p.DataDir)
			if err := os.WriteFile(filepath.Join(s.DataDir, "of-the-standby"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.GiveToServer(t, s.DataDir)

			first := backUpStandbyDuringTraffic(t, p, s)
			final := committed(t, p.Cluster)
			switchWAL(t, p.Cluster)
			t.Run("restored to the end", func(t *testing.T) {
				c := restoreStandbys(t, s)
				sameText(t, "the committed state", committed(t, c), final)
				if n := c.Query(t, "SELECT count(*) FROM scratch"); n != "0" {
					t.Errorf("the unlogged table has %s rows", n)
				}
			})
			t.Run("restored to the end of the backup", func(t *testing.T) {
				c := restoreStandbys(t, s, "--type", "immediate", "--target-action", "promote")
				if rows := c.Query(t, "SELECT name FROM ledger"); rows != "before the backup" {
					t.Errorf("ledger holds %q, want what the primary had committed before the backup, and no more", rows)
				}
			})
			t.Run("a second one of a cluster at rest", func(t *testing.T) {
				second := s.backup(t, "--from", "prefer-standby").Backup
				if second.Source != "standby" || second.Start.LSN <= first.Start.LSN || second.AddedSize*20 > second.DatabaseSize {
					t.Errorf("backup %+v after %+v", second, first)
				}
				c := restoreStandbys(t, s)
				sameText(t, "the committed state", committed(t, c), final)
			})
			t.Run("incremental ones of both servers during traffic", func(t *testing.T) {
				w := startTraffic(t, p.Cluster, "-c", "2", "-R", "200")
				for _, b := range []taken{
					s.backup(t, "--from", "standby", "--type", "incr"),
					p.backup(t, "--type", "incr"),
					s.backup(t, "--from", "standby", "--type", "incr"),
				} {
					if i := b.Backup; i.Type != repo.Incremental || len(b.Warnings) != 0 || !slices.ContainsFunc(i.Ways, func(u repo.WayUse) bool {
						return u.Way == "archive-summaries" && u.Bytes > i.DatabaseSize/2 && u.Read < u.Bytes
					}) {
						t.Errorf("backup %+v, warnings %q", i, b.Warnings)
					}
				}
				w.mustMove(t)
				w.stop(t)
				final := committed(t, p.Cluster)
				switchWAL(t, p.Cluster)
				sameText(t, "the committed state", committed(t, restoreStandbys(t, s)), final)
			})
			for _, c := range []*pgtest.Cluster{p.Cluster, s.Cluster} {
				c.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbak'", "0", 10*time.Second)
			}
		})
	}
}

func fillForStandby(t *testing.T, p *host) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(p.dir, "space"), 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, p.dir)
	leastRole(t, p.Cluster)
	pgtest.Pgbench(t, p.Cluster, "-i", "-q", "-s", "2")
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLESPACE elsewhere LOCATION '%s'", filepath.Join(p.dir, "space")),
		"CREATE EXTENSION amcheck",
		"CREATE TABLE ledger (name text)",
		"CREATE TABLE spaced TABLESPACE elsewhere AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
		"CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 10000) n",
	} {
		p.Exec(t, sql)
	}
}

func backUpStandbyDuringTraffic(t *testing.T, p, s *host) backupInfo {
	t.Helper()
	w := startTraffic(t, p.Cluster, "-c", "2", "-R", "200")
	p.Exec(t, "INSERT INTO ledger VALUES ('before the backup')")
	before := w.rows(t)
	b := s.backup(t, "--from", "standby")
	if w.rows(t) == before {
		t.Error("nothing was committed during the backup")
	}
	p.Exec(t, "INSERT INTO ledger VALUES ('after the backup')")
	w.mustMove(t)
	w.stop(t)
	if i := b.Backup; i.Source != "standby" || i.Status != "ok" || i.ErrorCount != 0 || i.Timeline != 1 || len(b.Warnings) != 0 {
		t.Errorf("backup %+v, warnings %q", i, b.Warnings)
	}
	if listed := s.backups(t); len(listed) != 1 || listed[0].Source != "standby" {
		t.Errorf("info lists %+v", listed)
	}
	return b.Backup
}

// restoreStandbys restores the newest backup, checks that its files are those
// of the standby, and gives the server after recovery.
func restoreStandbys(t *testing.T, s *host, args ...string) *pgtest.Cluster {
	t.Helper()
	dir := pgtest.TempDir(t)
	into := filepath.Join(dir, "data")
	s.expect(t, codeOK, append([]string{"restore", "--target-dir", into, "--archive-mode", "off",
		"--tablespace-map", "elsewhere=" + filepath.Join(dir, "space")}, args...)...)
	verifyBackup(t, into)
	checkLeftOut(t, into)
	if !exists(filepath.Join(into, "of-the-standby")) || exists(filepath.Join(into, "of-the-primary")) || exists(filepath.Join(into, "standby.signal")) {
		t.Error("the files are not those of the standby")
	}
	label, err := os.ReadFile(filepath.Join(into, "backup_label"))
	if err != nil {
		t.Fatal(err)
	}
	says(t, string(label), "BACKUP FROM: standby\n", "BACKUP METHOD: streamed\n")
	c := pgtest.Open(t, into, s.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	balanced(t, c)
	checkStructure(t, c)
	return c
}

// TestABackupFromAStandbyIsRefused in every state of the two servers in which it
// would be worth nothing, or would never end.
func TestABackupFromAStandbyIsRefused(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{})
	p.Exec(t, "CREATE TABLE ledger (name text)")
	s := withStandby(t, p)
	other := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1})
	refuse := func(title string, code int, words []string, args ...string) {
		t.Run(title, func(t *testing.T) {
			s.refuse(t, code, words, append([]string{"backup", "--archive-timeout", "2s"}, args...)...)
			if n := len(s.backups(t)); n != 0 {
				t.Errorf("%d backups are listed", n)
			}
		})
	}
	fromStandby := []string{"--from", "standby"}
	refuse("a standby without being asked", codeServer, []string{"is in recovery", "--from standby"})
	s.follow(t, p.config, other.DSN(), "postgres")
	refuse("another cluster as the primary", codeStanza, []string{"on the primary: ", "system identifier", "primary-connection"}, fromStandby...)
	s.follow(t, p.config, s.DSN(), "postgres")
	refuse("the standby as the primary", codeServer, []string{"primary-connection leads to is in recovery itself", "target_session_attrs=read-write"}, fromStandby...)
	s.follow(t, p.config, p.DSN(), "postgres")

	s.Exec(t, "SELECT pg_wal_replay_pause()")
	refuse("a replay that is paused", codeServer, []string{"replay is paused", "pg_wal_replay_resume"}, fromStandby...)
	s.Exec(t, "SELECT pg_wal_replay_resume()")

	p.Exec(t, "ALTER SYSTEM SET full_page_writes = off")
	p.Exec(t, "SELECT pg_reload_conf()")
	p.WaitFor(t, "SHOW full_page_writes", "off", 10*time.Second)
	refuse("a primary without full-page writes", codeServer, []string{"full_page_writes is off"}, fromStandby...)
	p.Exec(t, "ALTER SYSTEM RESET full_page_writes")
	p.Exec(t, "SELECT pg_reload_conf()")
	p.WaitFor(t, "SHOW full_page_writes", "on", 10*time.Second)

	reload := func(setting string) {
		t.Helper()
		s.Exec(t, "ALTER SYSTEM SET "+setting)
		s.Exec(t, "SELECT pg_reload_conf()")
	}
	reload("recovery_min_apply_delay = '1h'")
	s.WaitFor(t, "SHOW recovery_min_apply_delay", "1h", 10*time.Second)
	p.Exec(t, "INSERT INTO ledger VALUES ('delayed')")
	refuse("a standby that is delayed", codeServer, []string{"the standby has replayed WAL up to", "recovery_min_apply_delay is 1h0m0s", "delayed by design"}, fromStandby...)
	reload("recovery_min_apply_delay = 0")
	reload("primary_conninfo = ''")
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver", "0", 10*time.Second)
	refuse("a standby that gets no WAL", codeServer, []string{"the standby has replayed WAL up to", "receives no WAL", "restore_command"}, fromStandby...)

	t.Run("one that gets it from the archive is good", func(t *testing.T) {
		reload("restore_command = '" + s.program + " --config " + s.config + " archive-get %f %p'")
		if b := s.backup(t, fromStandby...); b.Backup.Source != "standby" {
			t.Errorf("backup %+v", b)
		}
	})
}

// TestTheServerDecidesWhereABackupIsFrom: one command line for hosts whose roles change.
func TestTheServerDecidesWhereABackupIsFrom(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{})
	s := withStandby(t, p)
	onPrimary := *p
	onPrimary.follow(t, p.config, p.DSN(), "postgres")
	if b := onPrimary.backup(t, "--from", "prefer-standby"); b.Backup.Source != "local" {
		t.Errorf("on the primary: %+v", b.Backup)
	}
	onPrimary.refuse(t, codeServer, []string{"the server is not a standby", "prefer-standby"}, "backup", "--from", "standby")
	if b := s.backup(t, "--from", "prefer-standby"); b.Backup.Source != "standby" {
		t.Errorf("on the standby: %+v", b.Backup)
	}
	s.follow(t, p.config, fmt.Sprintf("host=%s,%s port=%d,%d user=postgres dbname=postgres target_session_attrs=read-write",
		s.SocketDir, p.SocketDir, s.Port, p.Port), "postgres")
	if b := s.backup(t, "--from", "standby"); b.Backup.Source != "standby" {
		t.Errorf("with several hosts as the primary: %+v", b.Backup)
	}
	s.follow(t, p.config, p.DSN(), "postgres")
	p.refuse(t, 3, []string{"stanza main has no primary-connection"}, "backup", "--from", "prefer-standby")

	p.Stop(t, "fast")
	s.refuse(t, codeServer, []string{"the primary of the standby", p.SocketDir, "needs its primary"}, "backup", "--from", "prefer-standby")
	p.Start(t)
	s.Stop(t, "fast")
	s.refuse(t, codeServer, []string{s.SocketDir}, "backup", "--from", "prefer-standby")
	if n := len(p.backups(t)); n != 3 {
		t.Errorf("%d backups are listed", n)
	}
}

// TestABackupFromAStandbyFailsWhenTheServersChange strikes while the backup is
// halted in the middle of the copy.
func TestABackupFromAStandbyFailsWhenTheServersChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		title  string
		strike func(t *testing.T, primary, standby *host)
		words  []string
	}{
		{"the standby is promoted", func(t *testing.T, _, s *host) { s.Promote(t) }, []string{"the standby was promoted during the backup"}},
		{"the primary stops writing full pages for a while", func(t *testing.T, p, s *host) {
			for _, value := range []string{"off", "on"} {
				p.Exec(t, "ALTER SYSTEM SET full_page_writes = "+value)
				p.Exec(t, "SELECT pg_reload_conf()")
				p.WaitFor(t, "SHOW full_page_writes", value, 10*time.Second)
				p.Exec(t, "CHECKPOINT") // the checkpointer has seen the setting then
			}
			p.Exec(t, "CREATE TABLE made_meanwhile AS SELECT 1 AS n")
			s.WaitFor(t, "SELECT count(*) FROM pg_class WHERE relname = 'made_meanwhile'", "1", time.Minute)
		}, []string{"full_page_writes", "keep it on"}},
		{"the primary crashes", func(t *testing.T, p, _ *host) { p.Kill(t) }, []string{"the session with the server is lost"}},
		{"the primary is started again", func(t *testing.T, p, _ *host) { p.Restart(t) }, []string{"the session with the server is lost"}},
		{"the standby is started again", func(t *testing.T, _, s *host) { s.Restart(t) }, []string{"the session with the server is lost"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{})
			s := withStandby(t, p)
			ballast(t, s.DataDir, "ballast", 192<<20)
			b := haltedBackup(t, s, "--from", "standby")
			if n := len(p.sessions(t)); n != 1 {
				t.Fatalf("%d sessions on the primary, want that of the backup", n)
			}
			c.strike(t, p, s)
			o := b.goOn(t)
			if o.code != codeServer {
				t.Errorf("exit %d, want %d", o.code, codeServer)
			}
			says(t, o.stderr, append(c.words, "pgbak: ", "\nhint: ")...)
			if n := len(s.backups(t)); n != 0 {
				t.Errorf("%d backups are listed", n)
			}
		})
	}
}

// TestABackupFromAStandbyFailsWhenItFollowsAnotherTimeline: what the standby
// follows is promoted, while its former primary lives on.
func TestABackupFromAStandbyFailsWhenItFollowsAnotherTimeline(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{})
	between := withStandby(t, p)
	s := withStandby(t, between)
	s.follow(t, p.config, p.DSN(), "postgres")
	ballast(t, s.DataDir, "ballast", 192<<20)
	b := haltedBackup(t, s, "--from", "standby")
	between.Promote(t)
	between.Exec(t, "CREATE TABLE made_there AS SELECT 1 AS n")
	between.Exec(t, "CHECKPOINT")
	s.WaitFor(t, "SELECT count(*) FROM pg_class WHERE relname = 'made_there'", "1", time.Minute)
	o := b.goOn(t)
	if o.code != codeServer {
		t.Errorf("exit %d, want %d", o.code, codeServer)
	}
	says(t, o.stderr, "pgbak: ", "the standby met another timeline", "00000002.history", "\nhint: ")
	if n := len(s.backups(t)); n != 0 {
		t.Errorf("%d backups are listed", n)
	}
}

// TestABackupFromAStandbyThatWritesMeanwhileIsRight: while the copy is halted
// the standby replays much and writes its pages, so that the files copied later
// are far ahead of those copied before. The end is in a segment that only the
// primary can complete.
func TestABackupFromAStandbyThatWritesMeanwhileIsRight(t *testing.T) {
	t.Parallel()
	majors := pgtest.Majors()
	for _, major := range slices.Compact([]int{majors[0], majors[len(majors)-1]}) {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{cluster: pgtest.Options{Major: major}})
			fillForStandby(t, p)
			s := withStandby(t, p)
			for name, size := range map[string]int64{"of-the-standby": 1, "ballast": 192 << 20} {
				ballast(t, s.DataDir, name, size)
			}
			p.Exec(t, "INSERT INTO ledger VALUES ('before the backup')")
			b := haltedBackup(t, s, "--from", "standby")
			w := startTraffic(t, p.Cluster, "-c", "2", "-R", "300")
			for n := 1; n <= 3; n++ {
				p.Exec(t, fmt.Sprintf("CREATE TABLE made_%d AS SELECT n, md5(n::text) FROM generate_series(1, 10000) n", n))
				p.Exec(t, fmt.Sprintf("DROP TABLE IF EXISTS made_%d", n-1))
				w.mustMove(t)
				p.Exec(t, "CHECKPOINT")
				s.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", p.Query(t, "SELECT pg_current_wal_lsn()")), "t", time.Minute)
				s.Exec(t, "CHECKPOINT")
			}
			w.stop(t)
			p.Exec(t, "SELECT pg_switch_wal(); INSERT INTO ledger VALUES ('in the last segment')")
			p.Exec(t, "CHECKPOINT")
			begun := p.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
			s.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", p.Query(t, "SELECT pg_current_wal_lsn()")), "t", time.Minute)
			s.Exec(t, "CHECKPOINT")
			o := b.goOn(t)
			if o.code != codeOK {
				t.Fatalf("exit %d\n%s", o.code, o.stderr)
			}
			if i := parseTaken(t, o).Backup; i.ErrorCount != 0 || i.Source != "standby" || i.Stop.WAL != begun {
				t.Errorf("backup %+v, want its end in %s", i, begun)
			}
			final := committed(t, p.Cluster)
			switchWAL(t, p.Cluster)
			c := restoreStandbys(t, s, "--type", "immediate", "--target-action", "promote")
			if n := c.Query(t, "SELECT count(*) FROM made_3"); n != "10000" {
				t.Errorf("the table that was made during the copy has %s rows", n)
			}
			sameText(t, "the committed state", committed(t, restoreStandbys(t, s)), final)
		})
	}
}
