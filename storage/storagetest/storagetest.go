// Package storagetest runs the checks of storage/conformance, what the
// interface [storage.Store] promises, as tests. A driver's or decorator's test
// is no more than this:
//
//	func TestConformance(t *testing.T) {
//		storagetest.Run(t, func(t *testing.T) storage.Store { return mem.New() })
//	}
package storagetest

import (
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/conformance"
)

// Run runs each check as a subtest on a Store of its own from open, and sees to
// it that what the check left can be deleted. A check that the Store does not
// promise by its Properties is not run, and its subtest is called so; that the
// Store has the properties it should have is for the driver's own tests.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	properties := open(t).Properties()
	for _, c := range conformance.Checks() {
		if !c.PromisedBy(properties) {
			t.Run("NOT PROMISED: "+c.Name, func(t *testing.T) { t.Logf("not run, as the store says %+v", properties) })
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Try(t.Context(), open(t), "conformance/"); err != nil {
				t.Error(err)
			}
		})
	}
}
