package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// Recovery takes a segment that is not there for the end of WAL. So a plan must
// not go by a mark when something has removed WAL without regard to it.
func TestAPlanDoesNotTrustMarks(t *testing.T) {
	ctx := context.Background()
	st, s := stored(t, cluster(), repo.BackupHeader{})
	key := func(n uint64) string {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n}
		name := f.Name(smallWAL)
		return fmt.Sprintf("wal/%s/%08d/00000001/%s/%s", s.Name(), s.Current().Number, name[8:16], name)
	}
	for n := range uint64(4200) {
		if err := st.Put(ctx, key(n), storage.Bytes(nil), storage.PutOptions{IfAbsent: true}); err != nil && n > 9 {
			t.Fatal(err)
		}
	}
	if m, err := s.MarkWAL(ctx, s.Current()); err != nil || m.Marked != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	plan := func() *Plan {
		t.Helper()
		o := options(s, filepath.Join(t.TempDir(), "data"))
		o.Target = Target{Type: TargetLatest}
		p, err := MakePlan(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	warns := func(p *Plan) bool {
		return slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "that was marked as complete") })
	}
	if p := plan(); p.WAL.Last != "000000010000000100000067" || warns(p) {
		t.Errorf("whole: up to %s, warnings %q", p.WAL.Last, p.Warnings)
	}
	if err := st.Delete(ctx, key(2000)); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Catalog(ctx); err != nil || len(c.WAL) != 1 {
		t.Fatalf("the catalogue should go by the mark: %v, %v", c.WAL, err)
	}
	if p := plan(); p.WAL.Last != "0000000100000000000007CF" || !warns(p) {
		t.Errorf("with a hole: up to %s, warnings %q", p.WAL.Last, p.Warnings)
	}
}
