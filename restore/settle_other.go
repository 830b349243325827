//go:build !linux

package restore

import (
	"errors"
	"os"
)

// bulkSync is false: only Linux's syncfs reports errors.
func bulkSync(*os.File) bool { return false }

func syncFileSystem(*os.File) error { return errors.ErrUnsupported }

func startWriteback(*os.File) {}
