// Package retry decorates a [storage.Store] so that what failed and may pass is
// tried again: errors that wrap [storage.ErrTransient], and no others. How often
// and for how long is said by a [Policy], which by its method Do also serves
// drivers whose operations take many requests.
//
// Trying again is not the same for all operations:
//
//   - Stat, Delete and a Put that replaces are simply repeated.
//   - A Get is resumed where it broke: see the reader in get.go.
//   - A List begins again and leaves out what it has yielded already.
//   - A Put with IfAbsent whose answer was lost may meet its own object. When a
//     later attempt finds the key taken, what is there is read back and compared:
//     the same content is success, another is [storage.ErrExist]. Hence, of two
//     writers that Put the same content, both may succeed; of two that Put
//     different ones, never more than one does.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/storage"
)

// Policy says how often and for how long an operation is tried. Fields that are
// zero have the values of [Default].
type Policy struct {
	// Attempts is the largest number of attempts, the first included; 1 means
	// that nothing is tried again. It is counted anew whenever the operation
	// made progress: bytes were read, a key was listed.
	Attempts int
	// Time after which no further attempt begins, counted from the start of the
	// first one or from the last progress. An attempt under way is not cut short.
	Time time.Duration
	// First and Most are the ceiling of the first pause and that of all pauses.
	// The ceiling doubles with each attempt, and is four times as high when the
	// store asks for fewer requests. The pause itself is any time between none
	// and the ceiling, so that clients which failed together do not come back
	// together ("full jitter", see "Exponential Backoff and Jitter" in the AWS
	// Architecture Blog, 2015).
	First, Most time.Duration

	// Clock measures Time; nil is the machine's.
	Clock func() time.Time
	// Sleep waits for d, or until ctx ends, and then gives its cause; nil is a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	// Random gives numbers in [0,1); nil is that of math/rand.
	Random func() float64
	// Notify is told of each attempt that will be followed by another, before
	// the pause; it may be called by several goroutines. It may be nil.
	Notify func(Retry)
}

// Retry is what Notify is told.
type Retry struct {
	What    string        // the operation, such as: put "packs/1"
	Err     error         // why it failed
	Attempt int           // which attempt failed, from 1
	Pause   time.Duration // until the next one
}

// Default is for a command that rather waits than fails.
func Default() Policy {
	return Policy{Attempts: 12, Time: 5 * time.Minute, First: 200 * time.Millisecond, Most: 30 * time.Second}
}

func (p Policy) withDefaults() Policy {
	d := Default()
	if p.Attempts <= 0 {
		p.Attempts = d.Attempts
	}
	if p.Time <= 0 {
		p.Time = d.Time
	}
	if p.First <= 0 {
		p.First = d.First
	}
	if p.Most <= 0 {
		p.Most = d.Most
	}
	if p.Clock == nil {
		p.Clock = time.Now
	}
	if p.Sleep == nil {
		p.Sleep = pause.For
	}
	if p.Random == nil {
		p.Random = rand.Float64
	}
	if p.Notify == nil {
		p.Notify = func(Retry) {}
	}
	return p
}

// Do calls try until it succeeds, fails with an error that will come again, or
// the policy says that it is enough; what names the operation to Notify. The
// last error comes out wrapped and says how much was tried. When ctx ends, Do
// ends at once with its cause.
//
// Do may be used inside of try (as a driver does for its single requests below
// the decorator): what the inner one has given up is not tried again by the outer.
func (p Policy) Do(ctx context.Context, what string, try func(context.Context) error) error {
	s := p.withDefaults().begin(what)
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if err := s.again(ctx, err); err != nil {
			return err
		}
	}
}

// series counts attempts that brought nothing.
type series struct {
	policy Policy
	what   string
	failed int
	since  time.Time
}

func (p Policy) begin(what string) *series {
	return &series{policy: p, what: what, since: p.Clock()}
}

// again is told that an attempt failed with err. It waits, and gives nil when
// there shall be another one, or else the error to end with.
func (s *series) again(ctx context.Context, err error) error {
	var end *gaveUp
	if !errors.Is(err, storage.ErrTransient) || errors.As(err, &end) {
		return err
	}
	s.failed++
	if ctx.Err() != nil {
		return s.cancelled(ctx, err)
	}
	took := s.policy.Clock().Sub(s.since)
	if s.failed >= s.policy.Attempts || took >= s.policy.Time {
		return &gaveUp{err: err, attempts: s.failed, took: took}
	}
	pause := min(s.pause(err), s.policy.Time-took)
	s.policy.Notify(Retry{What: s.what, Err: err, Attempt: s.failed, Pause: pause})
	if s.policy.Sleep(ctx, pause) != nil || ctx.Err() != nil {
		return s.cancelled(ctx, err)
	}
	return nil
}

// pause is how long to wait after the attempt that failed with err.
func (s *series) pause(err error) time.Duration {
	ceiling := s.policy.First
	if errors.Is(err, storage.ErrThrottled) {
		ceiling *= 4
	}
	for i := 1; i < s.failed && ceiling < s.policy.Most; i++ {
		ceiling *= 2
	}
	return time.Duration(s.policy.Random() * float64(min(ceiling, s.policy.Most)))
}

// cancelled is the error of a series that its context ended. What failed before
// is told but not wrapped: it is not the reason any more.
func (s *series) cancelled(ctx context.Context, err error) error {
	return fmt.Errorf("%s: %w (attempt %d had failed: %v)", s.what, context.Cause(ctx), s.failed, err)
}

// gaveUp is the last error of a series that was long enough. It still wraps
// storage.ErrTransient: who comes back much later may be lucky.
type gaveUp struct {
	err      error
	attempts int
	took     time.Duration
}

func (g *gaveUp) Error() string {
	if g.attempts == 1 {
		return fmt.Sprintf("%v (after 1 attempt in %s)", g.err, g.took.Round(time.Millisecond))
	}
	return fmt.Sprintf("%v (after %d attempts in %s)", g.err, g.attempts, g.took.Round(time.Millisecond))
}

func (g *gaveUp) Unwrap() error { return g.err }
