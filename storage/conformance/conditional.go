package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgbak/pgbak/storage"
)

// ConditionalPut tries in few requests whether Puts with IfAbsent hold under a
// race, below prefix, which ends in a slash, and deletes what it has put. held is
// false when more than one of several writers succeeded, when a taken key
// was replaced, or when the store refuses such Puts though it takes others. An
// error says that it could not be found out.
func ConditionalPut(ctx context.Context, st storage.Store, prefix string) (held bool, err error) {
	defer func() {
		if cleanErr := Clean(ctx, st, prefix); err == nil && cleanErr != nil {
			held, err = false, fmt.Errorf("probe conditional puts: %w", cleanErr)
		}
	}()
	for round := range 2 {
		fault := raceForKey(ctx, st, fmt.Sprintf("%srace/%d", prefix, round), 8)
		if fault == nil {
			// A driver that needs a checksum reads twice and sends the second time.
			fault = overtake(ctx, st, fmt.Sprintf("%sovertaken/%d/", prefix, round), 2-round)
		}
		switch {
		case fault == nil:
			continue
		case ctx.Err() != nil || errors.Is(fault, storage.ErrTransient):
		case errors.Is(fault, errSeveralWinners) || errors.Is(fault, errReplaced):
			return false, nil
		case errors.Is(fault, errRefused):
			// Is it the condition that is refused, or does no Put work at all?
			if fault = put(ctx, st, prefix+"plain", nil); fault == nil {
				return false, nil
			}
		}
		return false, fmt.Errorf("probe conditional puts: %w", fault)
	}
	return true, nil
}

var (
	errSeveralWinners = errors.New("not exactly one of several puts-if-absent succeeded")
	errReplaced       = errors.New("what the winner of several puts-if-absent put is not there")
	errRefused        = errors.New("a put-if-absent neither succeeded nor found the key taken")
)

// raceForKey lets several writers put different contents if the key is absent.
func raceForKey(ctx context.Context, st storage.Store, key string, writers int) error {
	var wins, winner atomic.Int64
	err := together(writers, func(i int) error {
		err := st.Put(ctx, key, storage.Bytes(content(20_000+i, uint64(i))), ifAbsent)
		if err == nil {
			wins.Add(1)
			winner.Store(int64(i))
			return nil
		}
		if !errors.Is(err, storage.ErrExist) {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if wins.Load() != 1 {
		return fmt.Errorf("%d of %d concurrent puts-if-absent succeeded, want 1: %w", wins.Load(), writers, errSeveralWinners)
	}
	i := int(winner.Load())
	return wantWinner(ctx, st, key, content(20_000+i, uint64(i)))
}

// wantWinner holds that the content of the put that succeeded is there.
func wantWinner(ctx context.Context, st storage.Store, key string, want []byte) error {
	got, err := storage.ReadAll(ctx, st, key, largest)
	if errors.Is(err, storage.ErrNotExist) || err == nil && !bytes.Equal(got, want) {
		return fmt.Errorf("get %q gave %s and error %v, want %s: %w", key, brief(got), err, brief(want), errReplaced)
	}
	return err
}

// checkOvertaken holds that a put-if-absent which found the key absent when it
// began, and is overtaken, does not win at its end.
func checkOvertaken(ctx context.Context, st storage.Store, prefix string) error {
	for reading := 1; reading <= 2; reading++ {
		if err := overtake(ctx, st, fmt.Sprintf("%s%d/", prefix, reading), reading); err != nil {
			return err
		}
	}
	return nil
}

// overtake is checkOvertaken for drivers that send content when they read it for the
// first or for the second time; with others nobody is overtaken.
func overtake(ctx context.Context, st storage.Store, prefix string, reading int) error {
	key := prefix + "key"
	slow := &overtakenSource{content: content(300_000, 1), overtaken: make(chan struct{}), reading: reading}
	var fastErr error
	slow.overtake = func() {
		defer close(slow.overtaken)
		fastErr = st.Put(ctx, key, storage.Bytes(content(1000, 2)), ifAbsent)
	}
	slowErr := st.Put(ctx, key, slow, ifAbsent)
	slow.once.Do(slow.overtake) // a Put that did not read its source
	<-slow.overtaken
	want := content(1000, 2)
	switch {
	case fastErr == nil && errors.Is(slowErr, storage.ErrExist):
	case slowErr == nil && errors.Is(fastErr, storage.ErrExist): // it was not overtaken, such as where Puts queue up
		want = slow.content
	case slowErr == nil && fastErr == nil:
		return fmt.Errorf("a slow put-if-absent and the one that overtook it both succeeded: %w", errSeveralWinners)
	case errors.Is(slowErr, storage.ErrExist) && errors.Is(fastErr, storage.ErrExist):
		return fmt.Errorf("two puts-if-absent of a free key both gave ErrExist: %w", errSeveralWinners)
	default:
		return fmt.Errorf("%w: %w", errRefused, errors.Join(slowErr, fastErr))
	}
	return wantWinner(ctx, st, key, want)
}

// overtakenSource calls overtake when half of it has been read, in the reading that
// counts, and waits for it, but not for ever: where one Put waits for the other,
// the reading must go on.
type overtakenSource struct {
	content   []byte
	reading   int // 1 or 2
	overtake  func()
	overtaken chan struct{}
	once      sync.Once
}

const (
	// overtakeTime is how long the slow Put waits to be overtaken.
	overtakeTime = 10 * time.Second
	// headStart is what the slow Put gets so that a server has begun with it: what
	// was sent first need not be what a server hears first.
	headStart = 300 * time.Millisecond
)

func (s *overtakenSource) Size() int64 { return int64(len(s.content)) }

func (s *overtakenSource) Open() (io.ReadCloser, error) {
	return &overtakenReader{content: bytes.NewReader(s.content), source: s}, nil
}

func (s *overtakenSource) wait() {
	s.once.Do(func() {
		if s.reading > 1 {
			time.Sleep(headStart)
		}
		go s.overtake()
	})
	timer := time.NewTimer(overtakeTime)
	defer timer.Stop()
	select {
	case <-s.overtaken:
	case <-timer.C:
	}
}

// overtakenReader can seek, and has no WriteTo, by which all would be read at once.
type overtakenReader struct {
	content *bytes.Reader
	source  *overtakenSource
	reading int // how often half of it was reached
}

func (r *overtakenReader) Read(p []byte) (int, error) {
	half := r.content.Len() - len(r.source.content)/2 // so much is before it
	if half > 0 {
		return r.content.Read(p[:min(len(p), half)])
	}
	if half == 0 {
		if r.reading++; r.reading == r.source.reading {
			r.source.wait()
		}
	}
	return r.content.Read(p)
}

func (r *overtakenReader) Seek(offset int64, whence int) (int64, error) {
	return r.content.Seek(offset, whence)
}

func (r *overtakenReader) Close() error { return nil }
