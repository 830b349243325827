package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
)

// fillOnce is Prefetcher.Fill of the recovery's queue.
func (r *recoveryOf) fillOnce(ctx context.Context, t *testing.T, hook func(op, key string) error) error {
	t.Helper()
	s, err := openStanza(t, r.store)
	if hook != nil {
		s, err = openStanza(t, faulty.OnOp(r.store, hook))
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPrefetcher(r.queue, 2, r.note, takeFrom("local", s, s.Current()))
	if err != nil {
		t.Fatal(err)
	}
	return p.Fill(ctx)
}

// TestTheQueueIsFilledOnceWhereNobodyMayStay has each call fetch ahead before it ends.
func TestTheQueueIsFilledOnceWhereNobodyMayStay(t *testing.T) {
	all := run(1, 1, 12)
	r := newRecovery(t, all...)
	fills := 0
	for i, f := range all {
		g, err := NewGetter(r.source())
		must(t, err)
		fill := func() error { fills++; return r.fillOnce(t.Context(), t, nil) }
		dest := filepath.Join(r.dir, recoveryFile)
		_ = os.Remove(dest)
		got, err := NewPrefetchGetter(g, r.queue, fill).Get(t.Context(), f.Name(segmentSize), dest)
		if err != nil || len(got.Warnings) > 0 || (got.Repository == "") != (i > 0) {
			t.Errorf("%s: %+v, %v", f.Name(segmentSize), got, err)
		}
		if r.queue.isServed() {
			t.Fatal("somebody stays behind")
		}
	}
	for _, f := range all {
		if n := r.gets(f); n != 1 {
			t.Errorf("%s was fetched %d times", f.Name(segmentSize), n)
		}
	}
	if len(r.trouble) > 0 || fills == 0 || fills == len(all) {
		t.Errorf("filled %d times; trouble %v", fills, r.trouble)
	}
}

func TestFillingOnceEndsWithTroubleAndWithItsTime(t *testing.T) {
	r := newRecovery(t, run(1, 1, 4)...)
	r.mustGet(t, walFileOf(1))

	unlock, err := r.queue.lock()
	must(t, err)
	must(t, r.fillOnce(t.Context(), t, nil)) // somebody else is at it
	unlock()
	if n := r.gets(walFileOf(2)); n != 0 {
		t.Errorf("2 was fetched %d times beside somebody else", n)
	}

	must(t, r.fillOnce(t.Context(), t, func(op, key string) error {
		if op == "get" && strings.HasSuffix(key, walFileOf(3).Name(segmentSize)) {
			return errors.New("timeout")
		}
		return nil
	}))
	if len(r.trouble) != 1 || !strings.Contains(r.trouble[0].Error(), "timeout") {
		t.Errorf("trouble %v", r.trouble)
	}

	ctx, cancel := context.WithCancel(t.Context())
	must(t, r.fillOnce(ctx, t, func(op, key string) error {
		if op == "get" && strings.HasPrefix(key, "wal/") {
			cancel() // while it is being fetched
			return context.Cause(ctx)
		}
		return nil
	}))
	if ctx.Err() == nil || len(r.trouble) != 1 {
		t.Errorf("it asked for nothing, or took its end for trouble: %v", r.trouble)
	}
	r.mustGet(t, walFileOf(3))
}

// TestOneRepositoryThatIsAwayKeepsNothingFromTheQueue: the other one has it all.
func TestOneRepositoryThatIsAwayKeepsNothingFromTheQueue(t *testing.T) {
	r := newRecovery(t, run(1, 1, 4)...)
	r.mustGet(t, walFileOf(1))
	away := Source{Name: "away", Open: func(context.Context) (*repo.Stanza, []repo.Identity, error) {
		return nil, nil, errors.New("no route to host")
	}}
	p, err := NewPrefetcher(r.queue, 2, r.note, away, r.source())
	must(t, err)
	must(t, p.Fill(t.Context()))
	r.holds(t, run(1, 2, 4)...)
	if len(r.trouble) == 0 || !strings.Contains(r.trouble[0].Error(), "no route to host") {
		t.Errorf("trouble %v", r.trouble)
	}
}
