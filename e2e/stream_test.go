package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// streamed takes a backup over the replication protocol, in this process and
// without a way to the server's files.
func (h *host) streamed(t *testing.T, o backup.Options) (repo.BackupHeader, backup.Result) {
	t.Helper()
	header, result, err := h.tryStreamed(t, t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return header, result
}

func (h *host) tryStreamed(t *testing.T, ctx context.Context, o backup.Options) (repo.BackupHeader, backup.Result, error) {
	t.Helper()
	_, s := h.mustOpen(t)
	o.Repositories = []backup.Repository{{Name: "local", Stanza: s}}
	o.Connection, o.Processes, o.StartFast, o.ArchiveTimeout, o.Clock = h.DSN(), 2, true, time.Minute, time.Now
	if o.From == "" {
		o.From = backup.FromStream
	}
	result, err := backup.Run(ctx, o)
	pgtest.GiveToServer(t, h.repo)
	if err != nil {
		return repo.BackupHeader{}, result, err
	}
	return result.Backups[0].Header, result, nil
}

// ways lists what a backup says it was made by.
func ways(h repo.BackupHeader) []string {
	var all []string
	for _, w := range h.Ways {
		all = append(all, w.Way)
	}
	return all
}

// TestStream is the main job by the replication protocol, on every major: a full
// backup during traffic, and backups upon it, each compared with one that was
// read from the files at the same moment.
func TestStream(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			o := hostOptions{cluster: pgtest.Options{Major: major, Config: map[string]string{"max_wal_senders": "4"}}}
			if major >= 17 {
				o.cluster.Config["summarize_wal"] = "on"
			}
			h := newHost(t, o)
			space := h.fillForStream(t)
			t.Run("full", func(t *testing.T) { h.streamFull(t, space) })
			t.Run("incremental", func(t *testing.T) { h.streamIncremental(t) })
			t.Run("the state after recovery", func(t *testing.T) {
				w := startTraffic(t, h.Cluster, "-c", "2")
				w.at = w.rows(t)
				header, _ := h.streamed(t, backup.Options{Type: repo.Incremental})
				w.mustMove(t)
				w.stop(t)
				if header.Type != repo.Incremental {
					t.Errorf("the backup is %s", header.Type)
				}
				want := committed(t, h.Cluster)
				switchWAL(t, h.Cluster)
				h.proveState(t, want)
			})
		})
	}
}

func (h *host) fillForStream(t *testing.T) string {
	t.Helper()
	space := filepath.Join(h.dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, space)
	pgtest.Pgbench(t, h.Cluster, "-i", "-q", "-s", "2")
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		fmt.Sprintf("CREATE TABLESPACE elsewhere LOCATION '%s'", space),
		"CREATE TABLE spaced TABLESPACE elsewhere AS SELECT n, repeat(md5(n::text), 4) x FROM generate_series(1, 20000) n",
		"CREATE TABLE churned AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 30000) n",
		"CREATE INDEX ON churned (n)",
		"CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 10000) n",
		"CREATE TABLE shrinks AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 30000) n",
		"CHECKPOINT",
	} {
		h.Exec(t, sql)
	}
	return space
}

func (h *host) streamFull(t *testing.T, space string) {
	w := startTraffic(t, h.Cluster, "-c", "2")
	w.at = w.rows(t)
	header, result := h.streamed(t, backup.Options{Annotations: map[string]string{"by": "stream"}})
	w.mustMove(t)
	w.stop(t)
	if len(result.Warnings) > 0 {
		t.Errorf("warnings %q", result.Warnings)
	}
	if header.Type != repo.Full || header.Source != "stream" || !slices.Equal(ways(header), []string{backup.WayFull}) || header.PageErrorCount != 0 {
		t.Errorf("header %+v", header)
	}
	if len(header.Tablespaces) != 1 || header.Tablespaces[0].Location != space || header.Tablespaces[0].Name != "elsewhere" {
		t.Errorf("tablespaces %+v", header.Tablespaces)
	}
	want := committed(t, h.Cluster)
	switchWAL(t, h.Cluster)
	h.proveState(t, want)
}

// streamIncremental lets a random life go on between backups. Nothing is written
// between a streamed backup and the full one of the files beside it.
func (h *host) streamIncremental(t *testing.T) {
	rounds, way := 1, backup.WayPageHashes
	if h.Major >= 17 {
		rounds, way = 5, backup.WayServerSummaries
	}
	rng := rand.New(rand.NewPCG(uint64(h.Major), uint64(time.Now().UnixNano())))
	for round := range rounds {
		var done []string
		for range 12 {
			sql := randomStatement(rng, round)
			done = append(done, sql)
			h.Exec(t, sql)
		}
		h.Exec(t, "CHECKPOINT")
		header, _ := h.streamed(t, backup.Options{Type: []repo.BackupType{repo.Incremental, repo.Differential}[round%2]})
		if !slices.Contains(ways(header), way) {
			t.Errorf("ways %+v, because: %s; want %s", header.Ways, header.WayReason, way)
		}
		full, _ := h.streamed(t, backup.Options{Type: repo.Full, From: backup.FromLocal, PGData: h.DataDir})
		if differ := h.differing(t, header.Label, full.Label); len(differ) > 0 {
			t.Fatalf("round %d, after %q: these files differ: %q", round, done, differ)
		}
		t.Logf("added %d of %d bytes: %+v", header.AddedSize, header.DatabaseSize, header.Ways)
	}
}

