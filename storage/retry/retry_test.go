package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/conformance"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/retry"
	"github.com/pgbak/pgbak/storage/storagetest"
)

var ifAbsent = storage.PutOptions{IfAbsent: true}

// fakeTime is a clock that only sleeping moves.
type fakeTime struct {
	mu     sync.Mutex
	now    time.Time
	pauses []time.Duration
}

func (f *fakeTime) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeTime) sleep(ctx context.Context, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	f.pauses = append(f.pauses, d)
	return context.Cause(ctx)
}

// policy is one of a few quick attempts.
func policy() (retry.Policy, *fakeTime) {
	f := &fakeTime{now: time.Unix(1_800_000_000, 0)}
	return retry.Policy{Attempts: 4, Time: time.Hour, First: time.Second, Most: 10 * time.Second, Clock: f.clock, Sleep: f.sleep}, f
}

func quick() retry.Policy {
	p, _ := policy()
	return p
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return retry.New(mem.New(), quick()) })
}

func TestPromisesAreKeptWhileAThirdOfOperationsFails(t *testing.T) {
	// See Get: a reader that resumes takes it that the object is the same.
	const except = "a reader during replacing puts"
	excepted := 0
	for _, after := range []bool{false, true} {
		for _, c := range conformance.Checks() {
			if strings.HasPrefix(c.Name, except) {
				excepted++
				continue
			}
			hook := oneInThree(1)
			st := faulty.New(mem.New(), hook, nil)
			if after {
				st = faulty.New(mem.New(), nil, hook)
			}
			p := quick()
			p.Attempts = 100
			if err := c.Try(t.Context(), retry.New(st, p), "x/"); err != nil {
				t.Errorf("after their effect: %v: %s: %v", after, c.Name, err)
			}
			if !st.Fired() {
				t.Errorf("nothing failed during %q", c.Name)
			}
		}
	}
	if excepted != 2 {
		t.Errorf("%d checks were left out", excepted)
	}
}

// oneInThree fails operations at random.
func oneInThree(seed uint64) faulty.Hook {
	random := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	return faulty.Transient(func(context.Context, faulty.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(3) == 0 {
			return faulty.ErrInjected
		}
		return nil
	})
}

// ranges of an object of 100 bytes, read by program.
var ranges = []storage.Range{
	{}, {Length: 100}, {Length: 200}, {Offset: 10}, {Offset: 10, Length: 20}, {Offset: 99, Length: 1}, {Offset: 100}, {Offset: 100, Length: 3},
	{Offset: -1}, {Offset: -30}, {Offset: -30, Length: 20}, {Offset: -100}, {Offset: -500}, {Offset: -500, Length: 70}, {Offset: -1 << 63, Length: 10},
}

func selected(b []byte, r storage.Range) []byte {
	from := min(r.Offset, int64(len(b)))
	if from < 0 {
		from = max(0, int64(len(b))+from)
	}
	b = b[from:]
	if r.Length > 0 {
		b = b[:min(r.Length, int64(len(b)))]
	}
	return b
}

// program uses every operation and fails when an answer is not right.
func program(ctx context.Context, st storage.Store) error {
	content := make([]byte, 100)
	for i := range content {
		content[i] = byte(i)
	}
	var want []string
	for i, o := range []storage.PutOptions{{}, ifAbsent, ifAbsent, {}, {}} {
		key := fmt.Sprint("dir/", i)
		want = append(want, key)
		if err := st.Put(ctx, key, storage.Bytes(content), o); err != nil {
			return err
		}
	}
	if err := st.Put(ctx, "dir/1", storage.Bytes(content[:50]), ifAbsent); !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("put-if-absent of a taken key: %w", err)
	}
	for _, r := range ranges {
		body, err := st.Get(ctx, "dir/2", r)
		if err != nil {
			return err
		}
		var got bytes.Buffer
		_, err = io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{body}, make([]byte, 7))
		if err = errors.Join(err, body.Close()); err != nil || !bytes.Equal(got.Bytes(), selected(content, r)) {
			return fmt.Errorf("get of %+v gave %d bytes %x: %w", r, got.Len(), got.Bytes(), err)
		}
	}
	if o, err := st.Stat(ctx, "dir/3"); err != nil || o.Size != 100 {
		return fmt.Errorf("stat gave %v: %w", o, err)
	}
	var keys []string
	for o, err := range st.List(ctx, "dir/", "") {
		if err != nil {
			return err
		}
		keys = append(keys, o.Key)
	}
	if !slices.Equal(keys, want) {
		return fmt.Errorf("list gave %q", keys)
	}
	if _, err := st.Stat(ctx, "none"); !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("stat of an absent key: %w", err)
	}
	return st.Delete(ctx, want...)
}

