package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// TestTwoPromotionsWithoutManualWork: a primary dies that could not archive any
// more, the standby that takes over dies before it has archived anything, and the
// standby of that one is left. What nobody else can archive comes from it.
func TestTwoPromotionsWithoutManualWork(t *testing.T) {
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{encrypted: major == 18, cluster: pgtest.Options{Major: major}})
			p.Exec(t, "CREATE EXTENSION amcheck; CREATE TABLE ledger (name text)")
			p.backup(t)
			first := withStandby(t, p)
			second := withStandby(t, first)
			// The last that the primary archives, and three segments that it does not.
			switchWAL(t, p.Cluster)
			set(t, p.Cluster, "archive_command", "false")
			fillSegments(t, p.Cluster, "of the primary", 3)
			replayed(t, second.Cluster, p.Cluster)
			p.Kill(t)

			set(t, first.Cluster, "archive_command", "false")
			set(t, first.Cluster, "primary_conninfo", "")
			first.Promote(t)
			fillSegments(t, first.Cluster, "of the first standby", 2)
			replayed(t, second.Cluster, first.Cluster)
			lacks(t, p, "00000002.history")
			first.Kill(t)

			second.Promote(t)
			fillSegments(t, second.Cluster, "of the second standby", 1)
			m := newMoment(t, second.Cluster, "after both promotions")
			second.Exec(t, "INSERT INTO ledger VALUES ('later')")
			switchWAL(t, second.Cluster)
			archivedLike(t, second, "00000002.history", "00000003.history")
			if n := len(partials(t, second)); n != 1 {
				t.Errorf("%d partial segments are archived, want that of timeline 2", n)
			}
			final := stateOf(t, second.Cluster)
			t.Run("all of it can be restored", func(t *testing.T) {
				sameText(t, "the committed state", stateOf(t, recovered(t, second)), final)
			})
			t.Run("the old primary goes on", func(t *testing.T) { oldPrimaryGoesOn(t, p, second, m, final) })
			t.Run("the new primary is backed up", func(t *testing.T) {
				if b := second.backup(t, "--type", "incr"); b.Backup.Timeline != 3 || len(b.Warnings) != 0 {
					t.Errorf("backup %+v", b)
				}
				sameText(t, "the committed state", stateOf(t, recovered(t, second)), final)
			})
			if major == pgtest.ToolMajor() {
				t.Run("the old primary is rewound", func(t *testing.T) { rewindOldPrimary(t, p, second) })
			}
		})
	}
}

// oldPrimaryGoesOn starts the dead primary again, on the timeline that nobody
// follows, and lets it archive what it had left and more.
func oldPrimaryGoesOn(t *testing.T, p, now *host, m moment, final string) {
	p.Start(t)
	set(t, p.Cluster, "archive_command", strings.TrimSpace(p.Query(t, "SELECT setting FROM pg_file_settings WHERE name = 'archive_command' ORDER BY seqno LIMIT 1")))
	fillSegments(t, p.Cluster, "on the dead timeline", 2)
	own := stateOf(t, p.Cluster)
	switchWAL(t, p.Cluster)
	if failed := p.Query(t, "SELECT count(*) FROM pg_stat_archiver WHERE last_failed_time > last_archived_time"); failed != "0" {
		t.Error("the old primary's archiver is stuck")
	}
	if n := len(events(t, p)); n != 0 {
		t.Errorf("%d events are recorded, want none: what both have archived is the same", n)
	}
	p.Stop(t, "fast")
	sameText(t, "restored to the end", stateOf(t, recovered(t, now)), final)
	sameText(t, "restored to a time after the promotions", committed(t, recovered(t, now, "--type", "time", "--target", m.clock, "--target-action", "promote")), m.after)
	sameText(t, "restored along the dead timeline", stateOf(t, recovered(t, now, "--target-timeline", "1")), own)
}

// rewindOldPrimary makes the old primary a standby of the new one by pg_rewind,
// which finds the WAL that it needs in the archive.
func rewindOldPrimary(t *testing.T, p, now *host) {
	var gone []string
	for _, path := range segmentsIn(t, p.DataDir, 1) {
		if exists(filepath.Join(p.DataDir, "pg_wal", "archive_status", filepath.Base(path)+".done")) {
			gone = append(gone, path)
		}
	}
	for _, path := range gone[:len(gone)-1] {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	restore := fmt.Sprintf("restore_command = '%s --config %s archive-get %%f %%p'\n", p.program, p.config)
	appendTo(t, filepath.Join(p.DataDir, "postgresql.conf"), restore)
	out, err := pgtest.Command(t, pgtest.Tool(t, "pg_rewind"), "-c", "--no-sync", "-D", p.DataDir, "--source-server", now.DSN()+" sslmode=disable").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_rewind: %v\n%s", err, out)
	}
	// The new primary's files have come with its configuration.
	appendTo(t, filepath.Join(p.DataDir, "postgresql.auto.conf"), restore+fmt.Sprintf("primary_conninfo = '%s'\nprimary_slot_name = ''\n", now.DSN()))
	appendTo(t, filepath.Join(p.DataDir, "standby.signal"), "")
	pgtest.GiveToServer(t, p.DataDir)
	p.Start(t)
	now.Exec(t, "INSERT INTO ledger VALUES ('after the rewind')")
	replayed(t, p.Cluster, now.Cluster)
	sameText(t, "the rewound primary", committed(t, p.Cluster), committed(t, now.Cluster))
}

