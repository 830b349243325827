package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/repo"
)

// requests counts what a command asks of the server: by operation, and by
// operation and first element of the key.
type requests map[string]int

// asked runs a command and counts its requests. Nobody else may use the proxy.
func (h *host) asked(t *testing.T, proxy *s3test.Proxy, args ...string) requests {
	t.Helper()
	proxy.Reset()
	h.expect(t, codeOK, args...)
	counted := requests{}
	for _, r := range proxy.Requests() {
		key := strings.TrimPrefix(r.Path, "/"+h.bucket.name)
		key = strings.TrimPrefix(key, "/"+prefix+"/")
		first, _, _ := strings.Cut(key, "/")
		counted[r.Operation()]++
		if first != "" {
			counted[r.Operation()+" "+first]++
		}
	}
	t.Logf("%s: %s", strings.Join(args[:1], " "), counted)
	return counted
}

// String has the operations on kinds of objects alone.
func (r requests) String() string {
	var parts []string
	for what, n := range r {
		if strings.Contains(what, " ") && !strings.HasSuffix(what, "?delete") || what == "LIST" {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// TestCommandsAskLittleOfTheServer: requests cost money and round trips.
func TestCommandsAskLittleOfTheServer(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, s3test.MinIO(t, s3test.Options{}))
	h := newHost(t, hostOptions{bucket: b, cluster: pgtest.Options{Config: map[string]string{"wal_keep_size": "100MB"}}})
	// What can hardly be compressed, so that there are several packs.
	h.Exec(t, "CREATE TABLE t AS SELECT n, sha512(random()::text::bytea) a, sha512(random()::text::bytea) b FROM generate_series(1, 700000) n")
	h.Exec(t, "CHECKPOINT")
	switchWAL(t, h.Cluster)

	first := h.asked(t, proxy, "backup")
	packs := first["PUT packs"]
	if packs < 3 {
		t.Errorf("%d packs are too few to count with", packs)
	}
	// Besides the packs: the pin, the label that it claims, one object of maps, the
	// manifest. WAL comes by itself meanwhile.
	if more := first["PUT"] - packs - first["PUT wal"]; more > 4 {
		t.Errorf("a backup of %d packs has %d PUTs more", packs, more)
	}
	second := h.asked(t, proxy, "backup")
	if puts := second["PUT"] - second["PUT wal"]; puts > 5 {
		t.Errorf("a backup of nothing new has %d PUTs", puts)
	}

	h.stopArchiving(t)
	push, get := h.askedForWAL(t, proxy)
	addBackups(t, h, 60)
	laterPush, laterGet := h.askedForWAL(t, proxy)
	if !maps.Equal(push, laterPush) || !maps.Equal(get, laterGet) {
		t.Errorf("with two backups:\n%s\n%s\nwith sixty more:\n%s\n%s", push, get, laterPush, laterGet)
	}
}

// stopArchiving leaves the archiving to the test.
func (h *host) stopArchiving(t *testing.T) {
	t.Helper()
	h.Exec(t, "ALTER SYSTEM SET archive_command = 'false'")
	h.Exec(t, "SELECT pg_reload_conf()")
	h.WaitFor(t, "SHOW archive_command", "false", time.Minute)
}

// askedForWAL counts the requests of a push and a get of a new segment, which
// are the commands that run once for each segment.
func (h *host) askedForWAL(t *testing.T, proxy *s3test.Proxy) (push, get requests) {
	t.Helper()
	h.Exec(t, "INSERT INTO t SELECT 0")
	name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	push = h.asked(t, proxy, "archive-push", filepath.Join(h.DataDir, "pg_wal", name))
	if push["PUT"] != 1 || push["PUT wal"] != 1 || push["LIST"] != 0 || push["DELETE"] != 0 || push["GET"] > 4 {
		t.Errorf("a push asks %v, want one PUT and four GETs", push)
	}
	get = h.asked(t, proxy, "archive-get", name, filepath.Join(h.dir, "fetched"))
	if get["GET wal"] != 1 || get["GET"] > 5 || get["LIST"]+get["PUT"]+get["DELETE"] != 0 {
		t.Errorf("a get asks %v, want one GET of the segment and four others", get)
	}
	return push, get
}

// addBackups makes backups without content.
func addBackups(t *testing.T, h *host, n int) {
	t.Helper()
	_, s := h.mustOpen(t)
	for range n {
		w, err := s.BeginBackup(t.Context(), s.Current(), repo.BeginOptions{Type: repo.Full, PageSize: 8192})
		if err == nil {
			_, err = w.Commit(repo.BackupHeader{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	catalog, err := s.Catalog(t.Context())
	if err != nil || len(catalog.Backups) < n {
		t.Fatalf("%d backups are listed, %v", len(catalog.Backups), err)
	}
}
