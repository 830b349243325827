package limit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/limit"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/storagetest"
)

// fakeTime is a clock that only sleeping moves, to the end of the longest sleep.
type fakeTime struct {
	mu  sync.Mutex
	now time.Time
}

func newTime() *fakeTime { return &fakeTime{now: time.Unix(1_800_000_000, 0)} }

func (f *fakeTime) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeTime) sleep(ctx context.Context, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() == nil {
		f.now = f.now.Add(d)
	}
	return context.Cause(ctx)
}

func (f *fakeTime) took(do func()) time.Duration {
	start := f.clock()
	do()
	return f.clock().Sub(start)
}

func TestConformance(t *testing.T) {
	t.Run("with limits", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store {
			f := newTime()
			return limit.New(mem.New(), limit.Limits{Upload: 1 << 20, Download: 1 << 20, Requests: 100, Clock: f.clock, Sleep: f.sleep})
		})
	})
	t.Run("without", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return limit.New(mem.New(), limit.Limits{}) })
	})
}

// within holds that a time is right to 15 %.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := got.Seconds() / want.Seconds(); d < 0.85 || d > 1.15 {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRates(t *testing.T) {
	ctx := t.Context()
	content := make([]byte, 8<<20)
	for _, perSecond := range []int64{64 << 10, 1 << 20, 3_000_000} {
		f := newTime()
		want := time.Duration(float64(len(content)) / float64(perSecond) * float64(time.Second))
		st := limit.New(mem.New(), limit.Limits{Upload: perSecond, Clock: f.clock, Sleep: f.sleep})
		within(t, "put", f.took(func() { must(t, st.Put(ctx, "a", storage.Bytes(content), storage.PutOptions{})) }), want)
		read := func() { _, err := storage.ReadAll(ctx, st, "a", 10<<20); must(t, err) }
		if took := f.took(read); took != 0 {
			t.Errorf("a limit of uploads held a download back for %v", took)
		}

		inner := mem.New()
		st = limit.New(inner, limit.Limits{Download: perSecond, Clock: f.clock, Sleep: f.sleep})
		if took := f.took(func() { must(t, st.Put(ctx, "a", storage.Bytes(content), storage.PutOptions{})) }); took != 0 {
			t.Errorf("a limit of downloads held an upload back for %v", took)
		}
		within(t, "get", f.took(read), want)
	}
	f := newTime()
	st := limit.New(mem.New(), limit.Limits{Requests: 20, Clock: f.clock, Sleep: f.sleep})
	within(t, "500 operations", f.took(func() {
		for range 100 {
			must(t, st.Put(ctx, "a", storage.Bytes(nil), storage.PutOptions{}))
			_, err := st.Stat(ctx, "a")
			must(t, err)
			body, err := st.Get(ctx, "a", storage.Range{})
			must(t, err)
			body.Close()
			for _, err := range st.List(ctx, "", "") {
				must(t, err)
			}
			must(t, st.Delete(ctx, "a"))
		}
	}), 25*time.Second)
}

func TestARateIsSharedByAllWhoUseTheStore(t *testing.T) {
	st := limit.New(mem.New(), limit.Limits{Upload: 4 << 20}) // by the machine's clock
	start := time.Now()
	var wg sync.WaitGroup
	for _, key := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			if err := st.Put(t.Context(), key, storage.Bytes(make([]byte, 1<<20)), storage.PutOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took < 850*time.Millisecond {
		t.Errorf("4 MiB at 4 MiB/s took %v", took)
	}
}

func TestContentFlowsEvenly(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		perSecond, size, burst int
		pause                  time.Duration
	}{
		{8 * mib, 32 * mib, 8 * mib / 10, 101 * time.Millisecond},
		{256 << 10, mib, 64 << 10, 101 * time.Millisecond},
		{1 << 10, 100 << 10, 64 << 10, 4 * time.Second}, // a server does not take it for dead
	} {
		f := newTime()
		start := f.clock()
		last, sum := start, 0
		st := limit.New(sink{mem.New(), func(n int) {
			now := f.clock()
			sum += n
			if allowed := float64(tt.perSecond)*now.Sub(start).Seconds() + float64(tt.burst) + 1; float64(sum) > allowed {
				t.Errorf("at %d/s there were %d bytes after %v, more than %.0f", tt.perSecond, sum, now.Sub(start), allowed)
			}
			if now.Sub(last) > tt.pause {
				t.Errorf("at %d/s nothing came for %v", tt.perSecond, now.Sub(last))
			}
			last = now
		}}, limit.Limits{Upload: int64(tt.perSecond), Clock: f.clock, Sleep: f.sleep})
		must(t, st.Put(t.Context(), "a", storage.Bytes(make([]byte, tt.size)), storage.PutOptions{}))
		if sum != tt.size {
			t.Errorf("%d bytes came", sum)
		}
	}
}

func TestWhoGivesUpWaitingDoesNotMakeOthersWait(t *testing.T) {
	f := newTime()
	st := limit.New(mem.New(), limit.Limits{Requests: 1, Clock: f.clock, Sleep: f.sleep})
	must(t, st.Delete(t.Context(), "a"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		if err := st.Delete(ended, "a"); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	within(t, "the next operation", f.took(func() { must(t, st.Delete(t.Context(), "a")) }), time.Second)
}

// sink tells of each piece that a Put reads.
type sink struct {
	*mem.Store
	got func(n int)
}

func (s sink) Put(_ context.Context, _ string, src storage.Source, _ storage.PutOptions) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 4<<20)
	for {
		n, err := r.Read(buf)
		s.got(n)
		if err == io.EOF {
			return nil
		}
	}
}

