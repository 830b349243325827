package readiness

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// steppedClock moves only when someone sleeps.
type steppedClock struct {
	now    time.Time
	sleeps []time.Duration
}

func (c *steppedClock) options(timeout time.Duration) WaitOptions {
	return WaitOptions{Timeout: timeout, Clock: func() time.Time { return c.now }, Sleep: func(_ context.Context, d time.Duration) error {
		c.now = c.now.Add(d)
		c.sleeps = append(c.sleeps, d)
		return nil
	}}
}

func segments(numbers ...uint64) []postgres.WALFile {
	var files []postgres.WALFile
	for _, n := range numbers {
		files = append(files, postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n})
	}
	return files
}

func TestWaitReturnsWithoutSleepingWhenAllIsThere(t *testing.T) {
	clock := &steppedClock{}
	missing, err := waitFor(t.Context(), segments(1, 2, 3), func(postgres.WALFile) (bool, error) { return true, nil }, clock.options(time.Minute))
	if err != nil || len(missing) != 0 || len(clock.sleeps) != 0 {
		t.Errorf("missing %v, err %v, sleeps %v", missing, err, clock.sleeps)
	}
}

func TestWaitSleepsLongerAndLongerUpToASecondAndNeverPastTheTimeout(t *testing.T) {
	clock := &steppedClock{}
	begin := clock.now
	missing, err := waitFor(t.Context(), segments(1, 2), func(f postgres.WALFile) (bool, error) { return f.Segment == 1, nil }, clock.options(10*time.Second))
	if err != nil || !slices.Equal(missing, segments(2)) {
		t.Fatalf("missing %v, err %v", missing, err)
	}
	if waited := clock.now.Sub(begin); waited != 10*time.Second {
		t.Errorf("waited %s", waited)
	}
	if clock.sleeps[0] != firstPause || slices.Max(clock.sleeps) != lastPause {
		t.Errorf("pauses %v", clock.sleeps)
	}
}

func TestWaitSeesASegmentThatArrivesMeanwhile(t *testing.T) {
	clock := &steppedClock{}
	begin := clock.now
	has := func(f postgres.WALFile) (bool, error) {
		return clock.now.Sub(begin) > time.Duration(f.Segment)*time.Second, nil
	}
	missing, err := waitFor(t.Context(), segments(1, 2, 3), has, clock.options(time.Minute))
	if err != nil || len(missing) != 0 {
		t.Errorf("missing %v, err %v", missing, err)
	}
	if waited := clock.now.Sub(begin); waited > 5*time.Second {
		t.Errorf("waited %s for what was there after 3s", waited)
	}
}

func TestWaitIsPatientWithAnArchiverThatIsBehindButAtWork(t *testing.T) {
	clock := &steppedClock{}
	begin := clock.now
	var many []uint64
	for n := range uint64(100) {
		many = append(many, n)
	}
	has := func(f postgres.WALFile) (bool, error) {
		return clock.now.Sub(begin) > time.Duration(f.Segment)*5*time.Second, nil
	}
	missing, err := waitFor(t.Context(), segments(many...), has, clock.options(10*time.Second))
	if err != nil || len(missing) != 0 {
		t.Errorf("gave up after %s with %d missing, err %v", clock.now.Sub(begin), len(missing), err)
	}
}

func TestWaitLooksOnceWithoutATimeout(t *testing.T) {
	clock := &steppedClock{}
	looks := 0
	missing, err := waitFor(t.Context(), segments(1), func(postgres.WALFile) (bool, error) { looks++; return false, nil }, clock.options(0))
	if err != nil || len(missing) != 1 || looks != 1 || len(clock.sleeps) != 0 {
		t.Errorf("missing %v, err %v, looks %d, sleeps %v", missing, err, looks, clock.sleeps)
	}
}

func TestWaitEndsAtOnceWhenTheStorageFails(t *testing.T) {
	broken := errors.New("broken disk")
	clock := &steppedClock{}
	_, err := waitFor(t.Context(), segments(1), func(postgres.WALFile) (bool, error) { return false, broken }, clock.options(time.Minute))
	if !errors.Is(err, broken) || len(clock.sleeps) != 0 {
		t.Errorf("err %v, sleeps %v", err, clock.sleeps)
	}
}

func TestWaitEndsWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := WaitOptions{Timeout: time.Hour, Clock: time.Now, Sleep: func(ctx context.Context, d time.Duration) error {
		cancel()
		return pause.For(ctx, time.Hour)
	}}
	_, err := waitFor(ctx, segments(1), func(postgres.WALFile) (bool, error) { return false, nil }, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
}

func TestTheTimeoutNamesTheFirstMissingSegmentAndWhatTheArchiverSays(t *testing.T) {
	id := repo.Identity{SegmentSize: 16 << 20}
	o := WaitOptions{Timeout: time.Minute, Archiver: func(context.Context) (string, error) { return "archive_command fails: 3 failures", nil }}
	err := timeoutError(t.Context(), segments(5, 6, 7), id, o)
	for _, want := range []string{"000000010000000000000005", "1m0s", "2 after it", "archive_command fails: 3 failures"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if !errors.Is(err, ErrWALTimeout) || hint.Of(err) == "" {
		t.Errorf("%v: is no ErrWALTimeout, or has no hint", err)
	}
	o.Archiver = func(context.Context) (string, error) { return "", errors.New("connection lost") }
	if err := timeoutError(t.Context(), segments(5), id, o); !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("%q hides why the archiver could not be asked", err)
	}
}
