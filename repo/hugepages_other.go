//go:build !linux

package repo

// newLargeBuffer allocates n bytes.
func newLargeBuffer(n int64) []byte { return make([]byte, n) }
