package mem_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return mem.New() })
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	ctx := context.Background()
	a := mem.New()
	put := func(st storage.Store, key, content string) {
		t.Helper()
		if err := st.Put(ctx, key, storage.Bytes([]byte(content)), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(st storage.Store, key string) string {
		t.Helper()
		b, err := storage.ReadAll(ctx, st, key, 100)
		if errors.Is(err, storage.ErrNotExist) {
			return "(absent)"
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put(a, "both", "before")
	put(a, "deleted", "before")
	b := a.Clone()
	put(a, "both", "a")
	put(b, "only-b", "b")
	if err := a.Delete(ctx, "deleted"); err != nil {
		t.Fatal(err)
	}
	if got := [...]string{read(b, "both"), read(b, "deleted"), read(a, "only-b"), read(a, "both")}; got != [...]string{"before", "before", "(absent)", "a"} {
		t.Errorf("after the clone: %q", got)
	}
}
