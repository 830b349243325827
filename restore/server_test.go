package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// primary is a real cluster with a backup, some transactions behind it, and
// their WAL, both in a directory and in a repository.
type primary struct {
	*pgtest.Cluster
	archive string
	stanza  *repo.Stanza
	// rows[i] tells about the transaction that inserted row i+1.
	rows []insertion
}

type insertion struct {
	xid, time, lsn string // lsn: when it had committed
}

const rowsInBackup = 2

// newPrimary makes the cluster: two rows before the backup and six behind it,
// a restore point "three" behind row 5.
func newPrimary(t *testing.T, major int) *primary {
	t.Helper()
	p := &primary{archive: pgtest.TempDir(t)}
	p.Cluster = pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{
		"archive_mode": "on", "archive_command": "cp %p " + p.archive + "/%f", "track_commit_timestamp": "on",
		"autovacuum": "off", "recovery_target_name": "left over in postgresql.conf",
		"recovery_target_action": "promote"}})
	p.Exec(t, "create tablespace fast location '"+pgtest.TempDir(t)+"'")
	p.Exec(t, "create table t (a int) tablespace fast")
	p.insert(t)
	p.insert(t)
	p.backup(t)
	for i := range 6 {
		p.insert(t)
		if i == 2 {
			p.Exec(t, "select pg_create_restore_point('three')")
		}
		if i%2 == 1 {
			p.Exec(t, "select pg_switch_wal()")
		}
	}
	p.archiveAll(t)
	return p
}

// insert adds a row in a transaction of its own.
func (p *primary) insert(t *testing.T) {
	t.Helper()
	n := len(p.rows) + 1
	xid := p.Query(t, fmt.Sprintf("with i as (insert into t values (%d) returning 1) select txid_current() from i", n))
	p.rows = append(p.rows, insertion{xid: xid,
		time: p.Query(t, "select pg_xact_commit_timestamp('"+xid+"'::xid) at time zone 'utc'"),
		lsn:  p.Query(t, "select pg_current_wal_insert_lsn()")})
	time.Sleep(2 * time.Millisecond) // so that no two commit at the same time
}

