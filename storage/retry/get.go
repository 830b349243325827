package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"github.com/pgbak/pgbak/storage"
)

// Get implements [storage.Store]. The reader resumes by another Get of what is
// missing. Objects do not change as a rule; of one that is replaced between a
// fault and the resumption, the reader yields a beginning and an end that do not
// belong together, or [io.ErrUnexpectedEOF] where it can tell. What may be
// replaced must carry a checksum.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	g := &reader{ctx: ctx, store: s, key: key, asked: r}
	err := s.policy.Do(ctx, fmt.Sprintf("get %q", key), func(ctx context.Context) (err error) {
		g.body, err = s.inner.Get(ctx, key, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// reader reads a range and gets the rest of it again when a read breaks.
type reader struct {
	ctx   context.Context
	store *Store
	key   string
	asked storage.Range

	done  int64         // how many bytes the caller has got
	skip  int64         // how many bytes of the body he has got already
	body  io.ReadCloser // nil after a read broke
	fault error         // why there is no body
	// attempts counts from the read that broke until bytes come again; nil when
	// all is well, so that the time which a caller takes is not counted.
	attempts *series
}

// Read implements io.Reader.
func (g *reader) Read(p []byte) (int, error) {
	for {
		if g.body == nil {
			if g.complete() {
				return 0, io.EOF // what broke was only the end
			}
			if err := g.resume(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := g.read(p)
		if n > 0 {
			g.done += int64(n)
			g.attempts = nil
		}
		if errors.Is(err, storage.ErrTransient) {
			g.body.Close() // the fault is known
			g.body, g.fault, err = nil, err, nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// read reads from the body and drops what is to be skipped.
func (g *reader) read(p []byte) (int, error) {
	n, err := g.body.Read(p)
	dropped := min(int64(n), g.skip)
	g.skip -= dropped
	n = copy(p, p[dropped:n])
	if err == io.EOF && g.skip > 0 {
		err = fmt.Errorf("read %q: the object has become shorter than the %d bytes that were read: %w", g.key, g.done, io.ErrUnexpectedEOF)
	}
	return n, err
}

// resume waits after a fault and gets the rest. It fails when there is nothing
// more to try; what it says then is said to every further Read.
func (g *reader) resume() error {
	if g.attempts == nil {
		g.attempts = g.store.policy.begin(fmt.Sprintf("read %q", g.key))
	}
	for {
		if g.fault = g.attempts.again(g.ctx, g.fault); g.fault != nil {
			return g.fault
		}
		var r storage.Range
		r, g.skip = g.missing()
		if g.body, g.fault = g.store.inner.Get(g.ctx, g.key, r); g.fault == nil {
			return nil
		}
		g.body = nil
	}
}

// complete tells whether the caller has all that the range can select. A range
// up to the end is complete only when the store says so.
func (g *reader) complete() bool {
	if g.asked.Length > 0 && g.done == g.asked.Length {
		return true
	}
	return g.asked.Offset < 0 && g.asked.Offset > math.MinInt64 && g.done == -g.asked.Offset
}

// missing is the range of what the caller has not got yet, after some bytes to
// skip that he has: of a tail, whose start is not known, all of them, and else
// the last one, because a range that begins at the end of the object and one
// beyond the end of an object that was cut look the same.
func (g *reader) missing() (r storage.Range, skip int64) {
	r = g.asked
	if r.Offset < 0 {
		return r, g.done
	}
	if g.done == 0 {
		return r, 0
	}
	r.Offset += g.done - 1
	if r.Length > 0 {
		r.Length -= g.done - 1 // above 0, as the range is not complete
	}
	return r, 1
}

// Close implements io.Closer.
func (g *reader) Close() error {
	body := g.body
	g.body, g.fault = nil, fs.ErrClosed // no Read gets another body
	if body == nil {
		return nil
	}
	return body.Close()
}
