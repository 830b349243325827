package restore

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// The law: after whatever happened, global/pg_control is there if and only if
// the restore reported success, and then every file is right.
func TestARestoreSurvivesAFaultAtEveryStorageOperation(t *testing.T) {
	inner, _ := stored(t, cluster(), repo.BackupHeader{})
	for n := 1; ; n++ {
		st := faulty.FailNth(inner, n)
		dir := filepath.Join(t.TempDir(), "data")
		err := restoreThrough(t, st, dir)
		if !st.Fired() {
			if err != nil {
				t.Fatal(err)
			}
			checkTree(t, dir, cluster())
			t.Logf("%d operations were made to fail", n-1)
			return
		}
		if isNeedless(st.Trace()[n-1]) {
			if err != nil {
				t.Errorf("operation %d (%s): error %v", n, st.Trace()[n-1], err)
			}
			checkTree(t, dir, cluster())
			continue
		}
		if !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("operation %d (%s): error %v", n, st.Trace()[n-1], err)
		}
		if exists(t, filepath.Join(dir, controlFile)) {
			t.Errorf("operation %d (%s): pg_control is there", n, st.Trace()[n-1])
		}
		// The next attempt, in another directory, is as good as the first.
		if n%10 == 0 {
			again := filepath.Join(t.TempDir(), "again")
			if err := restoreThrough(t, inner, again); err != nil {
				t.Fatal(err)
			}
			checkTree(t, again, cluster())
		}
	}
}

// isNeedless tells of the one operation that a restore can do without: what is
// said of WAL beside it. The WAL itself is listed then.
func isNeedless(operation string) bool { return strings.HasPrefix(operation, "list ledger/") }

func restoreThrough(t *testing.T, st storage.Store, dir string) error {
	t.Helper()
	s, err := reopen(t, st)
	if err != nil {
		return err
	}
	_, err = Run(context.Background(), options(s, dir))
	return err
}

// kindsOfObject gives the objects that a restore reads, by kind.
func kindsOfObject(t *testing.T, st storage.Store) map[string]string {
	t.Helper()
	kinds := map[string]string{}
	for obj, err := range st.List(context.Background(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"packs/", "maps/", "backups/"} {
			if strings.HasPrefix(obj.Key, kind) {
				kinds[strings.Trim(kind, "/")] = obj.Key
			}
		}
	}
	if len(kinds) != 3 {
		t.Fatalf("objects %v", kinds)
	}
	return kinds
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	clean, _ := stored(t, cluster(), repo.BackupHeader{})
	ctx := context.Background()
	for kind, key := range kindsOfObject(t, clean) {
		obj, err := clean.Stat(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		for name, damage := range map[string]func(st *mem.Store) error{
			"cut to half":         func(st *mem.Store) error { return faulty.Truncate(ctx, st, key, obj.Size/2) },
			"its last byte lost":  func(st *mem.Store) error { return faulty.Truncate(ctx, st, key, -1) },
			"empty":               func(st *mem.Store) error { return faulty.Truncate(ctx, st, key, 0) },
			"lost":                func(st *mem.Store) error { return st.Delete(ctx, key) },
			"a bit at the start":  func(st *mem.Store) error { return faulty.Flip(ctx, st, key, 2, 4) },
			"a bit in the middle": func(st *mem.Store) error { return faulty.Flip(ctx, st, key, obj.Size/2, 1) },
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				st := clean.Clone()
				if err := damage(st); err != nil {
					t.Fatal(err)
				}
				checkDamage(t, st, kind, key, name)
			})
		}
	}
}

// checkDamage restores from a damaged repository. Damage that a restore does
// not read, such as a pack's footer, must leave the result right.
func checkDamage(t *testing.T, st storage.Store, kind, key, name string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	err := restoreThrough(t, st, dir)
	if err == nil {
		if kind == "backups" || name == "cut to half" || name == "empty" || name == "lost" {
			t.Fatal("the damage was not noticed")
		}
		checkTree(t, dir, cluster())
		return
	}
	if exists(t, filepath.Join(dir, controlFile)) {
		t.Error("pg_control is there")
	}
	if name == "lost" && kind == "backups" {
		if !errors.Is(err, repo.ErrNoBackup) || hint.Of(err) == "" {
			t.Errorf("error %v", err)
		}
		return
	}
	if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), key) {
		t.Errorf("error %v, want one that names %s", err, key)
	}
}

// Every single bit of the content of a file counts.
func TestABitFlippedAnywhereInAPackIsNeverRestored(t *testing.T) {
	entries := []entry{{path: "PG_VERSION", data: []byte("18\n")}, {path: "backup_label", data: []byte("x")}, {path: "global"},
		{path: "global/pg_control", data: text(testPage, 6)}, {path: "global/big", data: text(2*testWindow, 8)}}
	entries[3], entries[4] = entries[4], entries[3]
	clean, _ := stored(t, entries, repo.BackupHeader{})
	key := kindsOfObject(t, clean)["packs"]
	obj, err := clean.Stat(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	step := max(obj.Size/60, 1)
	noticed := 0
	for at := int64(0); at < obj.Size; at += step {
		st := clean.Clone()
		if err := faulty.Flip(context.Background(), st, key, at, 0x10); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "data")
		if err := restoreThrough(t, st, dir); err != nil {
			noticed++
			continue
		}
		checkTree(t, dir, entries)
	}
	if noticed == 0 {
		t.Error("nothing was noticed at all")
	}
}
