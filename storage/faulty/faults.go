package faulty

import (
	"context"
	"fmt"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/storage"
)

// OnOp decorates st so that hook sees the name and key of each operation (see
// [Op]) before it has an effect, and makes it fail by returning an error.
func OnOp(st storage.Store, hook func(op, key string) error) *Store {
	return New(st, func(_ context.Context, op Op) error { return hook(op.Name, op.Key) }, nil)
}

// FailNth decorates st so that the n-th operation, counted from 1, fails with
// [ErrInjected] and has no effect. All others work.
func FailNth(st storage.Store, n int) *Store { return New(st, Nth(n), nil) }

// FailNthAfter decorates st so that the n-th operation has its full effect and
// yet fails with [ErrInjected], as when a server's answer is lost. If
// that operation fails by itself, its own error stays and nothing has fired.
func FailNthAfter(st storage.Store, n int) *Store { return New(st, nil, Nth(n)) }

// Nth is the hook that makes the n-th operation fail with [ErrInjected].
func Nth(n int) Hook {
	return func(_ context.Context, op Op) error {
		if op.N == n {
			return ErrInjected
		}
		return nil
	}
}

// Transient makes the errors of hook such that may pass: they wrap
// [storage.ErrTransient] too. The n-th operation fails once, as by a lost
// connection, with
//
//	faulty.New(st, faulty.Transient(faulty.Nth(n)), nil)
//
// and has its effect though its answer is lost when the hook is the second one.
func Transient(hook Hook) Hook {
	return func(ctx context.Context, op Op) error {
		if err := hook(ctx, op); err != nil {
			return fmt.Errorf("%w: %w", err, storage.ErrTransient)
		}
		return nil
	}
}

// CrashAfter decorates st so that the first n operations work and all further
// ones fail with [ErrInjected]: what the inner Store then holds is what a
// process leaves behind that is killed there.
func CrashAfter(st storage.Store, n int) *Store {
	return New(st, func(_ context.Context, op Op) error {
		if op.N > n {
			return ErrInjected
		}
		return nil
	}, nil)
}

// Tear decorates st so that the n-th Put, counted among the Puts from 1, stores
// only the first half of its content and reports success. No Store may do
// so; it is for showing that readers would notice.
func Tear(st storage.Store, n int) *Store {
	s := New(st, nil, nil)
	s.tear = n
	return s
}

// Stale decorates st so that a List does not see the keys that were Put during
// the n operations before it, as of a store that is only eventually consistent.
// No Store may do so; Get and Stat see them.
func Stale(st storage.Store, n int) *Store {
	s := New(st, nil, nil)
	s.stale = n
	return s
}

// Delay decorates st so that each operation begins only after d, or fails when
// its context ends before.
func Delay(st storage.Store, d time.Duration) *Store {
	return New(st, func(ctx context.Context, _ Op) error { return pause.For(ctx, d) }, nil)
}

// DelayNth is [Delay] for the n-th operation alone, counted from 1.
func DelayNth(st storage.Store, n int, d time.Duration) *Store {
	return New(st, func(ctx context.Context, op Op) error {
		if op.N != n {
			return nil
		}
		return pause.For(ctx, d)
	}, nil)
}