// The law: whatever single operation fails, with or without its effect, nobody notices.
func TestOneFaultIsNotNoticed(t *testing.T) {
	for name, make := range map[string]func(storage.Store, faulty.Hook) *faulty.Store{
		"without effect": func(st storage.Store, h faulty.Hook) *faulty.Store { return faulty.New(st, h, nil) },
		"answer lost":    func(st storage.Store, h faulty.Hook) *faulty.Store { return faulty.New(st, nil, h) },
	} {
		t.Run(name, func(t *testing.T) {
			n := 1
			for ; ; n++ {
				st := make(mem.New(), faulty.Transient(faulty.Nth(n)))
				notified := 0
				p := quick()
				p.Notify = func(r retry.Retry) {
					notified++
					if r.Attempt != 1 || !errors.Is(r.Err, faulty.ErrInjected) || r.What == "" {
						t.Errorf("n=%d: notified of %+v", n, r)
					}
				}
				if err := program(t.Context(), retry.New(st, p)); err != nil {
					t.Errorf("n=%d, %v: %v", n, st.Trace()[min(n, len(st.Trace()))-1], err)
				}
				if n > len(st.Trace()) {
					break
				}
				if !st.Fired() {
					continue // an operation that fails by itself has no answer to lose
				}
				// A fault after all bytes have come needs no further request.
				if op := st.Trace()[n-1]; notified == 0 && !strings.HasPrefix(op, "read") {
					t.Errorf("n=%d: nobody was told of the retry of %s", n, op)
				}
			}
			if n < 150 {
				t.Errorf("the program has only %d operations", n)
			}
		})
	}
}

func TestPermanentErrorsAreNotTriedAgain(t *testing.T) {
	for n := 1; ; n++ {
		st := faulty.FailNth(mem.New(), n)
		p, f := policy()
		err := program(t.Context(), retry.New(st, p))
		if !st.Fired() {
			break
		}
		if !errors.Is(err, faulty.ErrInjected) || len(f.pauses) > 0 || strings.Contains(err.Error(), "attempt") {
			t.Errorf("n=%d: %v after pauses %v", n, err, f.pauses)
		}
	}
}

