//go:build !linux

package posix

import "os"

// Unnamed files that can get a name later are Linux's: elsewhere, every draft
// has a temporary name.

func openUnnamed(*os.File) (*os.File, error) { return nil, errNoUnnamed }

func linkUnnamed(_, _ *os.File, _ string) error { return errNoUnnamed }

func canLinkUnnamed() bool { return false }

func unnamedIsDurable(*os.File) bool { return false }
