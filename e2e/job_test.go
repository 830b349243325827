package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// job is the main job on one major: a cluster with everything that is hard to
// back up, a full backup of it during traffic, and moments after that.
type job struct {
	*host
	targets   []string
	walLinked bool
	full      taken
	points    map[string]moment
	final     string // the committed state at the end
	holed     string // the file of a relation with holes
	dump      string // of pg_dumpall at the end, where the tool is of this major
}

// TestTheMainJob is the promise of the project on every major: the cluster as it
// was at any moment, judged by sums that were taken at that moment.
func TestTheMainJob(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			j := newJob(t, major, nil)
			j.targets = targetsOf(major)
			j.do(t)
			t.Run("a second full adds almost nothing, and each restores without the other", j.secondFull)
			t.Run("the promoted cluster archives, and both timelines can be restored", j.timelines)
		})
	}
}

// do is the part of the job that is the same wherever the repository is.
func (j *job) do(t *testing.T) {
	j.fill(t)
	j.backUpDuringTraffic(t)
	j.liveOn(t)
	for _, target := range j.targets {
		t.Run("restored to "+target, func(t *testing.T) { j.restoreTo(t, target) })
	}
}

func newJob(t *testing.T, major int, b *bucket) *job {
	t.Helper()
	j := &job{walLinked: major == 14 || major == 18, points: map[string]moment{}}
	o := hostOptions{bucket: b, encrypted: major%2 == 0, cluster: pgtest.Options{Major: major}}
	if major == 16 {
		o.cluster.SegmentSizeMB = 16
	}
	if j.walLinked {
		o.cluster.InitArgs = []string{"--waldir", filepath.Join(pgtest.TempDir(t), "wal")}
	}
	j.host = newHost(t, o)
	return j
}

// fill makes what is hard to back up: a tablespace elsewhere, a second database,
// unlogged and temporary tables, large objects, holes, a prepared transaction, a
// linked directory.
func (j *job) fill(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"space", "log-disk"} {
		if err := os.Mkdir(filepath.Join(j.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	j.write(t, "log-disk/old.log", "a line of an old log\n")
	if err := os.Symlink(filepath.Join(j.dir, "log-disk"), filepath.Join(j.DataDir, "log")); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, j.dir)
	pgtest.Pgbench(t, j.Cluster, "-i", "-q", "-s", "2")
	j.Exec(t, fmt.Sprintf("CREATE TABLESPACE elsewhere LOCATION '%s'", filepath.Join(j.dir, "space")))
	j.Exec(t, "CREATE DATABASE second")
	queryIn(t, j.Cluster, "second", "CREATE TABLE other TABLESPACE elsewhere AS SELECT n, repeat(md5(n::text), 5) x FROM generate_series(1, 5000) n")
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		"CREATE TABLE ledger (name text)",
		"CREATE TABLE spaced (n int PRIMARY KEY USING INDEX TABLESPACE elsewhere, x text) TABLESPACE elsewhere",
		"INSERT INTO spaced SELECT n, md5(n::text) FROM generate_series(1, 20000) n",
		"CREATE TABLE precious AS SELECT n, md5(n::text) x FROM generate_series(1, 10000) n",
		"CREATE TABLE prepared (n int)",
		"CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 10000) n",
		"SELECT lo_from_bytea(0, decode(repeat(md5('large'), 20000), 'hex'))",
		"CREATE TABLE holed AS SELECT n, md5(n::text) x FROM generate_series(1, 1000) n",
		"BEGIN; INSERT INTO prepared VALUES (1); PREPARE TRANSACTION 'under way'",
		"CHECKPOINT",
	} {
		j.Exec(t, sql)
	}
	// Pages of zeros are pages that the server has added and not filled yet.
	j.holed = relationPath(t, j.Cluster, "holed")
	path := filepath.Join(j.DataDir, j.holed)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()+2<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	session := j.Connect(t)
	if _, err := session.Exec(t.Context(), "CREATE TEMPORARY TABLE mine AS SELECT n FROM generate_series(1, 10000) n").ReadAll(); err != nil {
		t.Fatal(err)
	}
	j.Exec(t, "CHECKPOINT")
}

// backUpDuringTraffic takes the full backup, with a row in ledger from before and
// one from right after it.
func (j *job) backUpDuringTraffic(t *testing.T) {
	t.Helper()
	j.expect(t, codeOK, "check")
	w := startTraffic(t, j.Cluster, "-c", "2", "-R", "200")
	j.Exec(t, "INSERT INTO ledger VALUES ('before the backup')")
	w.at = w.rows(t)
	before := w.at
	j.full = j.backup(t)
	during := w.rows(t) - before
	j.Exec(t, "INSERT INTO ledger VALUES ('after the backup')")
	w.mustMove(t)
	w.stop(t)
	if during == 0 {
		t.Error("nothing was committed during the backup")
	}
	t.Logf("%d transactions were committed during the backup", during)
	if b := j.full.Backup; b.Status != "ok" || b.ErrorCount != 0 || b.Timeline != 1 || len(j.full.Warnings) != 0 {
		t.Errorf("backup %+v, warnings %q", b, j.full.Warnings)
	}
}

// liveOn goes through the moments that are restored later, up to the mistake.
func (j *job) liveOn(t *testing.T) {
	t.Helper()
	j.points["first"] = newMoment(t, j.Cluster, "first")
	pgtest.Pgbench(t, j.Cluster, "-n", "-c", "2", "-t", "200")
	queryIn(t, j.Cluster, "second", "UPDATE other SET x = md5(x) WHERE n % 7 = 0")
	j.Exec(t, "DELETE FROM holed WHERE n % 2 = 0")
	j.points["second"] = newMoment(t, j.Cluster, "second")
	j.Exec(t, "DROP TABLE precious")
	pgtest.Pgbench(t, j.Cluster, "-n", "-c", "2", "-t", "50")
	j.Exec(t, "INSERT INTO ledger VALUES ('the end')")
	j.final = committed(t, j.Cluster)
	if j.Major == pgtest.ToolMajor() {
		j.dump = dumpAll(t, j.Cluster)
	}
	switchWAL(t, j.Cluster)
}

