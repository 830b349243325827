package backup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

const testVersion = "PG_18_202506291"

// walkAll walks a made-up data directory and gives the paths that were met.
func walkAll(t *testing.T, root string) (paths []string, w *walker, err error) {
	t.Helper()
	w = &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{},
		warn: func(format string, args ...any) { t.Errorf("warning: "+format, args...) }}
	w.emit = func(it item) error {
		paths = append(paths, it.file.Path)
		return nil
	}
	err = w.walk(context.Background())
	return paths, w, err
}

func makeFiles(t *testing.T, root string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		name := filepath.Join(root, p)
		if strings.HasSuffix(p, "/") {
			if err := os.MkdirAll(name, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWalkLeavesOutWhatAServerMakesAnew(t *testing.T) {
	root := t.TempDir()
	makeFiles(t, root, "PG_VERSION", "base/1/100", "base/1/100_init", "base/1/100_fsm", "base/1/100.1", "base/1/101", "base/1/101_vm",
		"base/1/t3_200", "base/1/pg_internal.init", "base/pgsql_tmp/pgsql_tmp1.0", "global/pg_control", "global/pg_internal.init.12", "global/1262",
		"pg_wal/000000010000000000000001", "pg_wal/archive_status/000000010000000000000001.ready", "pg_wal/summaries/x.summary",
		"pg_replslot/a/state", "pg_stat_tmp/global.stat", "pg_notify/0000", "pg_dynshmem/mmap.1", "pg_serial/0000", "pg_snapshots/1-1",
		"pg_subtrans/0000", "pg_stat/pgstat.stat", "pg_logical/replorigin_checkpoint", "postmaster.pid", "postmaster.opts", "backup_label.old",
		"backup_manifest", "recovery.signal", "standby.signal", "postgresql.auto.conf", "postgresql.auto.conf.tmp", "log/pg.log")
	paths, _, err := walkAll(t, root)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PG_VERSION", "base", "base/1", "base/1/100_init", "base/1/101", "base/1/101_vm", "global", "global/1262", "log", "log/pg.log",
		"pg_dynshmem", "pg_logical", "pg_logical/replorigin_checkpoint", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat",
		"pg_stat/pgstat.stat", "pg_stat_tmp", "pg_subtrans", "pg_wal", "pg_wal/archive_status", "pg_wal/summaries", "postgresql.auto.conf"}
	if !slices.Equal(paths, want) {
		t.Errorf("met\n%q\nwant\n%q", paths, want)
	}
	if !slices.IsSortedFunc(paths, repo.ComparePaths) {
		t.Error("the paths are not in the order of the manifest")
	}
}

func TestWalkMeetsTheTablespacesOfThisClusterOnly(t *testing.T) {
	root, space := t.TempDir(), t.TempDir()
	makeFiles(t, root, "pg_tblspc/16400/"+testVersion+"/5/1") // in place
	makeFiles(t, space, testVersion+"/5/2", "PG_15_202209061/5/3")
	if err := os.Symlink(space, filepath.Join(root, "pg_tblspc", "16401")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(root, "pg_tblspc", "16402")); err != nil {
		t.Fatal(err)
	}
	paths, w, err := walkAll(t, root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(paths, "pg_tblspc/16401/"+testVersion+"/5/2") || slices.Contains(paths, "pg_tblspc/16401/PG_15_202209061") {
		t.Errorf("met %q", paths)
	}
	for oid, want := range map[string]bool{"16400": true, "16401": true, "16402": false} {
		if w.tablespaces[oid] != want {
			t.Errorf("tablespace %s: met %t, want %t", oid, w.tablespaces[oid], want)
		}
	}
}

func TestALinkThatLeadsNowhereStopsTheBackup(t *testing.T) {
	for _, path := range []string{"pg_tblspc/16400", "base", "log"} {
		root := t.TempDir()
		makeFiles(t, root, "pg_tblspc/")
		if err := os.Symlink(filepath.Join(root, "..", "not-mounted"), filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
		_, _, err := walkAll(t, root)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "does not exist") || hint.Of(err) == "" {
			t.Errorf("%s: error %v, hint %q", path, err, hint.Of(err))
		}
	}
	root := t.TempDir()
	if err := os.Symlink(filepath.Join(root, "..", "not-mounted"), filepath.Join(root, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	if paths, _, err := walkAll(t, root); err != nil || !slices.Equal(paths, []string{"pg_wal"}) {
		t.Errorf("pg_wal, whose content is left out: met %q, error %v", paths, err)
	}
}

func TestLinksThatCannotBeRestoredAreRefused(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	makeFiles(t, root, "a/")
	if err := os.Symlink(other, filepath.Join(other, "second")); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{filepath.Join(root, "a"): "into the data directory", filepath.Join(other, "second"): "to another link"} {
		name := filepath.Join(root, "b")
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
		if _, _, err := walkAll(t, root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("link to %s: %v", target, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}
