package retry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/retry"
)

var (
	errLost      = fmt.Errorf("connection lost: %w", storage.ErrTransient)
	errThrottled = fmt.Errorf("slow down: %w: %w", storage.ErrThrottled, storage.ErrTransient)
)

func TestAttemptsAreBounded(t *testing.T) {
	p, f := policy()
	var told []retry.Retry
	p.Notify = func(r retry.Retry) { told = append(told, r) }
	p.Random = func() float64 { return 0.5 }
	tries := 0
	err := p.Do(t.Context(), "stat x", func(context.Context) error { tries++; return errLost })
	if want := "connection lost: the storage may recover (after 4 attempts in 3.5s)"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	if !errors.Is(err, storage.ErrTransient) || tries != 4 {
		t.Errorf("%d attempts, %v", tries, err)
	}
	if want := []time.Duration{time.Second / 2, time.Second, 2 * time.Second}; !slices.Equal(f.pauses, want) {
		t.Errorf("pauses %v, want %v", f.pauses, want)
	}
	if len(told) != 3 || told[1].Attempt != 2 || told[1].Pause != time.Second || told[1].What != "stat x" || told[1].Err != errLost {
		t.Errorf("told of %+v", told)
	}
}

func TestTimeIsBounded(t *testing.T) {
	p, f := policy()
	p.Attempts, p.Time = 1000, 20*time.Second
	p.Random = func() float64 { return 0.999999 }
	began := f.now
	var last time.Duration
	err := p.Do(t.Context(), "x", func(context.Context) error {
		last = f.now.Sub(began)
		return errLost
	})
	// 1+2+4+8 seconds, and the fifth pause is cut to what is left.
	if last != 20*time.Second || f.now != began.Add(20*time.Second) || !strings.Contains(err.Error(), "(after 6 attempts in 20s)") {
		t.Errorf("the last attempt began after %v: %v", last, err)
	}
	// An attempt that takes all the time is the only one.
	tries := 0
	err = p.Do(t.Context(), "x", func(context.Context) error {
		tries++
		f.now = f.now.Add(time.Minute)
		return errLost
	})
	if tries != 1 || !strings.Contains(err.Error(), "(after 1 attempt in 1m0s)") {
		t.Errorf("%d attempts: %v", tries, err)
	}
}

func TestPauses(t *testing.T) {
	for _, tt := range []struct {
		title string
		err   error
		want  []time.Duration // the ceilings
	}{
		{"double up to the most", errLost, []time.Duration{1, 2, 4, 8, 10, 10}},
		{"are four times as long when the store is throttling", errThrottled, []time.Duration{4, 8, 10, 10, 10, 10}},
	} {
		t.Run(tt.title, func(t *testing.T) {
			for seed, random := range []float64{0, 0.3, 1} {
				p, f := policy()
				p.Attempts = 7
				p.Random = func() float64 { return random }
				_ = p.Do(t.Context(), "x", func(context.Context) error { return tt.err })
				for i, ceiling := range tt.want {
					if want := time.Duration(random * float64(ceiling*time.Second)); len(f.pauses) != 6 || f.pauses[i] != want {
						t.Errorf("%d: pauses %v, want number %d to be %v", seed, f.pauses, i, want)
					}
				}
			}
			p, f := policy()
			p.Attempts = 7
			for range 100 {
				f.pauses = nil
				_ = p.Do(t.Context(), "x", func(context.Context) error { return tt.err })
				for i, ceiling := range tt.want {
					if got := f.pauses[i]; got < 0 || got >= ceiling*time.Second {
						t.Errorf("pause %d is %v, not below %d s", i, got, ceiling)
					}
				}
			}
		})
	}
}

func TestCancellationEndsAtOnce(t *testing.T) {
	cause := errors.New("the user has had enough")
	p := retry.Policy{First: time.Hour, Most: time.Hour, Random: func() float64 { return 1 }} // a real timer
	p.Time = 10 * time.Hour
	ctx, cancel := context.WithCancelCause(t.Context())
	p.Notify = func(retry.Retry) { time.AfterFunc(time.Millisecond, func() { cancel(cause) }) }
	err := p.Do(ctx, `put "x"`, func(context.Context) error { return errLost })
	if want := `put "x": the user has had enough (attempt 1 had failed: connection lost: the storage may recover)`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	if !errors.Is(err, cause) || errors.Is(err, storage.ErrTransient) {
		t.Errorf("error %v is not that of the context alone", err)
	}
	tries := 0
	err = p.Do(ctx, "x", func(context.Context) error { tries++; return errLost })
	if tries != 1 || !errors.Is(err, cause) {
		t.Errorf("%d attempts in a context that has ended: %v", tries, err)
	}
}

func TestNestedPoliciesDoNotMultiply(t *testing.T) {
	p, _ := policy()
	tries := 0
	err := p.Do(t.Context(), "outer", func(ctx context.Context) error {
		err := p.Do(ctx, "inner", func(context.Context) error { tries++; return errLost })
		return fmt.Errorf("outer: %w", err)
	})
	if tries != 4 || !errors.Is(err, storage.ErrTransient) || strings.Count(err.Error(), "attempts") != 1 {
		t.Errorf("%d attempts: %v", tries, err)
	}
}

func TestOneAttemptIsOne(t *testing.T) {
	tries := 0
	err := retry.Policy{Attempts: 1}.Do(t.Context(), "x", func(context.Context) error { tries++; return errLost })
	if tries != 1 || !errors.Is(err, storage.ErrTransient) {
		t.Errorf("%d attempts: %v", tries, err)
	}
}

func TestTheZeroPolicyIsTheDefault(t *testing.T) {
	_, f := policy()
	tries := 0
	p := retry.Policy{Clock: f.clock, Sleep: f.sleep}
	_ = p.Do(t.Context(), "x", func(context.Context) error { tries++; return errLost })
	if d := retry.Default(); tries != d.Attempts || d.Attempts < 2 {
		t.Errorf("%d attempts, want %d", tries, d.Attempts)
	}
}
