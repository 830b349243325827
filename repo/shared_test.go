package repo

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestABackupDoesNotInheritWhatIsLost: what an incremental backup keeps it does
// not read; so it looks at least whether it is there.
func TestABackupDoesNotInheritWhatIsLost(t *testing.T) {
	ctx := context.Background()
	for _, what := range []string{"packs/", "maps/"} {
		st := mem.New()
		s := testRepository(t, st, "")
		content := randomPages(rand.New(rand.NewPCG(1, 2)), 100)
		patchedBackup(t, s, Full, content, func(int) bool { return true }, false)
		patchedBackup(t, s, Incremental, content, func(page int) bool { return page == 7 }, false)
		var lost string
		for obj, err := range st.List(ctx, what, "") {
			if err != nil {
				t.Fatal(err)
			}
			lost = obj.Key // of the incremental: page 7, and the map
		}
		w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Incremental, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		parent := w.Parent().Find(ctx, patchedFile)
		if err := w.AddUnchanged(parent.File(), parent); err != nil {
			t.Fatal(err)
		}
		if err := st.Delete(ctx, lost); err != nil {
			t.Fatal(err)
		}
		_, err = w.Commit(BackupHeader{})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), lost) || !strings.HasPrefix(hint.Of(err), "take a full backup") {
			t.Errorf("%s is lost: %v, hint %q", lost, err, hint.Of(err))
		}
		label := patchedBackup(t, testRepositoryAgain(t, st), Full, content, func(int) bool { return true }, false)
		b, err := s.OpenBackup(ctx, label)
		if err != nil {
			t.Fatal(err)
		}
		for f, err := range b.Files(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if got, err := readFile(ctx, b, f); err != nil || string(got) != string(content) {
				t.Errorf("the full backup after it: %v", err)
			}
		}
	}
}
