package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
)

// fault is a way in which one storage operation goes wrong.
type fault struct {
	title string
	of    func(st storage.Store, n int) *faulty.Store
}

func faults() []fault {
	return []fault{{"operation fails", faulty.FailNth}, {"answer is lost", faulty.FailNthAfter}}
}

// sampled are the operations that are tried of count: all of them up to a
// limit; of more the first 40, the last 20 and some between.
func sampled(count int) []int {
	var all []int
	step := max(1, (count-60)/20)
	for n := 1; n <= count; n++ {
		if n <= 40 || n > count-20 || (n-40)%step == 0 {
			all = append(all, n)
		}
	}
	return all
}

// backUp runs a backup in this process through a store.
func (h *host) backUp(ctx context.Context, st storage.Store) (backup.Result, error) {
	s, err := openStanza(ctx, st)
	if err != nil {
		return backup.Result{}, err
	}
	return backup.Run(ctx, backup.Options{Repositories: []backup.Repository{{Name: "local", Stanza: s}}, PGData: h.DataDir, Connection: h.DSN(), Processes: 2, StartFast: true,
		ArchiveTimeout: 30 * time.Second, Clock: time.Now})
}

// TestABackupSurvivesTheFaultOfAnyStorageOperation fails the n-th operation, for
// every n of a first backup, which stores everything, and for every n up to a
// limit of one that has a parent to read.
func TestABackupSurvivesTheFaultOfAnyStorageOperation(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	t.Run("the first backup", func(t *testing.T) { h.failBackups(t, nil) })
	st, _ := h.mustOpen(t)
	first, err := h.backUp(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a backup with a parent", func(t *testing.T) { h.failBackups(t, map[repo.Label]bool{first.Backups[0].Header.Label: true}) })
}

// failBackups takes backups through all faults, each in a repository that holds
// only the kept backups.
func (h *host) failBackups(t *testing.T, kept map[repo.Label]bool) {
	st, s := h.mustOpen(t)
	clean := faulty.FailNth(st, 0)
	if _, err := h.backUp(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	count := len(clean.Trace())
	checked := map[repo.Label]bool{}
	law(t, s, checked)
	forget(t, st, checked, kept)
	tried, survived := 0, 0
	for _, f := range faults() {
		for _, n := range sampled(count + 5) { // some more looks for WAL may be needed
			faulted := f.of(st, n)
			result, err := h.backUp(t.Context(), faulted)
			if !faulted.Fired() {
				if err != nil {
					t.Fatalf("%d: no fault fired, and yet: %v", n, err)
				}
				law(t, s, checked)
				forget(t, st, checked, kept)
				continue
			}
			tried++
			what := fmt.Sprintf("%s: %s", f.title, faulted.Trace()[n-1])
			if err != nil && !errors.Is(err, faulty.ErrInjected) {
				t.Errorf("%s: the error hides the cause: %v", what, err)
			}
			law(t, s, checked)
			if err == nil {
				survived++
				if !checked[result.Backups[0].Header.Label] {
					t.Errorf("%s: backup %s was reported and is not listed", what, result.Backups[0].Header.Label)
				}
			}
			if result, err = h.backUp(t.Context(), st); err != nil {
				t.Fatalf("%s: the next backup: %v", what, err)
			}
			if law(t, s, checked); !checked[result.Backups[0].Header.Label] {
				t.Fatalf("%s: the next backup is not listed", what)
			}
			forget(t, st, checked, kept)
		}
	}
	// The last operation is not needed. Its number varies with the looks for WAL, so it is named.
	faulted := faulty.OnOp(st, func(op, key string) error {
		if op == faulty.OpDelete && strings.HasPrefix(key, "pins/") {
			return faulty.ErrInjected
		}
		return nil
	})
	result, err := h.backUp(t.Context(), faulted)
	if law(t, s, checked); err != nil || !checked[result.Backups[0].Header.Label] || len(result.Warnings) == 0 {
		t.Errorf("a backup whose pin stays: %v, warnings %q", err, result.Warnings)
	} else {
		survived++
	}
	forget(t, st, checked, kept)
	if tried < min(count, 100) || survived == 0 {
		t.Errorf("%d faults fired, a backup has %d operations; %d backups succeeded, though at least the last operation is not needed", tried, count, survived)
	}
	t.Logf("%d operations, %d faults, %d backups succeeded in spite of theirs", count, tried, survived)
	for label := range kept {
		if err := readBackup(t.Context(), s, label); err != nil {
			t.Errorf("backup %s at the end: %v", label, err)
		}
	}
}

// TestARestoreSurvivesTheFaultOfAnyStorageOperation: it fails and leaves nothing
// that could be started, or it succeeds and all is right.
func TestARestoreSurvivesTheFaultOfAnyStorageOperation(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	label := h.backup(t).Backup.Label
	h.Exec(t, "CREATE TABLE later AS SELECT 1 AS n")
	h.Query(t, "SELECT pg_create_restore_point('here')")
	switchWAL(t, h.Cluster)
	st, _ := h.mustOpen(t)
	base := memoryDir(t, 1<<30)
	into := func(st storage.Store) (string, error) {
		dir, err := os.MkdirTemp(base, "restore-")
		if err != nil {
			t.Fatal(err)
		}
		pgtest.GiveToServer(t, dir)
		dir = filepath.Join(dir, "data")
		s, err := openStanza(t.Context(), st)
		if err != nil {
			return dir, err
		}
		_, err = restore.Run(t.Context(), restore.Options{Stanza: s, TargetDir: dir, Target: restore.Target{Type: restore.TargetName, Name: "here"},
			Set: label, Processes: 2, RestoreCommand: "false", Clock: time.Now})
		return dir, err
	}
	clean := faulty.FailNth(st, 0)
	dir, err := into(clean)
	if err != nil {
		t.Fatal(err)
	}
	verifyBackup(t, dir)
	count, tried := len(clean.Trace()), 0
	for _, f := range faults() {
		for _, n := range sampled(count) {
			faulted := f.of(st, n)
			dir, err := into(faulted)
			what := fmt.Sprintf("%s, %d of %d: %s", f.title, n, count, faulted.Trace()[min(n, len(faulted.Trace()))-1])
			if faulted.Fired() {
				tried++
			}
			complete := exists(filepath.Join(dir, "global", "pg_control"))
			switch {
			case err == nil && !complete:
				t.Errorf("%s: success without pg_control", what)
			case err == nil:
				verifyBackup(t, dir)
			case complete:
				t.Errorf("%s: pg_control is in place after: %v", what, err)
			case !errors.Is(err, faulty.ErrInjected):
				t.Errorf("%s: the error hides the cause: %v", what, err)
			}
			for _, op := range faulted.Trace() {
				if strings.HasPrefix(op, "put") || strings.HasPrefix(op, "delete") {
					t.Fatalf("a restore changes the repository: %s", op)
				}
			}
			if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tried < min(count, 50) {
		t.Errorf("%d faults fired, a restore has %d operations", tried, count)
	}
	t.Logf("%d operations, %d faults", count, tried)
	if dir, err = into(st); err != nil {
		t.Fatal(err)
	}
	verifyBackup(t, dir)
}

// TestAPushSurvivesTheFaultOfAnyStorageOperation takes a server's own segments.
func TestAPushSurvivesTheFaultOfAnyStorageOperation(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "100MB"}}})
	_, s := h.mustOpen(t)
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 10000) n")
	name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	path := filepath.Join(h.DataDir, "pg_wal", name)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	push := func(st storage.Store) error {
		s, err := openStanza(t.Context(), st)
		if err != nil {
			return err
		}
		p, err := archive.NewPusher(archive.PushTarget{Name: "local", Open: func(context.Context) (*repo.Stanza, error) { return s, nil }})
		if err != nil {
			return err
		}
		_, err = p.Push(t.Context(), path)
		return err
	}
	tried := 0
	for _, f := range faults() {
		for n := 1; ; n++ {
			st := newRepository(t, s.Current())
			faulted := f.of(st, n)
			err := push(faulted)
			if !faulted.Fired() {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			tried++
			what := fmt.Sprintf("%s: %s", f.title, faulted.Trace()[n-1])
			got, getErr := archived(t, st, name)
			if !errors.Is(getErr, storage.ErrNotExist) && (getErr != nil || string(got) != string(want)) {
				t.Errorf("%s: the archive is neither without it nor right: %d bytes, %v", what, len(got), getErr)
			}
			if err == nil && getErr != nil {
				t.Errorf("%s: success was reported: %v", what, getErr)
			}
			if err := push(st); err != nil {
				t.Errorf("%s: the next push: %v", what, err)
			}
			if got, err := archived(t, st, name); err != nil || string(got) != string(want) {
				t.Errorf("%s: after the next push: %d bytes, %v", what, len(got), err)
			}
		}
	}
	if tried < 6 {
		t.Errorf("%d faults fired only", tried)
	}
	t.Logf("%d faults", tried)
}