// TestTwoServersOnOneTimeline lets both standbys of a dead primary be promoted,
// unaware of one another: they begin the same timeline.
func TestTwoServersOnOneTimeline(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{cluster: pgtest.Options{Major: 14}})
	p.Exec(t, "CREATE EXTENSION amcheck; CREATE TABLE ledger (name text)")
	p.backup(t)
	first, second := withStandby(t, p), withStandby(t, p)
	replayed(t, first.Cluster, p.Cluster)
	replayed(t, second.Cluster, p.Cluster)
	p.Kill(t)
	first.Promote(t)
	fillSegments(t, first.Cluster, "of the first", 2)
	switchWAL(t, first.Cluster)
	final := stateOf(t, first.Cluster)

	second.Promote(t)
	second.Exec(t, "INSERT INTO ledger VALUES ('of the second'); SELECT pg_switch_wal()")
	second.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t", time.Minute)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	second.WaitFor(t, "SELECT 1", "1", time.Minute)
	says(t, second.Log(), "already archived with different content", "pushed by host "+host+" from "+second.DataDir+"/pg_wal/", "both are the same up to LSN ", "hint: ")
	found := events(t, p)
	if len(found) != 1 || found[0].Host != host || !strings.HasPrefix(found[0].Path, second.DataDir+"/pg_wal/") ||
		found[0].Archived == "" || found[0].Refused == "" || found[0].Archived == found[0].Refused {
		t.Errorf("events %+v", found)
	}
	second.Stop(t, "immediate")
	sameText(t, "what is restored", stateOf(t, recovered(t, first)), final)
}

// TestAServerAndItsStandbyArchiveBoth with archive_mode = always: what both push
// is the same, and a promotion changes nothing.
func TestAServerAndItsStandbyArchiveBoth(t *testing.T) {
	for _, major := range []int{13, 16} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{encrypted: major == 16, cluster: pgtest.Options{Major: major, Config: map[string]string{"archive_mode": "always"}}})
			p.Exec(t, "CREATE EXTENSION amcheck; CREATE TABLE ledger (name text)")
			p.expect(t, codeOK, "check")
			s := withStandby(t, p)
			if b := s.backup(t, "--from", "standby"); len(b.Warnings) != 0 {
				t.Errorf("warnings %q", b.Warnings)
			}
			fillSegments(t, p.Cluster, "of the primary", 3)
			switchWAL(t, p.Cluster)
			last := p.Query(t, "SELECT last_archived_wal FROM pg_stat_archiver")
			s.WaitFor(t, fmt.Sprintf("SELECT last_archived_wal >= '%s' AND archived_count > 3 FROM pg_stat_archiver", last), "t", time.Minute)
			says(t, p.Log()+s.Log(), "already, with the same content")
			p.Kill(t)
			s.Promote(t)
			fillSegments(t, s.Cluster, "of the standby", 1)
			switchWAL(t, s.Cluster)
			if n := s.Query(t, "SELECT failed_count FROM pg_stat_archiver"); n != "0" || len(events(t, p)) != 0 {
				t.Errorf("%s pushes failed, events %+v", n, events(t, p))
			}
			final := stateOf(t, s.Cluster)
			s.Stop(t, "fast")
			sameText(t, "what is restored", stateOf(t, recovered(t, s)), final)
		})
	}
}

