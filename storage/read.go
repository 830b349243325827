package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrTooLarge is wrapped by ReadAll when an object is larger than allowed.
var ErrTooLarge = errors.New("object is larger than it may be")

// ReadAll reads a whole object of at most limit bytes. It does not read, and
// does not allocate for, more than that: a larger object gives an error that
// wraps [ErrTooLarge].
func ReadAll(ctx context.Context, st Store, key string, limit int64) ([]byte, error) {
	if limit < 0 || limit == math.MaxInt64 {
		return nil, fmt.Errorf("read %q: limit of %d bytes is out of range", key, limit)
	}
	// One byte more than allowed tells the larger object.
	r, err := st.Get(ctx, key, Range{Length: limit + 1})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %q: %w: more than %d bytes", key, ErrTooLarge, limit)
	}
	return b, nil
}

// ReadRange reads exactly n bytes from offset off (both in bytes, not
// negative). An object that ends before gives an error that wraps
// [io.ErrUnexpectedEOF] and names the key. With n = 0 the store is not asked.
func ReadRange(ctx context.Context, st Store, key string, off, n int64) ([]byte, error) {
	if n < 0 || n > math.MaxInt {
		return nil, fmt.Errorf("read %q: length of %d bytes is out of range", key, n)
	}
	b := make([]byte, n)
	if err := ReadFull(ctx, st, key, off, b); err != nil {
		return nil, err
	}
	return b, nil
}

// ReadFull is [ReadRange] into the caller's buffer, which it fills. After an
// error the content of buf is undefined.
func ReadFull(ctx context.Context, st Store, key string, off int64, buf []byte) error {
	if off < 0 || off > math.MaxInt64-int64(len(buf)) {
		return fmt.Errorf("read %q: %d bytes from offset %d are out of range", key, len(buf), off)
	}
	if len(buf) == 0 {
		return nil // a Range of length 0 would mean all that follows
	}
	r, err := st.Get(ctx, key, Range{Offset: off, Length: int64(len(buf))})
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.ReadFull(r, buf)
	if err == io.EOF { // ReadFull's word for "nothing at all came"
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read %q: %d of %d bytes from offset %d: %w", key, n, len(buf), off, err)
	}
	return nil
}

// ReadTail reads the last n bytes (n > 0) of an object, or all of it when it is
// shorter: the way to a footer whose object's size is not known.
func ReadTail(ctx context.Context, st Store, key string, n int64) ([]byte, error) {
	if n <= 0 || n > math.MaxInt {
		return nil, fmt.Errorf("read %q: tail of %d bytes is out of range", key, n)
	}
	r, err := st.Get(ctx, key, Range{Offset: -n})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		return nil, fmt.Errorf("read %q: last %d bytes: %w", key, n, err)
	}
	return b, nil
}
