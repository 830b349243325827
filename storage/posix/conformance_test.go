package posix

import (
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/storagetest"
)

func TestConformance(t *testing.T) {
	for _, d := range drafts {
		t.Run(d.title, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Store { return openTest(t, t.TempDir(), d.named) })
		})
	}
}

// drafts are the two ways in which a Put can write, see newDraft.
var drafts = []struct {
	title string
	named bool
}{
	{"drafts without names", false},
	{"drafts with temporary names", true},
}

// openTest opens the Store in root and closes it after the test.
func openTest(t *testing.T, root string, named bool) *Store {
	t.Helper()
	st, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if st.named.Load() {
		t.Error("this test needs Linux with /proc to see both ways of writing")
	}
	st.named.Store(named)
	return st
}
