package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgbak/pgbak/storage"
)

func isAbsent(err error) bool { return errors.Is(err, storage.ErrNotExist) }

func isShort(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

func isEnd(err error) bool { return errors.Is(err, io.EOF) || isShort(err) }

// readPrefix reads the first n bytes of an object, or all of it when it is shorter.
func readPrefix(ctx context.Context, st storage.Store, key string, n int64) ([]byte, error) {
	body, err := st.Get(ctx, key, storage.Range{Length: n})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, n))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return b, nil
}
