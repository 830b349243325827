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
}

// Checks returns all checks. They do not depend on one another.
func Checks() []Check {
	return slices.Concat(objectChecks(), putChecks(), rangeChecks(), listChecks(), deleteChecks(), concurrencyChecks())
}

// Probe runs all checks on st, each in a directory of its own below prefix,
// which ends in a slash, and deletes what they have put. It returns the faults
// of all checks, joined, each with the check's name.
func Probe(ctx context.Context, st storage.Store, prefix string) error {
	var faults []error
	for i, c := range Checks() {
		if err := c.Try(ctx, st, fmt.Sprintf("%s%d/", prefix, i)); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(faults...)
}

// Try runs the check and deletes what it has put.
func (c Check) Try(ctx context.Context, st storage.Store, prefix string) error {
	return errors.Join(c.Run(ctx, st, prefix), Clean(ctx, st, prefix))
}

// Clean deletes all objects whose keys begin with prefix.
func Clean(ctx context.Context, st storage.Store, prefix string) error {
	keys, err := list(ctx, st, prefix)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if left, err := list(ctx, st, prefix); err != nil || len(left) > 0 {
		return fmt.Errorf("clean up: %d objects are left, such as %.200q: %w", len(left), left, err)
	}
	return nil
}
