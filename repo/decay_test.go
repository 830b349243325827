package repo

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// A pack that decays under the first full backup must not be shared by the
// second: a full backup is what one falls back on.
func TestAFullBackupDoesNotRestOnDecayedContent(t *testing.T) {
	for name, passphrase := range map[string]string{"plain": "", "encrypted": "correct horse battery staple"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			st := mem.New()
			s := testRepository(t, st, passphrase)
			tree := makeTree(1)
			first := tree.store(t, s)
			pack := ""
			for obj, err := range st.List(ctx, "packs/", "") {
				if err != nil {
					t.Fatal(err)
				}
				pack = obj.Key
			}
			for offset := int64(20_000); offset < 200_000; offset += 20_000 {
				if err := faulty.Flip(ctx, st, pack, offset, 4); err != nil {
					t.Fatal(err)
				}
			}
			if err := checkBackup(s, first.Label, tree); err == nil {
				t.Fatal("the damage has no effect: the test proves nothing")
			}
			w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage, Uploads: 2})
			if err != nil {
				t.Fatal(err)
			}
			if err := tree.write(ctx, w); err != nil {
				t.Fatal(err)
			}
			second, err := w.Commit(BackupHeader{Timeline: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := checkBackup(s, second.Label, tree); err != nil {
				t.Errorf("the second full backup rests on damaged content: %v", err)
			}
			if w.Totals().ReusedBytes == 0 {
				t.Error("nothing was shared, though most frames are whole")
			}
			if err := w.Parent().Err(); err == nil || !strings.Contains(err.Error(), pack) {
				t.Errorf("the damaged pack is not named: %v", err)
			}
		})
	}
}

func TestDiscardGivesRoomBackAndNothingElse(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	tree := makeTree(1)
	first := tree.store(t, s)
	before := allKeys(t, st)
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	if err := makeTree(2).write(ctx, w); err != nil {
		t.Fatal(err)
	}
	if err := w.closePack(); err != nil {
		t.Fatal(err)
	}
	if err := w.Discard(ctx); err != nil {
		t.Fatal(err)
	}
	if after := allKeys(t, st); !slices.Equal(before, after) {
		t.Errorf("objects\n%q\nwant\n%q", after, before)
	}
	if err := checkBackup(s, first.Label, tree); err != nil {
		t.Error(err)
	}
}

func allKeys(t *testing.T, st storage.Store) []string {
	t.Helper()
	var keys []string
	for obj, err := range st.List(context.Background(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, obj.Key)
	}
	return keys
}
