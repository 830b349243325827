package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// withSpool adds a spool to the configuration, and more settings of archive.
func (h *host) withSpool(t *testing.T, more string) string {
	t.Helper()
	spool := filepath.Join(h.dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, spool)
	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, "pgbak.yaml", fmt.Sprintf("%sarchive: {spool: %s%s}\n", text, spool, more))
	return spool
}

// killingCommand calls archive-push as the archiver would, kills most calls after up
// to an eighth of a second, and calls again until one succeeds. It keeps a copy of what it was
// called for.
const killingCommand = `#!/bin/sh
cp "$1" "KEPT/$2" || exit 1
while :; do
	byte=$(od -An -N1 -tu1 /dev/urandom | tr -d ' ')
	PROGRAM --config CONFIG archive-push "$1" &
	pid=$!
	if [ "$byte" -ge 32 ]; then
		sleep "0.$(printf %03d $((byte / 2)))"
		kill -9 $pid 2>/dev/null
	fi
	wait $pid
	status=$?
	echo "$status" >>KEPT/../statuses
	[ $status -eq 0 ] && exit 0
	[ $status -eq 137 ] || exit 1
done
`

// TestKilledBatchesLoseNothing: whatever PostgreSQL was told is archived is in
// the archive, as it was when PostgreSQL asked.
func TestKilledBatchesLoseNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 16, Config: map[string]string{"archive_command": "false"}}})
	h.withSpool(t, "")
	kept := filepath.Join(h.dir, "kept")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, kept)
	h.write(t, "killer", strings.NewReplacer("KEPT", kept, "PROGRAM", h.program, "CONFIG", h.config).Replace(killingCommand))
	h.Exec(t, "CREATE TABLE t AS SELECT n, sha512(n::text::bytea) s FROM generate_series(1, 150000) n")
	h.Exec(t, "ALTER SYSTEM SET archive_command = 'sh "+filepath.Join(h.dir, "killer")+" %p %f'")
	h.Exec(t, "SELECT pg_reload_conf()")
	kills := func() int {
		statuses, _ := os.ReadFile(filepath.Join(h.dir, "statuses")) // none yet is none killed
		return strings.Count(string(statuses), "137\n")
	}
	for round := 0; round < 4 || round < 40 && kills() < 3; round++ { // a call that finds its file pushed is over before it is killed
		h.Exec(t, "INSERT INTO t SELECT n, sha512(n::text::bytea) FROM generate_series(1, 50000) n")
		h.Exec(t, "CHECKPOINT")
		if round < 3 {
			continue
		}
		last := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
		h.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t", 3*time.Minute)
	}
	h.Stop(t, "fast")

	entries, err := os.ReadDir(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(kept, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		h.expect(t, codeOK, "archive-get", e.Name(), filepath.Join(h.dir, "fetched"))
		if got, err := os.ReadFile(filepath.Join(h.dir, "fetched")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s came back with other content (%v)", e.Name(), err)
		}
	}
	batches := strings.Count(h.Log(), "archived a batch")
	t.Logf("%d files, %d calls were killed, %d batches came to their end", len(entries), kills(), batches)
	if len(entries) < 40 || kills() < 3 || batches < 1 {
		t.Errorf("too little was tried: %d files, %d kills, %d batches", len(entries), kills(), batches)
	}
}

// TestABatchAsksOneRequestPerSegment: besides those that open the repository once.
func TestABatchAsksOneRequestPerSegment(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, s3test.MinIO(t, s3test.Options{}))
	h := newHost(t, hostOptions{bucket: b, cluster: pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "100MB"}}})
	h.withSpool(t, ", compression: s2")
	var names []string
	h.Exec(t, "CREATE TABLE t (n int)")
	for range 12 {
		h.Exec(t, "INSERT INTO t SELECT 0")
		names = append(names, h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())"))
	}
	ready, err := filepath.Glob(filepath.Join(h.DataDir, "pg_wal", "archive_status", "*.ready"))
	if err != nil {
		t.Fatal(err)
	}
	asked := h.asked(t, proxy, "archive-push", filepath.Join(h.DataDir, "pg_wal", names[0]))
	if n := len(ready); asked["PUT"] != n || asked["PUT wal"] != n || asked["GET"] > 4 || asked["LIST"]+asked["DELETE"] != 0 || n < 12 {
		t.Errorf("a batch of %d asks %v, want as many PUTs and four GETs", n, asked)
	}
	for _, name := range names {
		if asked := h.asked(t, proxy, "archive-push", filepath.Join(h.DataDir, "pg_wal", name)); len(asked) != 0 {
			t.Errorf("%s is acknowledged, and the push asks %v", name, asked)
		}
	}
}

// TestWALThatIsDroppedIsAnEventAndTheServerWritesOn has a repository that is away
// while the server writes more than may wait.
func TestWALThatIsDroppedIsAnEventAndTheServerWritesOn(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: 14}})
	h.withSpool(t, ", queue-max: 8MiB")
	first := h.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	away := h.repo + ".away"
	if err := os.Rename(h.repo, away); err != nil {
		t.Fatal(err)
	}
	h.Exec(t, "CREATE TABLE t AS SELECT n, sha512(n::text::bytea) s FROM generate_series(1, 150000) n")
	ready := func() (names []string) {
		paths, err := filepath.Glob(filepath.Join(h.DataDir, "pg_wal", "archive_status", "*.ready"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			names = append(names, strings.TrimSuffix(filepath.Base(p), ".ready"))
		}
		return names
	}
	for deadline := time.Now().Add(3 * time.Minute); len(ready()) > 8; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d segments wait\n%s", len(ready()), h.Log())
		}
	}
	if err := os.Rename(away, h.repo); err != nil {
		t.Fatal(err)
	}
	last := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	h.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t", 3*time.Minute)
	if !strings.Contains(h.Log(), "was DROPPED and is not archived") {
		t.Errorf("the server's log does not say what was dropped:\n%s", h.Log())
	}
	_, s := h.mustOpen(t)
	events, err := s.WALEvents(t.Context())
	if err != nil || len(events) == 0 {
		t.Fatalf("events %+v, %v", events, err)
	}
	// The judge is the archive: it lacks exactly what the events name.
	var named, lacking []string
	for n := segmentOf(first); n <= segmentOf(last); n++ {
		name := fmt.Sprintf("%08X%08X%08X", 1, n/4096, n%4096)
		if o := h.run(t, "archive-get", name, filepath.Join(h.dir, "fetched")); o.code != codeOK {
			lacking = append(lacking, name)
		}
		for _, e := range events {
			if e.First <= name && name <= e.Last {
				named = append(named, name)
			}
		}
	}
	if !slices.Equal(named, lacking) || len(lacking) < 3 {
		t.Errorf("events name %q, the archive lacks %q", named, lacking)
	}
}

// segmentOf is the number of a segment of 1 MiB.
func segmentOf(name string) (n int) {
	var tli, log, seg int
	if _, err := fmt.Sscanf(name, "%8X%8X%8X", &tli, &log, &seg); err != nil {
		return -1
	}
	return log*4096 + seg
}
