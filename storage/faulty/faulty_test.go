package faulty_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/storagetest"
)

func TestWithoutFaultsItIsAStoreLikeOthers(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return faulty.New(mem.New(), nil, nil) })
}

// program does each operation once and tells the step that failed.
func program(ctx context.Context, st storage.Store) (step string, err error) {
	if err := st.Put(ctx, "a", storage.Bytes([]byte("0123456789")), storage.PutOptions{}); err != nil {
		return "put", err
	}
	if err := st.Put(ctx, "dir/b", storage.Bytes([]byte("b")), storage.PutOptions{IfAbsent: true}); err != nil {
		return "put-if-absent", err
	}
	if b, err := storage.ReadRange(ctx, st, "a", 0, 10); err != nil || string(b) != "0123456789" {
		return "read", err
	}
	if _, err := st.Stat(ctx, "a"); err != nil {
		return "stat", err
	}
	for _, err := range st.List(ctx, "dir/", "") {
		if err != nil {
			return "list", err
		}
	}
	return "delete", st.Delete(ctx, "a", "dir/b")
}

var wantTrace = []string{"put a", "put-if-absent dir/b", "get a", "read a", "stat a", "list dir/", "delete a dir/b"}

// steps are what program says when the operation of that number fails.
var steps = []string{"put", "put-if-absent", "read", "read", "stat", "list", "delete"}

func keys(t *testing.T, st storage.Store) string {
	t.Helper()
	var found []string
	for o, err := range st.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, o.Key)
	}
	return strings.Join(found, " ")
}

func TestTrace(t *testing.T) {
	st := faulty.New(mem.New(), nil, nil)
	if step, err := program(t.Context(), st); err != nil {
		t.Fatal(step, err)
	}
	if got := st.Trace(); !slices.Equal(got, wantTrace) {
		t.Errorf("trace is %q, want %q", got, wantTrace)
	}
	if st.Fired() {
		t.Error("something fired")
	}
}

func TestFaults(t *testing.T) {
	// What the inner store has when the operation of that number was the last
	// one with an effect; the last is delete.
	left := []string{"", "a", "a dir/b", "a dir/b", "a dir/b", "a dir/b", "a dir/b", ""}
	tests := []struct {
		title  string
		faulty func(storage.Store, int) *faulty.Store
		effect int // 1 if the n-th operation has its effect
	}{
		{"the n-th fails and has no effect", faulty.FailNth, 0},
		{"the n-th has its effect and fails", faulty.FailNthAfter, 1},
		{"from the n-th on all fail", func(st storage.Store, n int) *faulty.Store { return faulty.CrashAfter(st, n-1) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			for n := 1; n <= len(wantTrace)+1; n++ {
				inner := mem.New()
				st := tt.faulty(inner, n)
				step, err := program(t.Context(), st)
				if n > len(wantTrace) {
					if err != nil || st.Fired() {
						t.Errorf("a fault at %d of %d operations: %v", n, len(wantTrace), err)
					}
					continue
				}
				if !errors.Is(err, faulty.ErrInjected) || step != steps[n-1] || !st.Fired() || !strings.Contains(err.Error(), wantTrace[n-1]) {
					t.Errorf("n=%d: %q failed with %v, want %q naming %q", n, step, err, steps[n-1], wantTrace[n-1])
				}
				if got := keys(t, inner); got != left[n-1+tt.effect] {
					t.Errorf("n=%d: the inner store has %q, want %q", n, got, left[n-1+tt.effect])
				}
				if st.Inner() != storage.Store(inner) {
					t.Error("Inner is another store")
				}
			}
		})
	}
}

func TestAfterACrashNothingWorks(t *testing.T) {
	inner := mem.New()
	st := faulty.CrashAfter(inner, 2)
	_, _ = program(t.Context(), st)
	for range 2 {
		if step, err := program(t.Context(), st); step != "put" || !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("after the crash, %q failed with %v", step, err)
		}
	}
	if got := keys(t, inner); got != "a dir/b" {
		t.Errorf("the inner store has %q", got)
	}
	other := faulty.FailNth(inner, 1)
	_, _ = program(t.Context(), other)
	if err := other.Put(t.Context(), "c", storage.Bytes(nil), storage.PutOptions{}); err != nil {
		t.Errorf("FailNth fails more than one operation: %v", err)
	}
}

