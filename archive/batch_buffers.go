package archive

import (
	"sync"

	"github.com/pgbak/pgbak/repo"
)

// walBuffers are what the files of one batch are read into, one after the other,
// and what they are compressed by. nil gives no buffers.
type walBuffers struct {
	compressors *repo.WALCompressors
	unsummed    bool // nobody asks for the sum of what was pushed

	mu   sync.Mutex
	free [][]byte
}

// sums tells whether the sum of what was pushed is wanted.
func (b *walBuffers) sums() bool { return b != nil && !b.unsummed }

// take gives a buffer for a file, nil if it is too large to be held, or too small
// to matter.
func (b *walBuffers) take(size int64) []byte {
	if b == nil || size > heldContent || size < sumChunk {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		last := b.free[n-1]
		b.free = b.free[:n-1]
		if int64(cap(last)) >= size {
			return last
		}
	}
	return repo.NewWALBuffer(size)
}

// give takes a buffer back that nothing reads any more.
func (b *walBuffers) give(buffer []byte) {
	if b == nil || buffer == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, buffer)
}
