// Package pause waits for some time, or until a context ends.
package pause

import (
	"context"
	"time"
)

// For waits for d and returns nil, or as soon as ctx ends returns its cause.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