func TestOfWritersWithDifferentContentsExactlyOneSucceeds(t *testing.T) {
	readBack := 0
	for seed := range uint64(400) {
		hook := oneInThree(seed)
		inner := mem.New()
		st := faulty.New(inner, hook, hook)
		p := quick()
		p.Attempts = 1000
		over := retry.New(st, p)
		const writers = 3
		contents := [writers]string{"one", "two", "one and more"}
		var wins atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for _, content := range contents {
			wg.Go(func() {
				err := over.Put(t.Context(), "key", storage.Bytes([]byte(content)), ifAbsent)
				if err == nil {
					wins.Add(1)
					winner.Store(content)
				} else if !errors.Is(err, storage.ErrExist) {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
		}
		wg.Wait()
		got, err := storage.ReadAll(t.Context(), inner, "key", 100)
		if wins.Load() != 1 || err != nil || string(got) != winner.Load() {
			t.Errorf("seed %d: %d writers won, %v among them; stored is %q, %v", seed, wins.Load(), winner.Load(), got, err)
		}
		readBack += strings.Count(strings.Join(st.Trace(), "\n"), "get key")
	}
	if readBack < 100 {
		t.Errorf("objects were read back only %d times", readBack)
	}
}

func TestWhatALaterErrExistMeans(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 50_000) // more than one piece of a comparison
	changed := slices.Clone(large)
	changed[len(changed)-1]++
	for _, tt := range []struct {
		title         string
		stored, mine  []byte
		secondAttempt bool
		want          error
	}{
		{"the same content is success", large, large, true, nil},
		{"another last byte is another object", changed, large, true, storage.ErrExist},
		{"a shorter one is another object", large[:len(large)-1], large, true, storage.ErrExist},
		{"a longer one is another object", append(slices.Clone(large), 0), large, true, storage.ErrExist},
		{"an empty one is another object", nil, large, true, storage.ErrExist},
		{"an empty one is that of an empty source", nil, nil, true, nil},
		{"what is there is another object than an empty one", large, nil, true, storage.ErrExist},
		{"the first attempt takes nothing for its own", large, large, false, storage.ErrExist},
	} {
		t.Run(tt.title, func(t *testing.T) {
			inner := mem.New()
			if err := inner.Put(t.Context(), "key", storage.Bytes(tt.stored), ifAbsent); err != nil {
				t.Fatal(err)
			}
			hook := faulty.Transient(faulty.Nth(1))
			if !tt.secondAttempt {
				hook = nil
			}
			st := faulty.New(inner, hook, nil)
			err := retry.New(st, quick()).Put(t.Context(), "key", storage.Bytes(tt.mine), ifAbsent)
			if !errors.Is(err, tt.want) {
				t.Errorf("put gave %v, want %v", err, tt.want)
			}
			if read := slices.Contains(st.Trace(), "get key"); read != tt.secondAttempt {
				t.Errorf("operations: %q", st.Trace())
			}
			if got, err := storage.ReadAll(t.Context(), inner, "key", 1<<20); err != nil || !bytes.Equal(got, tt.stored) {
				t.Errorf("the object has changed, %v", err)
			}
		})
	}
}

func TestWhatCannotBeComparedIsNeitherSuccessNorErrExist(t *testing.T) {
	for name, fault := range map[string]error{"permanent": errors.New("forbidden"), "transient": storage.ErrTransient} {
		t.Run(name, func(t *testing.T) {
			inner := mem.New()
			st := faulty.New(inner, func(_ context.Context, op faulty.Op) error {
				if op.Name == faulty.OpGet {
					return fault
				}
				return nil
			}, faulty.Transient(faulty.Nth(1)))
			p, f := policy()
			err := retry.New(st, p).Put(t.Context(), "key", storage.Bytes([]byte("x")), ifAbsent)
			if err == nil || errors.Is(err, storage.ErrExist) || !errors.Is(err, fault) || !strings.Contains(err.Error(), "may have stored it") {
				t.Errorf("put gave %v", err)
			}
			want := 2 // puts
			gets := strings.Count(strings.Join(st.Trace(), "\n"), "get key")
			if puts := len(st.Trace()) - gets; puts != want {
				t.Errorf("%d puts, want %d: %q", puts, want, st.Trace())
			}
			if wantGets := map[string]int{"permanent": 1, "transient": 4}[name]; gets != wantGets || len(f.pauses) != wantGets {
				t.Errorf("%d gets and %d pauses, want %d", gets, len(f.pauses), wantGets)
			}
		})
	}
}

func TestAPutTriesAgainWhenTheOtherObjectHasGone(t *testing.T) {
	inner := mem.New()
	_ = inner.Put(t.Context(), "key", storage.Bytes([]byte("other")), ifAbsent)
	st := faulty.New(inner, func(ctx context.Context, op faulty.Op) error {
		if op.N == 1 {
			return storage.ErrTransient
		}
		if op.Name == faulty.OpGet {
			return inner.Delete(ctx, "key")
		}
		return nil
	}, nil)
	if err := retry.New(st, quick()).Put(t.Context(), "key", storage.Bytes([]byte("mine")), ifAbsent); err != nil {
		t.Error(err)
	}
	if got, err := storage.ReadAll(t.Context(), inner, "key", 100); string(got) != "mine" || err != nil {
		t.Errorf("stored is %q, %v", got, err)
	}
}

func TestAListIsResumedAtEveryKey(t *testing.T) {
	inner := mem.New()
	var want []string
	for i := range 20 {
		key := fmt.Sprintf("k/%02d", i)
		want = append(want, key)
		_ = inner.Put(t.Context(), key, storage.Bytes(nil), storage.PutOptions{})
	}
	// Each pass gives one key and then breaks; the last has nothing left to break.
	pass := 0
	st := retry.New(breakingList{inner, func() int { pass++; return 1 }}, quick())
	var keys []string
	for o, err := range st.List(t.Context(), "k/", "") {
		if err != nil {
			t.Fatal(err) // every pass made progress: more than 4 in all are allowed
		}
		keys = append(keys, o.Key)
	}
	if !slices.Equal(keys, want) || pass != 20 {
		t.Errorf("%d passes gave %q", pass, keys)
	}
	// Without progress it ends.
	pass = 0
	st = retry.New(breakingList{inner, func() int { pass++; return max(0, 4-pass*pass) }}, quick())
	keys = nil
	var fault error
	for o, err := range st.List(t.Context(), "k/", "") {
		if fault = err; err == nil {
			keys = append(keys, o.Key)
		}
	}
	if !slices.Equal(keys, want[:3]) || !errors.Is(fault, storage.ErrTransient) || !strings.Contains(fmt.Sprint(fault), "after 4 attempts") || pass != 4 {
		t.Errorf("%d passes gave %q and %v", pass, keys, fault)
	}
}

// breakingList breaks each list after some keys.
type breakingList struct {
	*mem.Store
	after func() int
}

func (b breakingList) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		left := b.after()
		for o, err := range b.Store.List(ctx, prefix, after) {
			if left == 0 {
				yield(storage.Object{}, fmt.Errorf("page lost: %w", storage.ErrTransient))
				return
			}
			left--
			if !yield(o, err) {
				return
			}
		}
	}
}

