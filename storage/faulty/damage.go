package faulty

import (
	"context"
	"fmt"
	"math"

	"github.com/pgbak/pgbak/storage"
)

// Flip changes an object as decaying storage would: the byte at offset (from
// the end, if negative) is combined by exclusive or with mask, which must not
// be 0. An offset outside of the object is an error.
func Flip(ctx context.Context, st storage.Store, key string, offset int64, mask byte) error {
	content, err := storage.ReadAll(ctx, st, key, math.MaxInt32)
	if err != nil {
		return fmt.Errorf("flip: %w", err)
	}
	at := offset
	if at < 0 {
		at += int64(len(content))
	}
	if at < 0 || at >= int64(len(content)) || mask == 0 {
		return fmt.Errorf("flip %q: nothing to change at offset %d of %d bytes with mask %#x", key, offset, len(content), mask)
	}
	content[at] ^= mask
	return st.Put(ctx, key, storage.Bytes(content), storage.PutOptions{})
}

// Truncate cuts an object to its first size bytes, or to all but its last
// -size bytes if size is negative. One that is shorter already is an error.
func Truncate(ctx context.Context, st storage.Store, key string, size int64) error {
	content, err := storage.ReadAll(ctx, st, key, math.MaxInt32)
	if err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	keep := size
	if keep < 0 {
		keep += int64(len(content))
	}
	if keep < 0 || keep > int64(len(content)) {
		return fmt.Errorf("truncate %q: cannot cut %d bytes to %d", key, len(content), size)
	}
	return st.Put(ctx, key, storage.Bytes(content[:keep]), storage.PutOptions{})
}
