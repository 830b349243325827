package archive

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// orderOf begins segments 1 to 4.
func orderOf() *walOrder {
	o := &walOrder{}
	for n := 1; n <= 4; n++ {
		o.begin(segmentNumber(n))
	}
	return o
}

// waits tells whether a segment is kept back; err is why it may not be stored.
func waits(t *testing.T, o *walOrder, n int) (kept bool, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what does not wait does not look at it
	err = o.wait(ctx, segmentNumber(n))
	if errors.Is(err, context.Canceled) {
		return true, nil
	}
	return false, err
}

func TestASegmentWaitsForTheOneBeforeItUntilOneWasNew(t *testing.T) {
	o := orderOf()
	expect := func(title string, kept ...bool) {
		t.Helper()
		for i, want := range kept {
			if got, err := waits(t, o, i+1); got != want || err != nil {
				t.Errorf("%s: segment %d is kept back: %t, %v", title, i+1, got, err)
			}
		}
	}
	expect("at first", false, true, true, true)
	o.end(segmentNumber(1), false, nil)
	expect("the first was there already", false, false, true, true)
	o.end(segmentNumber(2), true, nil)
	expect("the second was new", false, false, false, false)
	o.end(segmentNumber(2), false, nil) // told again
	o.end(segmentNumber(3), false, errors.New("the network is away"))
	expect("the third failed", false, false, false, false)
	if got, err := waits(t, &walOrder{}, 3); got || err != nil {
		t.Errorf("a file that was not begun is kept back: %t, %v", got, err)
	}
}

func TestBehindAConflictNothingOfTheTimelineIsStored(t *testing.T) {
	for title, isNew := range map[string]bool{"before one was new": false, "after one was new": true} {
		t.Run(title, func(t *testing.T) {
			o := orderOf()
			o.begin("00000002" + segmentNumber(2)[8:])
			o.end(segmentNumber(1), isNew, nil)
			if o.isBlocked(segmentNumber(2)) {
				t.Error("it is blocked without a conflict")
			}
			done := make(chan error)
			if !isNew {
				go func() { done <- o.wait(t.Context(), segmentNumber(3)) }()
			}
			o.end(segmentNumber(2), false, repo.ErrWALConflict)
			if !isNew {
				select {
				case err := <-done:
					if !errors.Is(err, errBehindConflict) {
						t.Errorf("who waits gets %v", err)
					}
				case <-time.After(time.Minute):
					t.Fatal("who waits is not told of the conflict")
				}
			}
			o.end(segmentNumber(3), true, nil) // it was on its way
			if _, err := waits(t, o, 4); !errors.Is(err, errBehindConflict) || !o.isBlocked(segmentNumber(4)) {
				t.Errorf("behind the conflict: %v, blocked %t", err, o.isBlocked(segmentNumber(4)))
			}
			other := "00000002" + segmentNumber(2)[8:]
			if err := o.wait(t.Context(), other); err != nil || o.isBlocked(other) || o.isBlocked("00000002.history") {
				t.Errorf("another timeline, and its history: %v", err)
			}
		})
	}
}
