package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pgbak/pgbak/storage"
)

func objectChecks() []Check {
	return []Check{
		{Name: "what was put is at once listed, and read back byte for byte", Run: checkReadBack},
		{Name: "an empty object is an object", Run: checkEmptyObject},
		{Name: "an object of 40 MiB comes back whole", Run: checkLargeObject},
		{Name: "an absent key is ErrNotExist, also beside objects with similar keys", Run: checkAbsent},
		{Name: "surprising characters in keys are kept as they are", Run: checkSurprisingKeys},
		{Name: "an invalid key is refused by every operation and is not merely absent", Run: checkInvalidKeys},
		{Name: "a cancelled context makes every operation fail and nothing happens", Run: checkCancelled},
	}
}

func checkReadBack(ctx context.Context, st storage.Store, prefix string) error {
	for i, size := range []int{1, 2, 511, 512, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		key := fmt.Sprintf("%sdir/%d", prefix, size)
		want := content(size, uint64(i))
		if err := put(ctx, st, key, want); err != nil {
			return err
		}
		if keys, err := list(ctx, st, key); err != nil || len(keys) == 0 || keys[0] != key {
			return fmt.Errorf("list right after put gave %q and error %v, want %q", keys, err, key)
		}
		if err := wantContent(ctx, st, key, want); err != nil {
			return err
		}
	}
	return nil
}

func checkEmptyObject(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "empty"
	if err := put(ctx, st, key, nil); err != nil {
		return err
	}
	if err := wantContent(ctx, st, key, nil); err != nil {
		return err
	}
	for _, r := range []storage.Range{{Offset: 5}, {Offset: -5}, {Length: 3}} {
		if err := wantRange(ctx, st, key, r, nil); err != nil {
			return err
		}
	}
	err := st.Put(ctx, key, storage.Bytes([]byte("x")), ifAbsent)
	return wantError("put-if-absent where an empty object is", err, storage.ErrExist)
}

func checkLargeObject(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "large"
	want := content(largest, 1)
	if err := st.Put(ctx, key, storage.Bytes(want), ifAbsent); err != nil {
		return err
	}
	if err := wantContent(ctx, st, key, want); err != nil {
		return err
	}
	return wantRange(ctx, st, key, storage.Range{Offset: 33<<20 + 1, Length: 70_000}, want[33<<20+1:][:70_000])
}

func checkAbsent(ctx context.Context, st storage.Store, prefix string) error {
	if err := wantAbsent(ctx, st, prefix+"dir/key"); err != nil {
		return err
	}
	if err := putAll(ctx, st, prefix, "dir/key", "dirs/key/below"); err != nil {
		return err
	}
	for _, name := range []string{"dir", "dir/ke", "dir/key2", "dir/key/below", "dir/key/below/deep", "di", "dirs", "dirs/key", "other/key"} {
		if err := wantAbsent(ctx, st, prefix+name); err != nil {
			return err
		}
	}
	return nil
}

func checkSurprisingKeys(ctx context.Context, st storage.Store, prefix string) error {
	names := []string{
		" ", "a b", "a%2Fb", "a+b", "a&b=c?d#e", "ä/ö/ü", "a\u0308", "\U0001F418", "...", ".a", "a.", "~", "-rf", "*", "$HOME",
		"quote'\"`", "<tag>&amp;", "CON", "a:b", strings.Repeat("x", 255),
	}
	for i, name := range names {
		key := prefix + name
		want := []byte(name)
		if err := st.Put(ctx, key, storage.Bytes(want), ifAbsent); err != nil {
			return fmt.Errorf("name %d: %w", i, err)
		}
	}
	for _, name := range names {
		if err := wantContent(ctx, st, prefix+name, []byte(name)); err != nil {
			return err
		}
		keys, err := list(ctx, st, prefix+name)
		if err != nil || len(keys) == 0 || keys[0] != prefix+name {
			return fmt.Errorf("list of %q gave %q and error %v", prefix+name, keys, err)
		}
	}
	keys, err := list(ctx, st, prefix)
	if err != nil || len(keys) != len(names) {
		return fmt.Errorf("list gave %d keys and error %v, want %d keys", len(keys), err, len(names))
	}
	return nil
}

func checkInvalidKeys(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a"); err != nil {
		return err
	}
	for _, key := range []string{
		"", "/" + prefix + "a", prefix, prefix + "/a", prefix + "./a", prefix + "b/../a", "..", prefix + "a\x00", prefix + "a\n", prefix + `a\b`, prefix + "\xff",
		prefix + storage.TemporaryPrefix + "1", prefix + strings.Repeat("x", 256), prefix + strings.Repeat("xy/", 300) + "z",
	} {
		_, getErr := st.Get(ctx, key, storage.Range{})
		_, statErr := st.Stat(ctx, key)
		for what, err := range map[string]error{
			"put": put(ctx, st, key, nil), "put-if-absent": st.Put(ctx, key, storage.Bytes(nil), ifAbsent),
			"get": getErr, "stat": statErr, "delete": st.Delete(ctx, prefix+"a", key),
		} {
			if !errors.Is(err, storage.ErrKey) || errors.Is(err, storage.ErrNotExist) {
				return fmt.Errorf("%s of %.60q gave error %v, want ErrKey", what, key, err)
			}
		}
	}
	return wantContent(ctx, st, prefix+"a", []byte("a"))
}

func checkCancelled(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "a"
	if err := put(ctx, st, key, []byte("old")); err != nil {
		return err
	}
	cause := errors.New("the user has had enough")
	cancelled, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	_, getErr := st.Get(cancelled, key, storage.Range{})
	_, statErr := st.Stat(cancelled, key)
	_, listErr := list(cancelled, st, prefix)
	for what, err := range map[string]error{
		"put": put(cancelled, st, key, []byte("new")), "put of a new key": put(cancelled, st, key+"b", nil),
		"get": getErr, "stat": statErr, "list": listErr, "delete": st.Delete(cancelled, key),
	} {
		if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s with a cancelled context gave error %v", what, err)
		}
	}
	if err := wantAbsent(ctx, st, key+"b"); err != nil {
		return err
	}
	return wantContent(ctx, st, key, []byte("old"))
}

// cancelSource cancels a context when the first half of it has been read.
type cancelSource struct {
	content []byte
	cancel  func()
}

func (s cancelSource) Size() int64 { return int64(len(s.content)) }

func (s cancelSource) Open() (io.ReadCloser, error) {
	half := len(s.content) / 2
	return io.NopCloser(io.MultiReader(
		bytes.NewReader(s.content[:half]), cancellingReader(s.cancel), bytes.NewReader(s.content[half:]))), nil
}

type cancellingReader func()

func (c cancellingReader) Read([]byte) (int, error) {
	c()
	return 0, io.EOF
}
