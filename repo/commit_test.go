package repo

import (
	"context"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestAStorageThatIsLostIsToldOnce loses it while the last pack and the last
// maps are on their way: the pack fails, and the maps are given up because of that.
func TestAStorageThatIsLostIsToldOnce(t *testing.T) {
	st := faulty.New(mem.New(), func(ctx context.Context, op faulty.Op) error {
		switch {
		case op.Name != faulty.OpPutIfAbsent:
		case strings.HasPrefix(op.Key, "packs/"):
			return faulty.ErrInjected
		case strings.HasPrefix(op.Key, "maps/"):
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}, nil)
	s := testRepository(t, st, "")
	w, err := s.BeginBackup(t.Context(), s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	if err := makeTree(1).write(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	_, err = w.Commit(BackupHeader{})
	if err == nil || strings.Count(err.Error(), faulty.ErrInjected.Error()) != 1 {
		t.Errorf("error %v", err)
	}
	w.Abort()
}
