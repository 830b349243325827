package repo

import (
	"context"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/lookfirst"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestARepositoryWithoutConditionalPutsLooksFirst: what init found out decides,
// whatever the store says of itself later.
func TestARepositoryWithoutConditionalPutsLooksFirst(t *testing.T) {
	ctx := context.Background()
	for _, conditional := range []bool{true, false} {
		st := faulty.New(mem.New(), nil, nil)
		s := testRepository(t, st, "")
		c := s.repo.config
		if !c.ConditionalPut {
			t.Fatal("init has not found out")
		}
		c.ConditionalPut = conditional
		if err := putDocument(ctx, st, configKey, configFormat, c, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStanza(ctx, st, Options{Clock: testClock()}, "main")
		if err != nil {
			t.Fatal(err)
		}
		if _, looks := s.repo.store.(lookfirst.Store); looks == conditional {
			t.Errorf("conditional puts %v: the store is a %T", conditional, s.repo.store)
		}
		tree := makeTree(1)
		if err := checkBackup(s, tree.store(t, s).Label, tree); err != nil {
			t.Errorf("conditional puts %v: %v", conditional, err)
		}
	}
}
