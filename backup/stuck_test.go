package backup

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// farStore is a store whose reads are not cheap.
type farStore struct{ storage.Store }

func (f farStore) Properties() storage.Properties {
	p := f.Store.Properties()
	p.CheapReads = false
	return p
}

// TestReadingTheParentOfARepositoryThatFailedHoldsNothingUp lets reads of a
// parent hang, as on a network that is gone, while an upload tells that it is.
func TestReadingTheParentOfARepositoryThatFailedHoldsNothingUp(t *testing.T) {
	for _, hangs := range []string{"packs/", "maps/"} {
		t.Run(hangs, func(t *testing.T) {
			root := t.TempDir()
			makeTree(t, root, 80<<20)
			bad, good := place{"bad", "none", "", mem.New()}, place{"good", "s2", "", mem.New()}
			if _, err := copyTree(t, root, bad.open(t)); err != nil {
				t.Fatal(err)
			}
			for n := 1000; n < 1040; n++ { // so that there is something to upload
				change(t, root, "base/1/"+string([]byte{'1', '0', byte('0' + (n-1000)/10), byte('0' + n%10)}))
			}
			var gone atomic.Bool
			hung := make(chan struct{}, 1000)
			bad.store = farStore{faulty.New(bad.store, func(ctx context.Context, op faulty.Op) error {
				if !gone.Load() {
					return nil
				}
				if op.Name == faulty.OpGet && strings.HasPrefix(op.Key, hangs) {
					hung <- struct{}{}
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return nil
			}, nil)}
			to := []Repository{bad.open(t), good.open(t)}
			gone.Store(true)
			noRoute := errors.New("no route")
			done := make(chan struct{})
			var results []RepositoryResult
			var err error
			go func() {
				defer close(done)
				results, err = copyTreeOf(t, root, func(to *destinations) {
					<-hung
					to.fail(t.Context(), to.all[0], noRoute) // as the writer does when an upload has failed
				}, to...)
			}()
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				t.Fatal("the backup hangs")
			}
			if !errors.Is(err, noRoute) || len(results) != 2 || results[0].Err == nil || results[1].Err != nil {
				t.Fatalf("results %+v, %v", results, err)
			}
			sameAsOnDisk(t, root, to[1].Stanza, results[1].Header.Label)
		})
	}
}
