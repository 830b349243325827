package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/metrics"
	"github.com/pgbak/pgbak/storage/storagetest"
)

// ticking is a clock that goes on by a millisecond whenever it is asked.
func ticking() func() time.Time {
	var mu sync.Mutex
	now := time.Unix(1_800_000_000, 0)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Millisecond)
		return now
	}
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return metrics.New(mem.New(), ticking()) })
}

func TestCounts(t *testing.T) {
	ctx := t.Context()
	var next error
	inner := faulty.New(mem.New(), func(context.Context, faulty.Op) error {
		err := next
		next = nil
		return err
	}, nil)
	st := metrics.New(inner, ticking())
	if got := st.Snapshot().String(); got != "no operations" {
		t.Errorf("at first: %s", got)
	}
	content := make([]byte, 1_250_000)
	put := func(key string, o storage.PutOptions, fault error) {
		t.Helper()
		next = fault
		if err := st.Put(ctx, key, storage.Bytes(content), o); fault != nil && !errors.Is(err, fault) {
			t.Errorf("put gave %v", err)
		}
	}
	transient := fmt.Errorf("lost: %w", storage.ErrTransient)
	put("a", storage.PutOptions{}, nil)
	put("a", storage.PutOptions{IfAbsent: true}, nil)
	put("b", storage.PutOptions{}, transient)
	put("b", storage.PutOptions{}, fmt.Errorf("slow down: %w: %w", storage.ErrThrottled, storage.ErrTransient))
	put("b", storage.PutOptions{}, errors.New("forbidden"))
	put("b", storage.PutOptions{}, nil)

	body, err := st.Get(ctx, "a", storage.Range{Length: 100})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 60)
	_, _ = io.ReadFull(body, buf)
	if got := st.Snapshot().Get; got != (metrics.Operation{}) {
		t.Errorf("before it is closed, a get counts as %+v", got)
	}
	next = transient
	if _, err := body.Read(buf); !errors.Is(err, transient) {
		t.Errorf("read gave %v", err)
	}
	body.Close()
	body.Close()
	if _, err := st.Get(ctx, "none", storage.Range{}); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
	_, _ = st.Stat(ctx, "none")
	for range st.List(ctx, "", "") {
		break
	}
	next = transient
	for range st.List(ctx, "", "") {
	}
	_ = st.Delete(ctx, "a")
	want := metrics.Snapshot{
		Put:    metrics.Operation{Calls: 6, Bytes: 2_500_000, Exists: 1, Transient: 1, Throttled: 1, Other: 1, Time: 6e6, Longest: 1e6},
		Get:    metrics.Operation{Calls: 2, Bytes: 60, Absent: 1, Transient: 1, Time: 2e6, Longest: 1e6},
		Stat:   metrics.Operation{Calls: 1, Absent: 1, Time: 1e6, Longest: 1e6},
		List:   metrics.Operation{Calls: 2, Transient: 1, Time: 2e6, Longest: 1e6},
		Delete: metrics.Operation{Calls: 1, Time: 1e6, Longest: 1e6},
	}
	if got := st.Snapshot(); got != want {
		t.Errorf("counted %+v\n   want %+v", got, want)
	}
	line := "put 6 (2.5 MB, 1 taken, 3 errors, 1 throttled, longest 1ms), get 2 (0.0 MB, 1 absent, 1 errors, longest 1ms), " +
		"stat 1 (1 absent, longest 1ms), list 2 (1 errors, longest 1ms), delete 1 (longest 1ms)"
	if got := st.Snapshot().String(); got != line {
		t.Errorf("line is\n%s, want\n%s", got, line)
	}
	if got, _ := json.Marshal(want.Stat); string(got) != `{"calls":1,"absent":1,"time_ns":1000000,"longest_ns":1000000}` {
		t.Errorf("JSON is %s", got)
	}
}

func TestCountsOfManyGoroutinesAreComplete(t *testing.T) {
	st := metrics.New(mem.New(), ticking())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				_ = st.Put(t.Context(), fmt.Sprint(i), storage.Bytes(make([]byte, 10)), storage.PutOptions{})
				_, _ = storage.ReadAll(t.Context(), st, fmt.Sprint(i), 100)
				st.Snapshot()
			}
		})
	}
	wg.Wait()
	if got := st.Snapshot(); got.Put.Calls != 800 || got.Put.Bytes != 8000 || got.Get.Calls != 800 || got.Get.Bytes != 8000 {
		t.Errorf("counted %+v", got)
	}
}