func TestTear(t *testing.T) {
	for n, want := range []string{"0123456789 b", "01234 b", "0123456789 ", "0123456789 b"} {
		inner := mem.New()
		st := faulty.Tear(inner, n)
		for key, content := range map[string]string{"a": "0123456789"} {
			if err := st.Put(t.Context(), key, storage.Bytes([]byte(content)), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Put(t.Context(), "b", storage.Bytes([]byte("b")), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		a, errA := storage.ReadAll(t.Context(), inner, "a", 100)
		b, errB := storage.ReadAll(t.Context(), inner, "b", 100)
		if got := string(a) + " " + string(b); got != want || errA != nil || errB != nil {
			t.Errorf("with put %d torn there is %q, want %q", n, got, want)
		}
		if fired := n == 1 || n == 2; st.Fired() != fired {
			t.Errorf("n=%d: fired is %v", n, st.Fired())
		}
	}
}

func TestDelay(t *testing.T) {
	st := faulty.Delay(mem.New(), time.Millisecond)
	start := time.Now()
	if step, err := program(t.Context(), st); err != nil {
		t.Fatal(step, err)
	}
	if took := time.Since(start); took < time.Duration(len(wantTrace))*time.Millisecond {
		t.Errorf("%d operations took only %v", len(wantTrace), took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := faulty.Delay(mem.New(), time.Hour).Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a delay longer than its context gave %v", err)
	}
}

func TestOnOp(t *testing.T) {
	trouble := errors.New("trouble")
	st := faulty.OnOp(mem.New(), func(op, key string) error {
		if op == faulty.OpStat && key == "a" {
			return trouble
		}
		return nil
	})
	if step, err := program(t.Context(), st); step != "stat" || !errors.Is(err, trouble) || !st.Fired() {
		t.Errorf("%q failed with %v", step, err)
	}
}

func TestDamage(t *testing.T) {
	ctx := t.Context()
	tests := []struct {
		title  string
		damage func(storage.Store) error
		want   string // "" for an error that changes nothing
	}{
		{"flip a bit", func(st storage.Store) error { return faulty.Flip(ctx, st, "a", 1, 1) }, "0023"},
		{"flip the last byte", func(st storage.Store) error { return faulty.Flip(ctx, st, "a", -1, 0xff) }, "012\xcc"},
		{"flip beyond the end", func(st storage.Store) error { return faulty.Flip(ctx, st, "a", 4, 1) }, ""},
		{"flip before the start", func(st storage.Store) error { return faulty.Flip(ctx, st, "a", -5, 1) }, ""},
		{"flip nothing", func(st storage.Store) error { return faulty.Flip(ctx, st, "a", 0, 0) }, ""},
		{"flip in an absent object", func(st storage.Store) error { return faulty.Flip(ctx, st, "b", 0, 1) }, ""},
		{"truncate to a size", func(st storage.Store) error { return faulty.Truncate(ctx, st, "a", 3) }, "012"},
		{"truncate by a size", func(st storage.Store) error { return faulty.Truncate(ctx, st, "a", -3) }, "0"},
		{"truncate to more than there is", func(st storage.Store) error { return faulty.Truncate(ctx, st, "a", 5) }, ""},
		{"truncate by more than there is", func(st storage.Store) error { return faulty.Truncate(ctx, st, "a", -5) }, ""},
		{"truncate an absent object", func(st storage.Store) error { return faulty.Truncate(ctx, st, "b", 0) }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			st := mem.New()
			if err := st.Put(ctx, "a", storage.Bytes([]byte("0123")), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if err := tt.damage(st); (err != nil) != (want == "") {
				t.Errorf("error %v", err)
			}
			if want == "" {
				want = "0123"
			}
			if got, err := storage.ReadAll(ctx, st, "a", 100); string(got) != want || err != nil {
				t.Errorf("the object is %q, %v, want %q", got, err, want)
			}
		})
	}
	st := mem.New()
	_ = st.Put(ctx, "a", storage.Bytes(nil), storage.PutOptions{})
	if err := faulty.Truncate(ctx, st, "a", 0); err != nil {
		t.Errorf("truncate of nothing to nothing: %v", err)
	}
}

func TestTransient(t *testing.T) {
	for n := 1; n <= len(wantTrace)+1; n++ {
		st := faulty.New(mem.New(), faulty.Transient(faulty.Nth(n)), nil)
		_, err := program(t.Context(), st)
		if want := n <= len(wantTrace); errors.Is(err, storage.ErrTransient) != want || errors.Is(err, faulty.ErrInjected) != want || st.Fired() != want {
			t.Errorf("n=%d: %v", n, err)
		}
		if _, err := program(t.Context(), faulty.FailNth(mem.New(), n)); errors.Is(err, storage.ErrTransient) {
			t.Errorf("n=%d: what FailNth makes up may pass: %v", n, err)
		}
	}
}

func TestStale(t *testing.T) {
	for n, want := range []string{"a b c", "a b", "a", ""} {
		st := faulty.Stale(mem.New(), n)
		for _, key := range []string{"a", "b", "c"} {
			if err := st.Put(t.Context(), key, storage.Bytes(nil), storage.PutOptions{IfAbsent: key == "b"}); err != nil {
				t.Fatal(err)
			}
		}
		if st.Fired() {
			t.Error("a put made it fire")
		}
		if got := keys(t, st); got != want || st.Fired() != (n > 0) {
			t.Errorf("n=%d: listed %q and fired is %v, want %q", n, got, st.Fired(), want)
		}
		if _, err := st.Stat(t.Context(), "c"); err != nil {
			t.Errorf("n=%d: stat does not see what list does not: %v", n, err)
		}
		for range n {
			_, _ = st.Stat(t.Context(), "c")
		}
		if got := keys(t, st); got != "a b c" {
			t.Errorf("n=%d: later %q is listed", n, got)
		}
	}
}

func TestDelayNth(t *testing.T) {
	for n := 1; n <= 3; n++ {
		st := faulty.DelayNth(mem.New(), n, 20*time.Millisecond)
		for i := 1; i <= 3; i++ {
			start := time.Now()
			if err := st.Delete(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); i == n && took < 20*time.Millisecond {
				t.Errorf("operation %d of %d took only %v", i, n, took)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := faulty.DelayNth(mem.New(), 1, time.Hour).Delete(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a delay longer than its context gave %v", err)
	}
}
