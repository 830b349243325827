// Package conformance is what the interface [storage.Store] promises, as a list
// of checks. Each is a function from a Store to an error, so that not only the
// test of a driver runs them (by storagetest.Run) but a user too, who wants the
// storage probed that he means to trust ('pgbak repo check --probe', [Probe]).
// They touch nothing outside the prefix they are given.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgbak/pgbak/storage"
)

// Check is one promise of a Store.
type Check struct {
	// Name reads as the promise.
	Name string
	// Run tries the promise on objects whose keys begin with prefix, which
	// ends in a slash and under which there is nothing yet. It may leave
	// objects there. The error tells what was promised and what came instead.
	Run func(ctx context.Context, st storage.Store, prefix string) error
	// ConditionalPut tells that only Stores promise this whose Properties say
	// ConditionalPut.
	ConditionalPut bool
}

// ErrNotPromised is what [Probe] reports of a check that is not run because the
// Store does not promise what it tries.
var ErrNotPromised = errors.New("the storage does not promise this")

// Checks returns all checks. They do not depend on one another.
func Checks() []Check {
	return slices.Concat(objectChecks(), putChecks(), rangeChecks(), listChecks(), deleteChecks(), concurrencyChecks())
}

// PromisedBy tells whether a Store with these properties promises what the
// check tries.
func (c Check) PromisedBy(p storage.Properties) bool { return p.ConditionalPut || !c.ConditionalPut }

// Probe runs the checks on st, each in a directory of its own below prefix,
// which ends in a slash, and deletes what they have put. After each it calls
// report, which may be nil, with nil when the promise was kept, [ErrNotPromised],
// or what came instead. It returns the faults, joined, each with the check's
// name. When ctx ends, so does Probe, without a report for the checks that are
// left, and with the cause.
func Probe(ctx context.Context, st storage.Store, prefix string, report func(Check, error)) error {
	var faults []error
	for i, c := range Checks() {
		err := ErrNotPromised
		if c.PromisedBy(st.Properties()) {
			err = c.Try(ctx, st, fmt.Sprintf("%s%d/", prefix, i))
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", c.Name, err))
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("probe: %w", context.Cause(ctx))
		}
		if report != nil {
			report(c, err)
		}
	}
	return errors.Join(faults...)
}

// Try runs the check and deletes what it has put.
func (c Check) Try(ctx context.Context, st storage.Store, prefix string) error {
	return errors.Join(c.Run(ctx, st, prefix), Clean(ctx, st, prefix))
}

// cleanTime is how long Clean may take after its context has ended.
const cleanTime = 30 * time.Second

// Clean deletes all objects whose keys begin with prefix, also when ctx has
// ended, which is when there is something to clean up.
func Clean(ctx context.Context, st storage.Store, prefix string) error {
	if ctx.Err() != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
	}
	keys, err := list(ctx, st, prefix)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	left, err := list(ctx, st, prefix)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if len(left) > 0 {
		return fmt.Errorf("clean up: %d objects are left, such as %q", len(left), left[0])
	}
	return nil
}
