//go:build !pgbak_faults

package main

import "github.com/pgbak/pgbak/storage"

// withFaults does nothing in a normal build; see stack_faults.go.
func withFaults(st storage.Store) storage.Store { return st }
