package backup

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/pgbak/pgbak/internal/pause"
)

// throttle bounds how fast the data directory is read, whatever the number of
// goroutines that read. It is a bucket of tokens that holds what flows in a
// tenth of a second, but at least 64 KiB: so much may pass at once. A nil
// throttle bounds nothing.
type throttle struct {
	tokens *rate.Limiter
	clock  func() time.Time
	sleep  func(ctx context.Context, d time.Duration) error
}

// newThrottle bounds to perSecond bytes; 0 is no bound.
func newThrottle(perSecond int64, clock func() time.Time) *throttle {
	if perSecond <= 0 {
		return nil
	}
	const smallest = 64 << 10
	return &throttle{tokens: rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/10, smallest))), clock: clock, sleep: pause.For}
}

// wait returns when n more bytes may be read, which may be more than the bucket
// holds. When ctx ends it returns the cause at once.
func (t *throttle) wait(ctx context.Context, n int64) error {
	if t == nil {
		return nil
	}
	for n > 0 {
		piece := min(n, int64(t.tokens.Burst()))
		now := t.clock()
		taken := t.tokens.ReserveN(now, int(piece))
		if delay := taken.DelayFrom(now); delay > 0 {
			if err := t.sleep(ctx, delay); err != nil {
				taken.CancelAt(t.clock())
				return err
			}
		}
		n -= piece
	}
	return nil
}
