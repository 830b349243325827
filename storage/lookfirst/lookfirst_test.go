package lookfirst_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/lookfirst"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return lookfirst.New(unconditional{mem.New()}) })
}

// unconditional does not know IfAbsent, as the stores that this decorator is for.
type unconditional struct{ *mem.Store }

func (u unconditional) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if o.IfAbsent {
		return errors.New("501 not implemented")
	}
	return u.Store.Put(ctx, key, src, o)
}

func TestItSaysThatARaceIsNotHeld(t *testing.T) {
	inner := mem.New()
	p := lookfirst.New(inner).Properties()
	if p.ConditionalPut || p.Location != inner.Properties().Location || !p.CheapReads {
		t.Errorf("properties %+v", p)
	}
}

func TestOnlyAProvenAbsenceIsOne(t *testing.T) {
	trouble := errors.New("forbidden")
	inner := mem.New()
	st := faulty.OnOp(inner, func(op, _ string) error {
		if op == faulty.OpStat {
			return trouble
		}
		return nil
	})
	err := lookfirst.New(st).Put(t.Context(), "a", storage.Bytes(nil), storage.PutOptions{IfAbsent: true})
	if !errors.Is(err, trouble) || errors.Is(err, storage.ErrExist) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("put gave %v", err)
	}
	if _, err := inner.Stat(t.Context(), "a"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("it was put: %v", err)
	}
}