// TestTheSecondPromotedServerWasAhead of the first: it cannot follow that one's
// timeline and begins another, and both leave the same segment unfinished.
func TestTheSecondPromotedServerWasAhead(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{cluster: pgtest.Options{Major: 17}})
	p.Exec(t, "CREATE EXTENSION amcheck; CREATE TABLE ledger (name text)")
	p.backup(t)
	behind, ahead := withStandby(t, p), withStandby(t, p)
	p.Exec(t, "SELECT pg_switch_wal(); CHECKPOINT")
	replayed(t, behind.Cluster, p.Cluster)
	behind.Stop(t, "fast")
	p.Exec(t, "INSERT INTO ledger VALUES ('only one standby has this')")
	replayed(t, ahead.Cluster, p.Cluster)
	p.Kill(t)
	behind.Start(t)
	behind.Promote(t)
	behind.Exec(t, "INSERT INTO ledger VALUES ('of the one behind')")
	switchWAL(t, behind.Cluster)
	behind.Stop(t, "fast")

	// It sees in the archive which timeline is taken.
	set(t, ahead.Cluster, "restore_command", ahead.program+" --config "+ahead.config+" archive-get %f %p")
	ahead.Promote(t)
	ahead.Exec(t, "INSERT INTO ledger VALUES ('of the one ahead')")
	switchWAL(t, ahead.Cluster)
	if tli := ahead.Query(t, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"); tli != "00000003" {
		t.Errorf("it is on timeline %s, want the third", tli)
	}
	says(t, ahead.Log(), ".partial", "nothing is lost: 00000003")
	if n := len(partials(t, ahead)); n != 1 {
		t.Errorf("%d partial segments are archived, want one", n)
	}
	for timeline, c := range map[string]*pgtest.Cluster{"2": behind.Cluster, "3": ahead.Cluster} {
		if !c.Running() {
			c.Start(t)
		}
		want := stateOf(t, c)
		sameText(t, "timeline "+timeline, stateOf(t, recovered(t, ahead, "--target-timeline", timeline)), want)
	}
}

// set changes a setting that takes effect without a restart.
func set(t *testing.T, c *pgtest.Cluster, name, value string) {
	t.Helper()
	c.Exec(t, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value))
	c.Exec(t, "SELECT pg_reload_conf()")
	c.WaitFor(t, "SHOW "+name, value, time.Minute)
}

// fillSegments commits rows in each of n segments.
func fillSegments(t *testing.T, c *pgtest.Cluster, name string, n int) {
	t.Helper()
	for i := range n {
		c.Exec(t, fmt.Sprintf("INSERT INTO ledger VALUES ('%s %d')", name, i))
		c.Exec(t, "SELECT pg_switch_wal()")
	}
	c.Exec(t, fmt.Sprintf("INSERT INTO ledger VALUES ('%s, the last')", name))
}

// replayed waits until a standby has replayed what its primary has committed.
func replayed(t *testing.T, standby, primary *pgtest.Cluster) {
	t.Helper()
	lsn := primary.Query(t, "SELECT pg_current_wal_flush_lsn()")
	standby.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", lsn), "t", 2*time.Minute)
}

// recovered restores the newest state, or what args say, and gives the server after recovery.
func recovered(t *testing.T, h *host, args ...string) *pgtest.Cluster {
	t.Helper()
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, append([]string{"restore", "--target-dir", into, "--archive-mode", "off"}, args...)...)
	verifyBackup(t, into)
	c := pgtest.Open(t, into, h.Major, map[string]string{"primary_conninfo": ""})
	c.WaitFor(t, inRecovery, "f", 2*time.Minute)
	checkStructure(t, c)
	return c
}

// stateOf is the whole cluster as pg_dumpall tells it, or its committed state
// where the tool does not know the major.
func stateOf(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	if c.Major <= pgtest.ToolMajor() {
		return dumpAll(t, c)
	}
	return committed(t, c)
}

// stanzaOf opens the stanza of the host's repository.
func stanzaOf(t *testing.T, h *host) *repo.Stanza {
	t.Helper()
	r, err := repo.Open(t.Context(), h.store(t), repo.Options{Clock: time.Now, Passphrase: passphraseOf(h)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Stanza(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func passphraseOf(h *host) func() ([]byte, error) {
	if !exists(filepath.Join(h.dir, "passphrase")) {
		return nil
	}
	return func() ([]byte, error) { return []byte("correct horse battery staple"), nil }
}

func events(t *testing.T, h *host) []repo.WALEvent {
	t.Helper()
	found, err := stanzaOf(t, h).WALEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// lacks makes sure that a file is not archived.
func lacks(t *testing.T, h *host, name string) {
	t.Helper()
	if path := filepath.Join(pgtest.TempDir(t), "got"); h.run(t, "archive-get", name, path).code != codeFailed || exists(path) {
		t.Fatalf("%s is archived", name)
	}
}

// archivedLike compares what is archived with the server's own files.
func archivedLike(t *testing.T, h *host, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(pgtest.TempDir(t), "got")
		h.expect(t, codeOK, "archive-get", name, path)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(h.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, name, string(got), string(want))
	}
}

// partials are the partial segments in the archive.
func partials(t *testing.T, h *host) (names []string) {
	t.Helper()
	for name := range archivedWAL(t, h.repo) {
		if strings.HasSuffix(name, ".partial") {
			names = append(names, name)
		}
	}
	return names
}

// segmentsIn gives the paths of a timeline's segments in a data directory.
func segmentsIn(t *testing.T, dataDir string, tli postgres.Timeline) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dataDir, "pg_wal", tli.String()+strings.Repeat("[0-9A-F]", 16)))
	if err != nil || len(paths) < 2 {
		t.Fatalf("segments %q: %v", paths, err)
	}
	return paths
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteString(text); err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
