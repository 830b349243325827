package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pgbak/pgbak/storage"
)

func putChecks() []Check {
	return []Check{
		{Name: "a put replaces an object, be it larger or smaller", Run: checkReplace},
		{Name: "a put-if-absent of a taken key is ErrExist and changes nothing", Run: checkIfAbsent},
		{Name: "a put whose source fails or is not as long as announced changes nothing", Run: checkOddSources},
		{Name: "a put that is cancelled half-way changes nothing", Run: checkCancelledPut},
		{Name: "a key can be put again after it was deleted", Run: checkPutAfterDelete},
	}
}

func rangeChecks() []Check {
	return []Check{
		{Name: "a range gives exactly the bytes it selects, as far as the object has them", Run: checkRanges},
		{Name: "a negative length is an error", Run: checkNegativeLength},
		{Name: "a reader may be closed early", Run: checkCloseEarly},
	}
}

func checkReplace(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "dir/key"
	for i, size := range []int{10, 100_000, 0, 5000} {
		want := content(size, uint64(i))
		if err := put(ctx, st, key, want); err != nil {
			return err
		}
		if err := wantContent(ctx, st, key, want); err != nil {
			return err
		}
	}
	keys, err := list(ctx, st, prefix)
	if err != nil || len(keys) != 1 {
		return fmt.Errorf("after replacing, list gave %q and error %v, want one key", keys, err)
	}
	return nil
}

func checkIfAbsent(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "dir/key"
	if err := st.Put(ctx, key, storage.Bytes([]byte("first")), ifAbsent); err != nil {
		return err
	}
	for _, other := range []string{"second", "first", ""} {
		err := st.Put(ctx, key, storage.Bytes([]byte(other)), ifAbsent)
		if err := wantError("put-if-absent of a taken key", err, storage.ErrExist); err != nil {
			return err
		}
		if err := wantContent(ctx, st, key, []byte("first")); err != nil {
			return err
		}
	}
	if err := st.Put(ctx, prefix+"dir/key2", storage.Bytes([]byte("x")), ifAbsent); err != nil {
		return fmt.Errorf("put-if-absent of a key that only begins like another: %w", err)
	}
	return nil
}

func checkOddSources(ctx context.Context, st storage.Store, prefix string) error {
	trouble := errors.New("source in trouble")
	b := content(3<<20, 7)
	size := int64(len(b))
	sources := []struct {
		what string
		src  storage.Source
		want error
	}{
		{"that cannot be opened", oddSource{size: size, fail: trouble, failNow: true}, trouble},
		{"that fails at once", oddSource{size: size, fail: trouble}, trouble},
		{"that fails in the middle", oddSource{size: size, content: b[:size/2], fail: trouble}, trouble},
		{"that fails after its last byte", oddSource{size: size, content: b, fail: trouble}, trouble},
		{"that is one byte short", oddSource{size: size, content: b[:size-1]}, storage.ErrSource},
		{"that is one byte long", oddSource{size: size - 1, content: b}, storage.ErrSource},
		{"that is empty and should not be", oddSource{size: 1}, storage.ErrSource},
		{"that should be empty and is not", oddSource{content: b[:1]}, storage.ErrSource},
	}
	old := []byte("old")
	if err := put(ctx, st, prefix+"old", old); err != nil {
		return err
	}
	for _, s := range sources {
		for _, o := range []storage.PutOptions{replacing, ifAbsent} {
			err := st.Put(ctx, prefix+"new/key", s.src, o)
			if err := wantError("put of a source "+s.what, err, s.want); err != nil {
				return err
			}
		}
		err := st.Put(ctx, prefix+"old", s.src, replacing)
		if err := wantError("replacing put of a source "+s.what, err, s.want); err != nil {
			return err
		}
	}
	if err := wantAbsent(ctx, st, prefix+"new/key"); err != nil {
		return err
	}
	return wantContent(ctx, st, prefix+"old", old)
}

func checkCancelledPut(ctx context.Context, st storage.Store, prefix string) error {
	if err := put(ctx, st, prefix+"old", []byte("old")); err != nil {
		return err
	}
	for _, name := range []string{"new", "old"} {
		cancelled, cancel := context.WithCancel(ctx)
		src := cancelSource{content: content(16<<20, 3), cancel: cancel}
		err := st.Put(cancelled, prefix+name, src, replacing)
		cancel()
		if err := wantError("put that is cancelled half-way", err, context.Canceled); err != nil {
			return err
		}
	}
	if err := wantAbsent(ctx, st, prefix+"new"); err != nil {
		return err
	}
	return wantContent(ctx, st, prefix+"old", []byte("old"))
}

func checkPutAfterDelete(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "a/b/c"
	for i := range 3 {
		want := content(100, uint64(i))
		if err := st.Put(ctx, key, storage.Bytes(want), ifAbsent); err != nil {
			return err
		}
		if err := wantContent(ctx, st, key, want); err != nil {
			return err
		}
		if err := st.Delete(ctx, key); err != nil {
			return err
		}
		if err := wantAbsent(ctx, st, key); err != nil {
			return err
		}
	}
	return nil
}

func wantRange(ctx context.Context, st storage.Store, key string, r storage.Range, want []byte) error {
	rc, err := st.Get(ctx, key, r)
	if err != nil {
		return err
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("get %q %+v gave %s, want %s", key, r, brief(got), brief(want))
	}
	return nil
}

func checkRanges(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "digits"
	b := []byte("0123456789")
	if err := put(ctx, st, key, b); err != nil {
		return err
	}
	for _, c := range []struct {
		off, n int64
		want   string
	}{
		{0, 0, "0123456789"}, {0, 1, "0"}, {0, 10, "0123456789"}, {0, 11, "0123456789"},
		{3, 0, "3456789"}, {3, 4, "3456"}, {9, 1, "9"}, {9, 5, "9"},
		{10, 0, ""}, {10, 1, ""}, {11, 0, ""}, {1000, 5, ""},
		{-1, 0, "9"}, {-3, 0, "789"}, {-3, 2, "78"}, {-10, 0, "0123456789"}, {-11, 0, "0123456789"}, {-1000, 3, "012"},
		{0, math.MaxInt64, "0123456789"}, {math.MaxInt64, 1, ""}, {5, math.MaxInt64, "56789"}, {math.MinInt64, 0, "0123456789"},
	} {
		if err := wantRange(ctx, st, key, storage.Range{Offset: c.off, Length: c.n}, []byte(c.want)); err != nil {
			return err
		}
	}
	return nil
}

func checkNegativeLength(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a"); err != nil {
		return err
	}
	r, err := st.Get(ctx, prefix+"a", storage.Range{Length: -1})
	if err == nil {
		r.Close()
		return errors.New("get with a negative length gave no error")
	}
	return nil
}

func checkCloseEarly(ctx context.Context, st storage.Store, prefix string) error {
	want := content(4<<20, 9)
	if err := put(ctx, st, prefix+"a", want); err != nil {
		return err
	}
	for range 50 {
		r, err := st.Get(ctx, prefix+"a", storage.Range{})
		if err != nil {
			return err
		}
		buf := make([]byte, 10)
		if _, err := io.ReadFull(r, buf); err != nil || !bytes.Equal(buf, want[:10]) {
			return fmt.Errorf("first bytes are %x and error %v, want %x", buf, err, want[:10])
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return wantContent(ctx, st, prefix+"a", want)
}