func TestAReaderThatBringsBytesIsNotGivenUp(t *testing.T) {
	inner := mem.New()
	content := []byte(strings.Repeat("abcdefg", 30))
	_ = inner.Put(t.Context(), "key", storage.Bytes(content), ifAbsent)
	reads := 0
	st := faulty.New(inner, faulty.Transient(func(_ context.Context, op faulty.Op) error {
		if op.Name == faulty.OpRead {
			if reads++; reads%4 < 2 { // two faults, then twice bytes
				return faulty.ErrInjected
			}
		}
		return nil
	}), nil)
	body, err := retry.New(st, quick()).Get(t.Context(), "key", storage.Range{Offset: 1})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 5)
	for {
		n, err := body.Read(buf)
		got = append(got, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, content[1:]) {
		t.Errorf("read %q", got)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := body.Read(buf); err == nil || err == io.EOF {
		t.Errorf("a read after close gave %v", err)
	}
}

func TestAFaultAfterTheLastByteNeedsNoRequest(t *testing.T) {
	for r, want := range map[storage.Range]int{
		{Length: 100}: 1, {Offset: 40, Length: 60}: 1, {Offset: -100}: 1, {Offset: -30, Length: 20}: 1,
		{}: 2, {Length: 101}: 2, {Offset: -101}: 2, // may go on
	} {
		inner := mem.New()
		_ = inner.Put(t.Context(), "key", storage.Bytes(make([]byte, 100)), ifAbsent)
		st := faulty.New(inner, faulty.Transient(faulty.Nth(3)), nil) // get, read, read
		b, err := storage.ReadAll(t.Context(), onlyRange{retry.New(st, quick()), r}, "key", 1000)
		if err != nil || len(b) != len(selected(make([]byte, 100), r)) || !st.Fired() {
			t.Errorf("%+v: read %d bytes, %v", r, len(b), err)
		}
		if gets := strings.Count(strings.Join(st.Trace(), "\n"), "get key"); gets != want {
			t.Errorf("%+v: %d gets, want %d", r, gets, want)
		}
	}
}

// onlyRange gets the same range whatever it is asked for.
type onlyRange struct {
	storage.Store
	r storage.Range
}

func (o onlyRange) Get(ctx context.Context, key string, _ storage.Range) (io.ReadCloser, error) {
	return o.Store.Get(ctx, key, o.r)
}

func TestAnObjectThatBecomesShorterIsNoEnd(t *testing.T) {
	for _, r := range []storage.Range{{}, {Length: 80}, {Offset: 5}, {Offset: -90}, {Offset: -90, Length: 80}} {
		for _, left := range []int{0, 3, 20} {
			inner := mem.New()
			_ = inner.Put(t.Context(), "key", storage.Bytes(make([]byte, 100)), ifAbsent)
			st := faulty.New(inner, faulty.Transient(func(ctx context.Context, op faulty.Op) error {
				if op.Name == faulty.OpRead && op.N == 3 {
					_ = inner.Put(ctx, "key", storage.Bytes(make([]byte, left)), storage.PutOptions{})
					return faulty.ErrInjected
				}
				return nil
			}), nil)
			body, err := retry.New(st, quick()).Get(t.Context(), "key", r)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 30)
			if _, err := io.ReadFull(body, first); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if n, err := body.Read(first); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, storage.ErrTransient) {
					t.Errorf("%+v, %d bytes left: read %d bytes and %v", r, left, n, err)
				}
			}
			body.Close()
		}
	}
}
