package repo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestCreateRefusesARepositoryThatHasLostItsConfiguration(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	makeTree(1).store(t, s)
	if err := st.Delete(ctx, configKey); err != nil {
		t.Fatal(err)
	}
	_, err := Create(ctx, st, Options{Clock: testClock()})
	if err == nil || !strings.Contains(err.Error(), "has lost its pgbak-repository.json") || hint.Of(err) == "" {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if _, err := st.Stat(ctx, configKey); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a configuration was written: %v", err)
	}
}

func TestADamagedPinDoesNotStopABackup(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	if err := st.Put(ctx, pinsPrefix+"01ARZ3NDEKTSV4RRFFQ69G5FAV", storage.Bytes([]byte("torn")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	tree := makeTree(1)
	if err := checkBackup(s, tree.store(t, s).Label, tree); err != nil {
		t.Error(err)
	}
	if _, err := s.Pins(ctx); !errors.Is(err, ErrDamaged) {
		t.Errorf("the damaged pin is not reported to who wants to delete: %v", err)
	}
}