// randomStatement is one of those that are hard for summaries: pages that change,
// come, go and come again, relations and databases that are made anew.
func randomStatement(rng *rand.Rand, round int) string {
	n := rng.IntN(30000)
	all := []string{
		fmt.Sprintf("UPDATE churned SET x = md5(x) WHERE n BETWEEN %d AND %d", n, n+rng.IntN(2000)),
		fmt.Sprintf("UPDATE churned SET x = md5(x) WHERE n %% 997 = %d", rng.IntN(997)),
		fmt.Sprintf("UPDATE spaced SET x = md5(x) WHERE n %% 499 = %d", rng.IntN(499)),
		fmt.Sprintf("DELETE FROM shrinks WHERE ctid >= '(%d,0)'", rng.IntN(1000)),
		fmt.Sprintf("INSERT INTO shrinks SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, %d) n", rng.IntN(20000)),
		"VACUUM shrinks",
		"VACUUM (FREEZE) churned",
		"REINDEX TABLE churned",
		"TRUNCATE shrinks",
		"DROP TABLE IF EXISTS comes",
		"CREATE TABLE IF NOT EXISTS comes AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 20000) n",
		fmt.Sprintf("DROP DATABASE IF EXISTS made%d", round%2),
		"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 83 = 5",
		"ALTER TABLE spaced SET TABLESPACE pg_default; ALTER TABLE spaced SET TABLESPACE elsewhere",
		"BEGIN; UPDATE churned SET x = 'gone' WHERE n % 11 = 3; ROLLBACK",
	}
	return all[rng.IntN(len(all))]
}

// differing restores two backups and compares their files but those that tell
// one backup from another.
func (h *host) differing(t *testing.T, a, b repo.Label) (names []string) {
	t.Helper()
	dirs := map[repo.Label]string{}
	for _, l := range []repo.Label{a, b} {
		base := pgtest.TempDir(t)
		dirs[l] = filepath.Join(base, "data")
		h.expect(t, codeOK, "restore", "--set", string(l), "--type", "immediate", "--target-dir", dirs[l], "--archive-mode", "off", "--tablespace-map-all", base)
		verifyBackup(t, dirs[l])
	}
	trees := map[repo.Label]map[string][]byte{a: readTree(t, dirs[a]), b: readTree(t, dirs[b])}
	for _, l := range []repo.Label{a, b} {
		for name := range trees[l] {
			if x, y := trees[a][name], trees[b][name]; !bytes.Equal(x, y) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if err := os.RemoveAll(dirs[l]); err != nil {
			t.Error(err)
		}
	}
	if len(trees[a]) < 500 {
		t.Errorf("%d files were compared", len(trees[a]))
	}
	return names
}

// readTree reads all files, those of tablespaces too. Those that may differ
// between two backups are left out.
func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	tree := map[string][]byte{}
	var walk func(dir, prefix string)
	walk = func(dir, prefix string) {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := prefix + strings.TrimPrefix(path, dir+"/")
			if e.Type()&fs.ModeSymlink != 0 {
				to, err := filepath.EvalSymlinks(path)
				if err == nil {
					walk(to, name+"/")
				}
				return err
			}
			if !e.Type().IsRegular() || slices.Contains([]string{"backup_label", "backup_manifest", "global/pg_control", "recovery.signal",
				"postgresql.auto.conf", "pg_logical/replorigin_checkpoint"}, name) || strings.HasPrefix(name, "pg_wal/") {
				return nil
			}
			tree[name], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(dir, "")
	return tree
}

// TestStreamSaysWhyTheServerSendsEverything goes through what keeps the server
// from sending changes only.
func TestStreamSaysWhyTheServerSendsEverything(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 18}})
	h.fillForStream(t)
	_, result := h.streamed(t, backup.Options{Type: repo.Incremental})
	if !slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.Contains(w, "this one is a full backup") }) {
		t.Errorf("warnings %q", result.Warnings)
	}
	header, _ := h.streamed(t, backup.Options{Type: repo.Incremental})
	if header.WayReason != "server-summaries: summarize_wal is off" || !slices.Contains(ways(header), backup.WayPageHashes) {
		t.Errorf("ways %v, reason %q", ways(header), header.WayReason)
	}
	if header.AddedSize*20 > header.DatabaseSize {
		t.Errorf("added %d of %d bytes though nothing changed", header.AddedSize, header.DatabaseSize)
	}
	h.Exec(t, "ALTER SYSTEM SET summarize_wal = on")
	h.Exec(t, "SELECT pg_reload_conf()")
	h.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsummarizer'", "1", time.Minute)
	// A hole: what was written before the summarizer began is in no summary.
	h.Exec(t, "SELECT pg_switch_wal()")
	h.Exec(t, "CHECKPOINT")
	h.WaitFor(t, "SELECT count(*) > 0 FROM pg_available_wal_summaries()", "t", time.Minute)
	for _, f := range must(filepath.Glob(filepath.Join(h.DataDir, "pg_wal/summaries/*.summary")))(t) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	header, _ = h.streamed(t, backup.Options{Type: repo.Incremental})
	if !strings.HasPrefix(header.WayReason, "server-summaries: the server says: WAL summaries are required on timeline 1") || !slices.Contains(ways(header), backup.WayPageHashes) {
		t.Errorf("ways %v, reason %q", ways(header), header.WayReason)
	}
	header, _ = h.streamed(t, backup.Options{Type: repo.Incremental})
	if header.WayReason != "" || !slices.Contains(ways(header), backup.WayServerSummaries) {
		t.Errorf("ways %v, reason %q", ways(header), header.WayReason)
	}
	h.proveState(t, committed(t, h.Cluster))
}

