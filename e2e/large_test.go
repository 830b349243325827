package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// TestARelationOfSeveralSegments changes a relation on both sides of the end of its
// first segment of 1 GiB, which has a hole so that it costs little, cuts it off before
// that, fills some of the hole, and cuts it off there, with an incremental backup after each.
func TestARelationOfSeveralSegments(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 17, SegmentSizeMB: 16, Config: map[string]string{"summarize_wal": "on"}}})
	for _, sql := range []string{"CREATE EXTENSION amcheck", "CREATE EXTENSION pg_visibility",
		"CREATE TABLE huge (n int, x text) WITH (autovacuum_enabled = off)",
		"INSERT INTO huge SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 2000) n", "CHECKPOINT"} {
		h.Exec(t, sql)
	}
	first := filepath.Join(h.DataDir, relationPath(t, h.Cluster, "huge"))
	const segment = 1 << 30
	if err := os.Truncate(first, segment-20*8192); err != nil { // pages that are added and not filled yet
		t.Fatal(err)
	}
	grow := "INSERT INTO huge SELECT n, repeat(md5(n::text), 20) FROM generate_series(3001, 7000) n"
	h.Exec(t, grow)
	h.Exec(t, "CHECKPOINT")
	if info, err := os.Stat(first + ".1"); err != nil || info.Size() < 2<<20 {
		t.Fatalf("there is no second segment of several frames: %v", err)
	}
	h.expect(t, codeOK, "backup")
	st, _ := h.mustOpen(t)
	if second := h.Query(t, "SELECT count(*) FROM huge WHERE n % 100 = 1 AND ctid >= '(131072,0)'"); second == "0" {
		t.Fatal("nothing would change in the second segment")
	}
	for n, statements := range [][]string{
		{"UPDATE huge SET x = 'new' WHERE n % 100 = 1"},                                  // pages of both segments
		{"DELETE FROM huge WHERE n > 3050", "VACUUM (TRUNCATE, INDEX_CLEANUP OFF) huge"}, // inside of the first segment
		{grow, "UPDATE huge SET x = 'newer' WHERE n % 100 = 2"},                          // into the hole
		{"DELETE FROM huge WHERE n > 2000", "VACUUM huge"},                               // the whole second segment, and the hole
		{grow},
	} {
		for _, sql := range statements {
			h.Exec(t, sql)
		}
		b := h.takeInto(t, st, repo.Incremental)
		took(t, b, repo.Incremental, backup.WayServerSummaries)
		for _, w := range b.Ways {
			if w.Read > 200<<20 {
				t.Errorf("backup %d read %d bytes by %s", n, w.Read, w.Way)
			}
		}
		pgtest.GiveToServer(t, h.repo) // this process may be root
		want := h.Query(t, "SELECT count(*), sum(hashtextextended(x, n)) FROM huge")
		into := filepath.Join(pgtest.TempDir(t), "data")
		h.expect(t, codeOK, "restore", "--set", string(b.Label), "--target-dir", into, "--archive-mode", "off", "--type", "immediate", "--target-action", "promote")
		if n > 2 { // the hole is gone, and reading everything is cheap
			verifyBackup(t, into)
		}
		c := pgtest.Open(t, into, h.Major, nil)
		c.WaitFor(t, inRecovery, "f", time.Minute)
		if got := c.Query(t, "SELECT count(*), sum(hashtextextended(x, n)) FROM huge"); got != want {
			t.Errorf("backup %d: %s, want %s", n, got, want)
		}
		if wrong := c.Query(t, "SELECT * FROM pg_check_visible('huge') LIMIT 3"); wrong != "" {
			t.Errorf("backup %d, visibility map: %s", n, wrong)
		}
		if wrong := c.Query(t, "SELECT * FROM verify_heapam('huge') LIMIT 3"); wrong != "" {
			t.Errorf("backup %d, verify_heapam: %s", n, wrong)
		}
		c.Stop(t, "immediate")
		if err := os.RemoveAll(into); err != nil {
			t.Fatal(err)
		}
	}
}

// manyRelations is how many relations the next test makes; PGBAK_MANY_RELATIONS sets it.
func manyRelations(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(cmpOr(os.Getenv("PGBAK_MANY_RELATIONS"), "20000"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// peakMemory gives, once the process has ended, the most that it had resident, in
// bytes. The kernel's own count for a process that has ended begins with what its
// parent had, which is this test.
func peakMemory(p *process) <-chan int64 {
	peak := make(chan int64, 1)
	go func() {
		var most int64
		for {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
			_, after, found := strings.Cut(string(status), "VmHWM:")
			if err != nil || !found { // it has ended
				peak <- most
				return
			}
			kib, _ := strconv.ParseInt(strings.Fields(after)[0], 10, 64) // the kernel writes a number
			most = kib << 10                                             // it only grows
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return peak
}

// TestManyRelationsTakeLittleMemory backs up and restores a cluster of many small files.
func TestManyRelationsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 17, SegmentSizeMB: 64, Config: map[string]string{"summarize_wal": "on", "max_wal_size": "4GB"}}})
	n := manyRelations(t)
	for from := 0; from < n; from += 2000 {
		h.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP EXECUTE format('CREATE TABLE many%%s AS SELECT %%s AS n', i, i); COMMIT; END LOOP; END $$`, from, min(from+2000, n)-1))
	}
	run := func(args ...string) (outcome, int64) {
		p := h.start(t, args...)
		peak := peakMemory(p)
		o := p.end()
		if o.code != codeOK {
			t.Fatalf("pgbak %s: exit %d\n%s", args[0], o.code, o.stderr)
		}
		memory := <-peak
		t.Logf("%s %s: %d MiB at most, %v of CPU", args[0], args[1], memory>>20, p.ProcessState.UserTime()+p.ProcessState.SystemTime())
		if memory == 0 || memory > 256<<20 {
			t.Errorf("pgbak %v took %d MiB", args, memory>>20)
		}
		return o, memory
	}
	run("backup", "--output=json")
	for i := 0; i < n; i += max(1, n/100) {
		h.Exec(t, fmt.Sprintf("UPDATE many%d SET n = n + 1", i))
	}
	o, _ := run("backup", "--type=incr", "--output=json")
	b := parseTaken(t, o).Backup
	into := filepath.Join(pgtest.TempDir(t), "data")
	run("restore", "--target-dir="+into, "--archive-mode=off", "--set="+string(b.Label), "--type=immediate", "--target-action=promote")
	verifyBackup(t, into)
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	for i := 0; i < n; i += max(1, n/400) {
		want := i
		if i%max(1, n/100) == 0 {
			want++
		}
		if got := c.Query(t, fmt.Sprintf("SELECT n FROM many%d", i)); got != strconv.Itoa(want) {
			t.Errorf("many%d holds %s, want %d", i, got, want)
		}
	}
	if count := c.Query(t, "SELECT count(*) FROM pg_class WHERE relname LIKE 'many%'"); count != strconv.Itoa(n) {
		t.Errorf("%s relations, want %d", count, n)
	}
	checkFilesAreThere(t, c)
}