// targetsOf spreads the kinds of target over the majors: each major has four,
// each kind is met on two at least.
func targetsOf(major int) []string {
	return map[int][]string{
		13: {"latest", "immediate", "time", "xid exclusive"},
		14: {"immediate", "time exclusive", "lsn", "name"},
		15: {"latest", "time", "lsn exclusive", "xid"},
		16: {"name", "time inclusive", "lsn", "xid"},
		17: {"latest", "immediate", "lsn exclusive", "xid exclusive"},
		18: {"latest", "time", "time exclusive", "time inclusive", "name"},
	}[major]
}

// arguments are the flags of restore for a target, and the state that must come
// back; it is empty where the traffic left no certain one.
func (j *job) arguments(target string) (args []string, state string) {
	first, second := j.points["first"], j.points["second"]
	switch target {
	case "latest":
		return nil, j.final
	case "immediate":
		return []string{"--type", "immediate", "--target-action", "promote"}, ""
	case "time":
		return []string{"--type", "time", "--target", first.clock, "--target-action", "promote"}, first.after
	case "time inclusive":
		// Without a zone: it is read in that of the host, which is UTC.
		local := strings.TrimSuffix(second.commit, "+00")
		return []string{"--type", "time", "--target", local, "--target-action", "promote"}, second.after
	case "time exclusive":
		return []string{"--type", "time", "--target", second.commit, "--target-exclusive"}, second.before
	case "lsn":
		return []string{"--type", "lsn", "--target", second.lsn}, second.after
	case "lsn exclusive":
		return []string{"--type", "lsn", "--target", second.lsn, "--target-exclusive", "--target-action", "promote"}, second.before
	case "xid":
		return []string{"--type", "xid", "--target", second.xid, "--target-action", "promote"}, second.after
	case "xid exclusive":
		return []string{"--type", "xid", "--target", second.xid, "--target-exclusive"}, second.before
	case "name":
		return []string{"--type", "name", "--target", first.restorePoint, "--target-action", "promote"}, first.after
	}
	return nil, ""
}

// secondFull takes another full of the cluster, which is unchanged but for what
// the server writes by itself, and restores each of the two alone.
func (j *job) secondFull(t *testing.T) {
	third := j.backup(t) // the cluster as it is now
	second := j.backup(t)
	b := second.Backup
	if b.AddedSize*100 >= b.DatabaseSize {
		t.Errorf("the second full added %d bytes to a cluster of %d", b.AddedSize, b.DatabaseSize)
	}
	if b.DatabaseSize < 40<<20 {
		t.Errorf("the cluster has %d bytes only", b.DatabaseSize)
	}
	t.Logf("added %d bytes of %d (first: %d)", b.AddedSize, b.DatabaseSize, j.full.Backup.AddedSize)
	all := []repo.Label{j.full.Backup.Label, third.Backup.Label, b.Label}
	for _, keep := range []repo.Label{third.Backup.Label, b.Label} {
		var hidden []func()
		for _, l := range all {
			if l != keep {
				hidden = append(hidden, hide(t, j.store(t), "backups/main/"+string(l)))
			}
		}
		if left := j.backups(t); len(left) != 1 || left[0].Label != keep {
			t.Errorf("info lists %v, want %s alone", left, keep)
		}
		r := j.restore(t, "--archive-mode", "off")
		if keep == b.Label {
			c := r.open(t)
			c.WaitFor(t, inRecovery, "f", time.Minute)
			sameText(t, "the committed state", committed(t, c), j.final)
			checkStructure(t, c)
			c.Stop(t, "immediate")
		}
		for _, back := range hidden {
			back()
		}
		if j.bucket == nil {
			pgtest.GiveToServer(t, j.repo) // what this process has put is read by the server
		}
	}
}

// hide takes an object away; what it returns puts it back.
func hide(t *testing.T, st storage.Store, key string) (back func()) {
	t.Helper()
	r, err := st.Get(t.Context(), key, storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err == nil {
		err = st.Delete(t.Context(), key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := st.Put(t.Context(), key, storage.Bytes(content), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// timelines promotes a restored cluster that archives, and restores along its
// new timeline and along the old one.
func (j *job) timelines(t *testing.T) {
	j.Stop(t, "fast")
	r := j.restore(t)
	promoted := r.open(t)
	promoted.WaitFor(t, inRecovery, "f", time.Minute)
	forked := newMoment(t, promoted, "on the new timeline")
	sameText(t, "the promoted cluster", forked.before, j.final)
	switchWAL(t, promoted)
	r.discard(t, promoted)
	for _, c := range []struct{ timeline, state string }{{"latest", forked.after}, {"current", j.final}} {
		other := j.restore(t, "--target-timeline", c.timeline, "--archive-mode", "off", "--set", string(j.full.Backup.Label))
		server := other.open(t)
		server.WaitFor(t, inRecovery, "f", time.Minute)
		sameText(t, "timeline "+c.timeline, committed(t, server), c.state)
		if tli := server.Query(t, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"); tli != "00000003" {
			t.Errorf("timeline %s: the restored cluster is on %s, want the third: the second is taken", c.timeline, tli)
		}
		other.discard(t, server)
	}
}