// must fails the test on an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestStreamOfAFileThatWasCutAndGrewAgain: pages that come again by extension
// alone are in no summary, and are zero where the parent has rows.
func TestStreamOfAFileThatWasCutAndGrewAgain(t *testing.T) {
	t.Parallel()
	for _, major := range []int{17, 18} {
		h := newHost(t, hostOptions{cluster: pgtest.Options{Major: major, Config: map[string]string{"summarize_wal": "on"}}})
		h.fillForStream(t)
		h.Exec(t, "VACUUM (FREEZE) shrinks") // or VACUUM would change nearly every page
		h.streamed(t, backup.Options{})
		h.Exec(t, "DELETE FROM shrinks WHERE ctid >= '(800,0)'")
		h.Exec(t, "VACUUM shrinks")
		rows := filepath.Join(h.dir, "rows")
		h.Exec(t, fmt.Sprintf("COPY (SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 3000) n) TO '%s'", rows))
		h.Exec(t, fmt.Sprintf("COPY shrinks FROM '%s'", rows)) // extends by many pages at once, more than it fills
		h.Exec(t, "CHECKPOINT")
		content := must(os.ReadFile(filepath.Join(h.DataDir, relationPath(t, h.Cluster, "shrinks"))))(t)
		if last := content[len(content)-8192:]; len(bytes.Trim(last, "\x00")) > 0 || len(content) < 810*8192 || len(content) > 1100*8192 {
			t.Fatalf("the last of %d pages is in use: the test does not test what it means to", len(content)/8192)
		}
		header, _ := h.streamed(t, backup.Options{Type: repo.Incremental})
		if !slices.Contains(ways(header), backup.WayServerSummaries) {
			t.Errorf("ways %v, reason %q", ways(header), header.WayReason)
		}
		full, _ := h.streamed(t, backup.Options{Type: repo.Full, From: backup.FromLocal, PGData: h.DataDir})
		if differ := h.differing(t, header.Label, full.Label); len(differ) > 0 {
			t.Errorf("PostgreSQL %d: these files differ: %q", major, differ)
		}
		h.proveState(t, committed(t, h.Cluster))
	}
}

// TestStreamReportsDamagedPages damages a page on disk: it is reported and kept,
// by a full backup and again by one upon it.
func TestStreamReportsDamagedPages(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 17, Config: map[string]string{"summarize_wal": "on"}}})
	h.fillForStream(t)
	path := relationPath(t, h.Cluster, "churned")
	f := must(os.OpenFile(filepath.Join(h.DataDir, path), os.O_WRONLY, 0))(t)
	_, err := f.WriteAt([]byte("damage"), 3*8192+4000)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []repo.BackupType{repo.Full, repo.Incremental} {
		header, result := h.streamed(t, backup.Options{Type: typ})
		if header.PageErrorCount != 1 || len(header.PageErrors) != 1 || header.PageErrors[0].Path != path || !slices.Equal(header.PageErrors[0].Blocks, []uint32{3}) {
			t.Errorf("%s: page errors %+v", typ, header.PageErrors)
		}
		if !slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.Contains(w, "the server warns: checksum verification failed") }) {
			t.Errorf("%s: warnings %q", typ, result.Warnings)
		}
	}
}

// TestStreamIsCancelled cancels in the middle of the copy: the server's process
// ends, and there is no backup.
func TestStreamIsCancelled(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.fillForStream(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	_, _, err := h.tryStreamed(t, ctx, backup.Options{MaxRate: 2 << 20, Progress: func(p backup.Progress) {
		if p.Bytes > 0 {
			cancel(why)
		}
	}})
	if !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the cause", err)
	}
	h.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'", "0", 20*time.Second)
	if found := h.backups(t); len(found) != 0 {
		t.Errorf("backups %v", found)
	}
}
