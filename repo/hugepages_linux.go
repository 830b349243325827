package repo

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page of x86-64 and of the usual arm64, in bytes.
const hugePage = 2 << 20

// newLargeBuffer allocates n bytes in huge pages, where the kernel gives them:
// archive-push fills 16 MiB once and ends, and 4096 page faults cost it more
// than the compression of several MiB. It is a matter of speed only.
func newLargeBuffer(n int64) []byte {
	if n < hugePage {
		return make([]byte, n)
	}
	b := make([]byte, n+hugePage)
	start := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (hugePage - 1)
	b = b[start:][:n:n]
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel without huge pages refuses: then they are small
	return b
}