// backup copies the running cluster into a repository.
func (p *primary) backup(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	conn, err := server.Connect(ctx, p.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	info, err := conn.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start, err := conn.StartBackup(ctx, "test", true)
	if err != nil {
		t.Fatal(err)
	}
	entries := readTree(t, p.DataDir)
	stop, err := conn.StopBackup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, p.entry("backup_label", stop.LabelFile), p.entry("tablespace_map", stop.TablespaceMap))
	slices.SortFunc(entries, func(a, b entry) int { return repo.ComparePaths(a.path, b.path) })
	p.stanza = newStanza(t, mem.New(), repo.Identity{SystemID: info.SystemID, Major: info.Major, SegmentSize: info.WALSegmentSize, BlockSize: info.BlockSize})
	spaces, err := conn.Tablespaces(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h := repo.BackupHeader{Timeline: 1, Start: repo.BackupPoint{Time: info.Now, LSN: start}, Stop: repo.BackupPoint{Time: time.Now(), LSN: stop.LSN}}
	for _, s := range spaces {
		h.Tablespaces = append(h.Tablespaces, repo.Tablespace{OID: s.OID, Name: s.Name, Location: s.Location})
	}
	storeBackup(t, p.stanza, entries, h)
}

// entry is a file that the server user owns.
func (p *primary) entry(path, content string) entry {
	owner, group := ownerOf(p.DataDir)
	return entry{path: path, data: []byte(content), mode: 0o600, owner: owner, group: group}
}

func ownerOf(path string) (owner, group string) {
	info, err := os.Stat(path)
	if err != nil {
		return "", ""
	}
	stat := info.Sys().(*syscall.Stat_t)
	owner, group = strconv.Itoa(int(stat.Uid)), strconv.Itoa(int(stat.Gid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return owner, group
}

// readTree reads a data directory as a backup does, without what it leaves out.
func readTree(t *testing.T, dir string) []entry {
	t.Helper()
	owner, group := ownerOf(dir)
	var entries []entry
	var walk func(dir, prefix string)
	walk = func(dir, prefix string) {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			path := filepath.Join(dir, d.Name())
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			e := entry{path: prefix + d.Name(), mode: info.Mode().Perm(), owner: owner, group: group}
			switch {
			case info.IsDir():
				entries = append(entries, e)
				walk(path, e.path+"/")
				continue
			case strings.HasPrefix(e.path, "pg_wal/") || strings.HasPrefix(e.path, "postmaster."):
				continue
			}
			if e.data, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			e.data = append([]byte{}, e.data...) // an empty file is not nil
			entries = append(entries, e)
		}
	}
	walk(dir, "")
	return entries
}

// archiveAll waits until all WAL is archived, stops the server and puts the
// WAL into the repository.
func (p *primary) archiveAll(t *testing.T) {
	t.Helper()
	p.Exec(t, "select pg_create_restore_point('end')")
	last := p.Query(t, "select pg_walfile_name(pg_switch_wal())")
	p.Stop(t, "fast") // archives what is complete
	names, err := os.ReadDir(p.archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n.Name() > last { // the shutdown's own
			continue
		}
		f, err := postgres.ParseWALFile(n.Name(), p.stanza.Current().SegmentSize)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(p.archive, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.stanza.PutWAL(context.Background(), p.stanza.Current(), f, repo.NewWALContent(storage.Bytes(data))); err != nil {
			t.Fatal(err)
		}
	}
}

// target parses one as the command line would.
func (p *primary) target(t *testing.T, typ, value string, exclusive bool) Target {
	t.Helper()
	target, _, err := ParseTarget(typ, value, exclusive, "", "", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func (p *primary) options(t *testing.T, target Target) Options {
	t.Helper()
	base := pgtest.TempDir(t)
	return Options{Stanza: p.stanza, TargetDir: filepath.Join(base, "data"), TablespaceMapAll: base, Target: target, Processes: 2,
		Clock: time.Now, RestoreCommand: "cp " + p.archive + "/%f %p", ArchiveModeOff: true}
}

// What the plan says about the place where recovery stops is what PostgreSQL
// does, for every type of target.
func TestPostgreSQLRecoversToTheTarget(t *testing.T) {
	majors := pgtest.Majors()
	for _, major := range majors {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			p := newPrimary(t, major)
			row := func(n int) insertion { return p.rows[n-1] }
			all := []struct {
				title     string
				typ, val  string
				exclusive bool
				rows      int
			}{
				{"time of a commit, inclusive", "time", row(5).time, false, 5},
				{"name", "name", "three", false, 5},
				{"latest", "latest", "", false, 8},
				{"immediate", "immediate", "", false, rowsInBackup},
				{"time of a commit, exclusive", "time", row(5).time, true, 4},
				{"time of the last commit, exclusive", "time", row(8).time, true, 7},
				{"xid, inclusive", "xid", row(6).xid, false, 6},
				{"xid, exclusive", "xid", row(6).xid, true, 5},
				{"lsn behind a commit", "lsn", row(7).lsn, false, 7},
				{"lsn behind a commit, exclusive", "lsn", row(7).lsn, true, 7},
			}
			if major != slices.Max(majors) {
				all = all[:3] // the code behind the others has not changed between the versions
			}
			for _, c := range all {
				t.Run(c.title, func(t *testing.T) {
					p.checkRecovery(t, p.options(t, p.target(t, c.typ, c.val, c.exclusive)), c.rows)
				})
			}
			t.Run("what lies behind the archive is refused beforehand", p.checkRefusals)
		})
	}
}

// checkRecovery restores, has PostgreSQL's own tool verify the files, and
// starts the server.
func (p *primary) checkRecovery(t *testing.T, o Options, rows int) {
	t.Helper()
	res, err := Run(context.Background(), o)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, hint.Of(err))
	}
	if len(res.Warnings) > 0 {
		t.Errorf("warnings %q", res.Warnings)
	}
	verifyBackup(t, o.TargetDir, p.Major)
	c := pgtest.Open(t, o.TargetDir, p.Major, nil)
	c.WaitReady(t, time.Minute)
	if o.Target.Type == TargetLatest {
		c.WaitFor(t, "select pg_is_in_recovery()", "f", time.Minute)
	} else {
		c.WaitFor(t, "select pg_is_wal_replay_paused()", "t", time.Minute)
	}
	if got := c.Query(t, "select count(*) from t"); got != strconv.Itoa(rows) {
		t.Errorf("%s rows, want %d; the plan was\n%s", got, rows, res.Plan)
	}
	if s := res.Plan.Stop; s != nil && s.XID != 0 && !strings.Contains(c.Log(), fmt.Sprintf("of transaction %d, time %s", s.XID, s.Time.Format("2006-01-02 15:04:05"))) {
		t.Errorf("the plan says that recovery stops at %s", s)
	}
	c.Stop(t, "immediate")
}

func (p *primary) checkRefusals(t *testing.T) {
	last := p.rows[len(p.rows)-1]
	for _, target := range []Target{p.target(t, "time", last.time, false), p.target(t, "xid", p.rows[0].xid, false),
		p.target(t, "name", "four", false), p.target(t, "lsn", "1/0", false), p.target(t, "lsn", "0/100028", false)} {
		_, err := MakePlan(context.Background(), p.options(t, target))
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(hint.Of(err), "what can be reached is from the end of backup") {
			t.Errorf("%s: error %v, hint %q", target, err, hint.Of(err))
		}
	}
}

// verifyBackup asks pg_verifybackup. The installed one may be older than the
// manifest's version: then the same list is written in the version it knows.
func verifyBackup(t *testing.T, dir string, major int) {
	t.Helper()
	args := []string{"-n", dir}
	if manifestVersion(major) > manifestVersion(pgtest.ToolMajor()) {
		args = append([]string{"-m", olderManifest(t, dir)}, args...)
	}
	if out, err := pgtest.Command(t, pgtest.Tool(t, "pg_verifybackup"), args...).CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup: %v\n%s", err, out)
	}
}

func olderManifest(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	m, err := postgres.ParseBackupManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := postgres.NewBackupManifestWriter(&out, postgres.BackupManifestOptions{Version: 1})
	for _, f := range m.Files {
		if err := w.File(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(m.WALRanges); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.TempDir(t), manifestFile)
	write(t, path, out.String())
	pgtest.GiveToServer(t, path)
	return path
}
