package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
)

func isAbsent(err error) bool { return errors.Is(err, storage.ErrNotExist) }

func isShort(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

func isEnd(err error) bool { return errors.Is(err, io.EOF) || isShort(err) }

// readEach calls read for 0 to n-1, at most limit at once, since a far store
// answers many requests in the time of one. The first error cancels the others
// and is the one returned; what is read goes where i says, so that its order
// does not depend on the answers'.
func readEach(ctx context.Context, n, limit int, read func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return read(ctx, i)
		})
	}
	return group.Wait()
}

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
