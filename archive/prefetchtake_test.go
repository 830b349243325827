package archive

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWhatWasFetchedAheadIsTakenWithoutAsking is how a client of the agent gets what the
// agent has fetched: by moving it.
func TestWhatWasFetchedAheadIsTakenWithoutAsking(t *testing.T) {
	all := run(1, 1, 12)
	r := newRecovery(t, all...)
	take := func(i int, file string) bool {
		t.Helper()
		dest := filepath.Join(r.dir, file)
		_ = os.Remove(dest)
		taken, err := r.queue.Take(t.Context(), all[i].Name(segmentSize), dest)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(dest)
		if taken != (err == nil) || taken && !bytes.Equal(content, segment(r.id, all[i])) {
			t.Fatalf("%s: taken %v, %d bytes, %v", all[i].Name(segmentSize), taken, len(content), err)
		}
		return taken
	}
	if take(0, recoveryFile) {
		t.Error("something was taken from an empty queue")
	}
	_, _ = r.mustGet(t, all[0])
	end := r.prefetch(t)
	r.holds(t, all[1:1+queueLength]...)
	if take(1, "00000001") {
		t.Error("who is not recovery was served")
	}
	if !take(1, recoveryFile) || r.gets(all[1]) != 1 {
		t.Errorf("it was not taken, or fetched %d times", r.gets(all[1]))
	}
	// What was taken is noted: the queue goes on.
	r.holds(t, all[2:2+queueLength]...)
	if err := end(); err != nil {
		t.Error(err)
	}
	// Nobody fills it any more: who is asked at the half of it has that done.
	for i := 2; i < 2+queueLength; i++ {
		left := queueLength - 1 - (i - 2)
		if taken := take(i, recoveryFile); taken != (left >= max(minPrefetch, queueLength/2)) {
			t.Errorf("with %d left behind it a segment was taken: %v", left, taken)
			break
		} else if !taken {
			return
		}
	}
	t.Error("the queue was emptied though nobody fills it")
}

// TestASegmentOnItsWayIsWaitedForAndThenMoved: to have it copied by somebody else would
// cost more, and to have it fetched again much more.
func TestASegmentOnItsWayIsWaitedForAndThenMoved(t *testing.T) {
	all := run(1, 1, 3)
	r := newRecovery(t, all...)
	r.mustGet(t, all[0])
	unlock, err := r.queue.lock() // somebody fetches ahead
	must(t, err)
	defer unlock()
	p, err := r.queue.place(t.Context(), all[1])
	must(t, err)
	dest := filepath.Join(r.dir, recoveryFile)
	must(t, os.Remove(dest))
	type outcome struct {
		taken bool
		err   error
	}
	ended := make(chan outcome, 1)
	go func() {
		taken, err := r.queue.Take(t.Context(), all[1].Name(segmentSize), dest)
		ended <- outcome{taken, err}
	}()
	select {
	case o := <-ended:
		t.Fatalf("it was not waited for: %+v", o)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, p.put(func(w io.Writer) error { _, err := w.Write(segment(r.id, all[1])); return err }))
	p.leave()
	if o := <-ended; !o.taken || o.err != nil {
		t.Errorf("%+v", o)
	}
	if content, err := os.ReadFile(dest); err != nil || !bytes.Equal(content, segment(r.id, all[1])) {
		t.Errorf("other content, %v", err)
	}

	// Who fetches it gives it up: it is for another one to say what that means.
	p, err = r.queue.place(t.Context(), all[2])
	must(t, err)
	go func() {
		taken, err := r.queue.Take(t.Context(), all[2].Name(segmentSize), dest)
		ended <- outcome{taken, err}
	}()
	p.leave()
	if o := <-ended; o.taken || o.err != nil {
		t.Errorf("what was given up: %+v", o)
	}
}

// TestWhoLooksIsNoTroubleForWhoFetches: to see whether a segment is being fetched takes its lock for a moment.
func TestWhoLooksIsNoTroubleForWhoFetches(t *testing.T) {
	r := newRecovery(t, walFileOf(1))
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				r.queue.isFetched(walFileOf(1))
			}
		}
	}()
	for range 2000 {
		p, err := r.queue.place(t.Context(), walFileOf(1))
		if err != nil {
			t.Error(err)
			break
		}
		p.leave()
	}
	close(end)
	<-ended
}
