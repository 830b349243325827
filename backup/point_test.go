package backup

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestARepositoryThatFailsAtWhateverPointLeavesTheOtherABackup fails one of two
// repositories at its n-th operation and from then on, for every n, and the
// other one must not notice. Large files and a parent are part of it.
func TestARepositoryThatFailsAtWhateverPointLeavesTheOtherABackup(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, 1<<20)
	points := 0
	for n := int64(1); ; n++ {
		bad, good := place{"bad", "zstd:1", "", mem.New()}, place{"good", "s2", "", mem.New()}
		inner := bad.store
		if _, err := copyTree(t, root, bad.open(t), good.open(t)); err != nil {
			t.Fatal(err)
		}
		change(t, root, "base/1/2000")
		var counting atomic.Bool
		var count atomic.Int64
		bad.store = faulty.OnOp(inner, func(op, key string) error {
			if counting.Load() && count.Add(1) >= n {
				return faulty.ErrInjected
			}
			return nil
		})
		to := []Repository{bad.open(t), good.open(t)}
		counting.Store(true)
		results, err := copyTree(t, root, to...)
		if len(results) != 2 || results[1].Err != nil {
			t.Fatalf("point %d: results %+v, %v", n, results, err)
		}
		sameAsOnDisk(t, root, to[1].Stanza, results[1].Header.Label)
		if count.Load() < n {
			if err != nil || points < 8 {
				t.Errorf("after %d points: %v", points, err)
			}
			return
		}
		points++
		if results[0].Err == nil { // what is left may be the pin alone, or content of the parent
			again := place{"bad", "zstd:1", "", inner}.open(t)
			sameAsOnDisk(t, root, again.Stanza, results[0].Header.Label)
		} else if !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("point %d: %v", n, err)
		}
	}
}