// hashing is a driver that reads content once before it sends it.
type hashing struct {
	*mem.Store
	t *testing.T
}

func (h hashing) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	first, err := io.ReadAll(storage.Unpaced(r))
	if err != nil {
		return err
	}
	seeker, ok := r.(io.Seeker)
	if !ok {
		h.t.Error("the limit has taken the reader's Seek away")
		return nil
	}
	if _, err := seeker.Seek(0, io.SeekStart); err != nil {
		return err
	}
	second, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(first, second) {
		h.t.Errorf("read %d bytes first and then %d, %v", len(first), len(second), err)
	}
	return h.Store.Put(ctx, key, storage.Bytes(second), o)
}

func TestOnlyWhatIsSentCounts(t *testing.T) {
	f := newTime()
	st := limit.New(hashing{mem.New(), t}, limit.Limits{Upload: 1 << 20, Clock: f.clock, Sleep: f.sleep})
	within(t, "put", f.took(func() { must(t, st.Put(t.Context(), "a", storage.Bytes(make([]byte, 8<<20)), storage.PutOptions{})) }), 8*time.Second)
}

// plain is a source whose readers cannot seek.
type plain []byte

func (p plain) Size() int64 { return int64(len(p)) }
func (p plain) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(p))), nil
}

func TestAReaderThatCannotSeekDoesNotSayItCan(t *testing.T) {
	st := limit.New(seekers{mem.New(), t}, limit.Limits{Upload: 1 << 20})
	must(t, st.Put(t.Context(), "a", plain("x"), storage.PutOptions{}))
}

type seekers struct {
	*mem.Store
	t *testing.T
}

func (s seekers) Put(_ context.Context, _ string, src storage.Source, _ storage.PutOptions) error {
	r, err := src.Open()
	if _, ok := r.(io.Seeker); ok {
		s.t.Error("it says so")
	}
	return err
}

func TestCancellationEndsAWaitAtOnce(t *testing.T) {
	cause := errors.New("the user has had enough")
	inner := mem.New()
	must(t, inner.Put(t.Context(), "a", storage.Bytes(make([]byte, 1<<20)), storage.PutOptions{}))
	for what, do := range map[string]func(context.Context, storage.Store) error{
		"put": func(ctx context.Context, st storage.Store) error {
			return st.Put(ctx, "b", storage.Bytes(make([]byte, 1<<20)), storage.PutOptions{})
		},
		"get": func(ctx context.Context, st storage.Store) error {
			_, err := storage.ReadAll(ctx, st, "a", 2<<20)
			return err
		},
		"stat": func(ctx context.Context, st storage.Store) (err error) {
			for range 5 {
				if _, err = st.Stat(ctx, "a"); err != nil {
					break
				}
			}
			return err
		},
		"list": func(ctx context.Context, st storage.Store) (err error) {
			for range 5 {
				for _, err = range st.List(ctx, "a", "") {
					if err != nil {
						return err
					}
				}
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			st := limit.New(inner, limit.Limits{Upload: 1024, Download: 1024, Requests: 0.1})
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
			start := time.Now()
			if err := do(ctx, st); !errors.Is(err, cause) {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	if _, err := inner.Stat(t.Context(), "b"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("the put had an effect: %v", err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"50MiB/s": 50 << 20, "10MB/s": 10_000_000, "512KiB/s": 512 << 10, "1GiB/s": 1 << 30, "1.5GiB/s": 3 << 29, "64KB/s": 64_000, "64kB/s": 64_000,
		"1GB/s": 1_000_000_000, "2048B/s": 2048, "1KiB/s": 1024, "1024GiB/s": 1 << 40,
	} {
		if got, err := limit.Parse(text); got != want || err != nil {
			t.Errorf("%s gave %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":            `"" is not a bandwidth like 50MiB/s or 10MB/s`,
		"50MiB":       `"50MiB" is not a bandwidth like 50MiB/s or 10MB/s`,
		"50":          `"50" is not a bandwidth like 50MiB/s or 10MB/s`,
		"-5MB/s":      `"-5MB/s" is not a bandwidth like 50MiB/s or 10MB/s`,
		"50 MiB/s":    `"50 MiB/s" is not a bandwidth like 50MiB/s or 10MB/s`,
		"50Mbit/s":    `"50Mbit/s" is not a bandwidth like 50MiB/s or 10MB/s`,
		"1e3MB/s":     `"1e3MB/s" is not a bandwidth like 50MiB/s or 10MB/s`,
		"0MB/s":       `"0MB/s" is not between 1KiB/s and 1024GiB/s`,
		"1023B/s":     `"1023B/s" is not between 1KiB/s and 1024GiB/s`,
		"9999999GB/s": `"9999999GB/s" is not between 1KiB/s and 1024GiB/s`,
	} {
		if got, err := limit.Parse(text); got != 0 || err == nil || err.Error() != want {
			t.Errorf("%q gave %d, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]float64{"100/s": 100, "0.5/s": 0.5, "1000000/s": 1e6, "0.1/s": 0.1} {
		if got, err := limit.ParseRequests(text); got != want || err != nil {
			t.Errorf("%s gave %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"100": `"100" is not a number of requests like 100/s`, "NaN/s": `"NaN/s" is not a number of requests like 100/s`,
		"100/min": `"100/min" is not a number of requests like 100/s`, "0/s": `"0/s" is not between 0.1/s and 1000000/s`,
		"1000001/s": `"1000001/s" is not between 0.1/s and 1000000/s`,
	} {
		if got, err := limit.ParseRequests(text); got != 0 || err == nil || err.Error() != want {
			t.Errorf("%q gave %v, %v, want %s", text, got, err, want)
		}
	}
}
