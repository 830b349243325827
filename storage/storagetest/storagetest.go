// Package storagetest is the conformance suite of [storage.Store]: what the
// interface promises, as a list of checks. A driver's or decorator's test runs
// them all by [Run]:
//
//	func TestConformance(t *testing.T) {
//		storagetest.Run(t, func(t *testing.T) storage.Store { return mem.New() })
//	}
//
// The checks do not need `go test`: each is a function from a Store to an
// error, so that a user can also have the storage probed that he means to trust
// ([Probe]). They touch nothing outside the prefix they are given.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

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

// Run runs each check as a subtest on a Store of its own from open, and sees to
// it that what the check left can be deleted.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			if err := probe(t.Context(), open(t), c, "conformance/"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Probe runs all checks on st, each in a directory of its own below prefix,
// which ends in a slash, and deletes what they have put. It returns the faults
// of all checks, joined, each with the check's name.
func Probe(ctx context.Context, st storage.Store, prefix string) error {
	var faults []error
	for i, c := range Checks() {
		if err := probe(ctx, st, c, fmt.Sprintf("%s%d/", prefix, i)); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(faults...)
}

func probe(ctx context.Context, st storage.Store, c Check, prefix string) error {
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
