package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/pgbak/pgbak/storage"
)

var (
	replacing = storage.PutOptions{}
	ifAbsent  = storage.PutOptions{IfAbsent: true}
)

// largest is what the checks put at most, in bytes: more than a pack of a
// repository, and more than drivers send in one piece.
const largest = 40 << 20

// content gives n bytes that do not repeat, the same for the same n and seed.
func content(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	// Read of a ChaCha8 never fails.
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func put(ctx context.Context, st storage.Store, key string, b []byte) error {
	return st.Put(ctx, key, storage.Bytes(b), replacing)
}

// putAll puts an object for each name; its content is the name.
func putAll(ctx context.Context, st storage.Store, prefix string, names ...string) error {
	for _, name := range names {
		if err := put(ctx, st, prefix+name, []byte(name)); err != nil {
			return err
		}
	}
	return nil
}

func list(ctx context.Context, st storage.Store, prefix string) ([]string, error) {
	var keys []string
	for o, err := range st.List(ctx, prefix, "") {
		if err != nil {
			return keys, err
		}
		keys = append(keys, o.Key)
	}
	return keys, nil
}

// wantContent holds that Get and Stat agree on what an object is.
func wantContent(ctx context.Context, st storage.Store, key string, want []byte) error {
	got, err := storage.ReadAll(ctx, st, key, largest)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("get %q gave %s, want %s", key, brief(got), brief(want))
	}
	o, err := st.Stat(ctx, key)
	if err != nil {
		return err
	}
	if o.Size != int64(len(want)) || o.Key != key {
		return fmt.Errorf("stat %q gave %+v, want this key and size %d", key, o, len(want))
	}
	return nil
}

// brief describes content in an error message.
func brief(b []byte) string {
	if len(b) <= 40 {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%d bytes (%x...)", len(b), b[:16])
}

// wantAbsent holds that neither Get, Stat nor List know the key.
func wantAbsent(ctx context.Context, st storage.Store, key string) error {
	r, err := st.Get(ctx, key, storage.Range{})
	if err == nil {
		r.Close()
	}
	if err := wantError("get of absent "+key, err, storage.ErrNotExist); err != nil {
		return err
	}
	_, err = st.Stat(ctx, key)
	if err := wantError("stat of absent "+key, err, storage.ErrNotExist); err != nil {
		return err
	}
	keys, err := list(ctx, st, key)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k == key {
			return fmt.Errorf("list yields %q, which is absent", key)
		}
	}
	return nil
}

func wantError(what string, got, want error) error {
	switch {
	case errors.Is(got, want):
		return nil
	case got == nil:
		return fmt.Errorf("%s gave no error, want %v", what, want)
	}
	return fmt.Errorf("%s gave error %w, want %v", what, got, want)
}

// oddSource announces size bytes and yields content, then fail if it is set.
type oddSource struct {
	size    int64
	content []byte
	fail    error
	failNow bool // Open fails
}

func (s oddSource) Size() int64 { return s.size }

func (s oddSource) Open() (io.ReadCloser, error) {
	if s.failNow {
		return nil, s.fail
	}
	r := io.Reader(bytes.NewReader(s.content))
	if s.fail != nil {
		r = io.MultiReader(r, failingReader{s.fail})
	}
	return io.NopCloser(r), nil
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
