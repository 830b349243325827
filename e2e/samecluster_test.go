package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// comparison is two stopped clusters that were recovered to the same position.
type comparison struct {
	a, b      string // data directories
	checksums bool

	pages   map[pageKind]int // compared
	masked  int              // equal only when masked
	maps    int              // bytes of visibility maps that differ
	files   int
	unequal []string
}

// compare compares all files but those that hold what WAL does not bring.
func (c *comparison) compare(t *testing.T) {
	t.Helper()
	c.pages = map[pageKind]int{}
	a, b := clusterFiles(t, c.a), clusterFiles(t, c.b)
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		c.files++
		x, y := readIf(t, a[path]), readIf(t, b[path])
		rel, relation := postgres.ParseRelationPath(path)
		switch {
		case !relation:
			c.plain(path, x, y, a[path] != "" && b[path] != "")
		case rel.Fork == postgres.FSMFork:
			// a hint of its own, which WAL brings only in part
		case rel.Fork == postgres.VMFork:
			c.visibilityMap(path, x, y)
		default:
			c.relation(path, rel, x, y)
		}
	}
	if len(c.unequal) > 0 {
		t.Errorf("%d differences between %s and %s:\n%s", len(c.unequal), c.a, c.b, strings.Join(c.unequal[:min(20, len(c.unequal))], "\n"))
	}
	// A comparison that saw little proves little.
	if c.files < 500 || c.pages[heapPage] < 300 || c.pages[btreePage] < 200 {
		t.Errorf("only %d files and these pages were compared: %v", c.files, c.pages)
	}
}

// explain says which relations the unequal files belong to: none is one that
// a dropped relation or an aborted transaction has left behind.
func (c *comparison) explain(t *testing.T, server *pgtest.Cluster) {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range c.unequal {
		path, _, _ := strings.Cut(line, ":")
		rel, ok := postgres.ParseRelationPath(path)
		if !ok || rel.Database == 0 || seen[path] || len(seen) == 20 {
			continue
		}
		seen[path] = true
		for _, name := range strings.Fields(server.Query(t, fmt.Sprintf("SELECT datname FROM pg_database WHERE oid = %d", rel.Database))) {
			t.Logf("%s in %s: %s in database %s", path, server.DataDir, queryIn(t, server, name, fmt.Sprintf(`SELECT c.relname, c.relkind, c.relpersistence, a.amname
				FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam WHERE pg_relation_filenode(c.oid) = %d`, rel.Node)), name)
		}
	}
}

func (c *comparison) differ(path, format string, args ...any) {
	c.unequal = append(c.unequal, path+": "+fmt.Sprintf(format, args...))
}

// plain compares a file that has no pages. Files of the transaction logs are
// made longer before they are needed.
func (c *comparison) plain(path string, x, y []byte, both bool) {
	switch top, _, _ := strings.Cut(path, "/"); top {
	case "pg_xact", "pg_multixact", "pg_commit_ts":
		n := min(len(x), len(y))
		if !bytes.Equal(x[:n], y[:n]) || !postgres.IsZero(x[n:]) || !postgres.IsZero(y[n:]) {
			c.differ(path, "differs at byte %d (%d and %d bytes)", firstDifference(x, y), len(x), len(y))
		}
	default:
		if !both || !bytes.Equal(x, y) {
			c.differ(path, "differs (%d and %d bytes)", len(x), len(y))
		}
	}
}

func firstDifference(x, y []byte) int {
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return i
		}
	}
	return min(len(x), len(y))
}

// relation compares pages. A missing page is one that was never written: a
// server adds pages before WAL tells of them, and a file of no pages is one
// that is dropped and not yet removed.
func (c *comparison) relation(path string, rel postgres.RelationFile, x, y []byte) {
	const size = 8192
	if len(x)%size != 0 || len(y)%size != 0 {
		c.differ(path, "%d and %d bytes", len(x), len(y))
		return
	}
	blank := make([]byte, size)
	page := func(file []byte, n int) []byte {
		if n*size >= len(file) {
			return blank
		}
		p := file[n*size:][:size]
		if c.checksums && postgres.CheckPage(p, rel.Segment<<17+uint32(n)) == postgres.PageInvalid {
			c.differ(path, "the checksum of page %d is wrong", n)
		}
		return p
	}
	for n := range max(len(x), len(y)) / size {
		a, b := page(x, n), page(y, n)
		kind, why := samePage(a, b)
		if why != "" {
			c.differ(path, "page %d of %d and %d, %s: %s", n, len(x)/size, len(y)/size, kind, why)
			continue
		}
		c.pages[kind]++
		if !bytes.Equal(a, b) {
			c.masked++
		}
	}
}

// visibilityMap counts what differs and does not judge: replay clears a bit
// again that was set later when the copied page is newer than that, so a bit that is not
// set means nothing. One that is set must be true, which pg_visibility finds out.
func (c *comparison) visibilityMap(path string, x, y []byte) {
	const size = 8192
	if len(x)%size != 0 || len(y)%size != 0 {
		c.differ(path, "%d and %d bytes", len(x), len(y))
	}
	for i := range min(len(x), len(y)) {
		if i%size >= pageHeader && x[i] != y[i] {
			c.maps++
		}
	}
}

// clusterFiles are the files that are compared, by their path in the data directory.
func clusterFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(path, name string)
	walk = func(path, name string) {
		entries, err := os.ReadDir(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			child, at := strings.TrimPrefix(path+"/"+e.Name(), "/"), filepath.Join(name, e.Name())
			if notCompared(child) {
				continue
			}
			info, err := os.Stat(at) // follows the link of a tablespace
			switch {
			case err != nil:
				t.Fatal(err)
			case info.IsDir():
				walk(child, at)
			default:
				all[child] = at
			}
		}
	}
	walk("", dir)
	return all
}

// notCompared are what restore and the server write for this copy alone, WAL,
// and what is made anew at each start.
func notCompared(path string) bool {
	top, rest, inside := strings.Cut(path, "/")
	switch top {
	case "pg_wal", "pg_subtrans", "pg_stat", "pg_stat_tmp", "pg_notify", "pg_serial", "pg_snapshots", "pg_dynshmem", "pg_replslot", "pg_logical":
		return inside
	case "global":
		return rest == "pg_control" || rest == "pg_internal.init"
	case "postgresql.auto.conf", "backup_manifest", "postmaster.opts", "postmaster.pid",
		"backup_label.old", "tablespace_map.old", "current_logfiles":
		return true
	}
	return filepath.Base(path) == "pg_internal.init"
}

func readIf(t *testing.T, name string) []byte {
	t.Helper()
	if name == "" {
		return nil
	}
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return data
}
