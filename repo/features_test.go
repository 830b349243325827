package repo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestFeaturesThatWereAddedLaterAreRefused(t *testing.T) {
	ctx := context.Background()
	for _, f := range []struct {
		features    Features
		open, write bool
	}{
		{Features{Collect: []string{"parity"}}, true, true},
		{Features{Write: []string{"parity"}}, true, false},
		{Features{Read: []string{"parity"}}, false, false},
	} {
		st := mem.New()
		s := testRepository(t, st, "")
		if err := putDocument(ctx, st, featuresKey, featuresFormat, f.features, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := Open(ctx, st, Options{Clock: testClock()})
		if f.open != (err == nil) || err != nil && (!errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), "parity")) {
			t.Errorf("%+v: open: %v", f.features, err)
		}
		if err != nil {
			continue
		}
		_, err = r.CreateStanza(ctx, "other", s.Current())
		if f.write != (err == nil) || err != nil && !errors.Is(err, ErrNewerFormat) {
			t.Errorf("%+v: write: %v", f.features, err)
		}
	}
}

func TestABackupOfANewerFormatIsShownAndNotUsed(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	tree := makeTree(1)
	old := tree.store(t, s)
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.write(ctx, w); err != nil {
		t.Fatal(err)
	}
	newer, err := w.Commit(BackupHeader{Features: []string{"redirects"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenBackup(ctx, newer.Label); !errors.Is(err, ErrNewerFormat) || errors.Is(err, ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	c, err := s.Catalog(ctx)
	if err != nil || len(c.Backups) != 2 || c.Backups[0].Err != nil || !errors.Is(c.Backups[1].Err, ErrNewerFormat) {
		t.Fatalf("catalogue: %v, %+v", err, c)
	}
	if next := tree.store(t, s); next.Parent != old.Label {
		t.Errorf("the parent of the next backup is %q, want %q", next.Parent, old.Label)
	}
}
