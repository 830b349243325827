package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/pgbak/pgbak/storage"
)

// Store is the decorated Store.
type Store struct {
	inner  storage.Store
	policy Policy
}

var _ storage.Store = (*Store)(nil)

// New decorates st by the policy p, which holds for each operation by itself.
func New(st storage.Store, p Policy) *Store { return &Store{inner: st, policy: p.withDefaults()} }

// Put implements [storage.Store]. With IfAbsent it fails with an error that is
// not [storage.ErrExist] also when it is not known whose object is there:
// an attempt was answered by a transient error, a later one found the key taken,
// and the object cannot be read. Whoever needs to know must ask again.
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	doubt := false // an attempt that failed may have had its effect
	return s.policy.Do(ctx, fmt.Sprintf("put %q", key), func(ctx context.Context) error {
		err := s.inner.Put(ctx, key, src, o)
		if doubt && errors.Is(err, storage.ErrExist) {
			return s.settle(ctx, key, src, err)
		}
		doubt = doubt || errors.Is(err, storage.ErrTransient)
		return err
	})
}

// settle decides what ErrExist (exists) means to a Put of which an earlier
// attempt may have stored the object: nil if its own content is there.
func (s *Store) settle(ctx context.Context, key string, src storage.Source, exists error) error {
	err := s.compare(ctx, key, src)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDifferent):
		return exists
	case errors.Is(err, storage.ErrNotExist):
		// Whoever's it was, it is gone, and the key is free for another attempt.
		return fmt.Errorf("put %q: the object that was in its place has gone: %w", key, storage.ErrTransient)
	}
	return fmt.Errorf("put %q: an attempt whose answer was lost may have stored it, and what is there cannot be compared: %w", key, err)
}

// errDifferent: the object is not what the source yields.
var errDifferent = errors.New("the object has another content")

// compare tells whether the object with this key is what src yields. It streams
// both and needs no more memory than a Put.
func (s *Store) compare(ctx context.Context, key string, src storage.Source) error {
	r, err := s.Get(ctx, key, storage.Range{})
	if err != nil {
		return err
	}
	defer r.Close()
	if err := storage.CopySource(ctx, &comparison{stored: r, buf: make([]byte, 64<<10)}, src); err != nil {
		return err
	}
	switch _, err := io.ReadFull(r, make([]byte, 1)); err {
	case io.EOF:
		return nil
	case nil:
		return errDifferent // the object is longer
	default:
		return err
	}
}

// comparison fails with errDifferent when what is written to it is not what
// stored yields.
type comparison struct {
	stored io.Reader
	buf    []byte
}

func (c *comparison) Write(b []byte) (written int, err error) {
	for len(b) > 0 {
		n, err := io.ReadFull(c.stored, c.buf[:min(len(b), len(c.buf))])
		if err == io.EOF || err == io.ErrUnexpectedEOF { // ReadFull's own, not wrapped
			return written, errDifferent // the object is shorter
		}
		if err != nil {
			return written, err
		}
		if !bytes.Equal(c.buf[:n], b[:n]) {
			return written, errDifferent
		}
		written += n
		b = b[n:]
	}
	return written, nil
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (o storage.Object, err error) {
	err = s.policy.Do(ctx, fmt.Sprintf("stat %q", key), func(ctx context.Context) (err error) {
		o, err = s.inner.Stat(ctx, key)
		return err
	})
	return o, err
}

// Delete implements [storage.Store]; a key that an earlier attempt has deleted
// is absent, which is no error.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	what := fmt.Sprintf("delete of %d objects", len(keys))
	if len(keys) == 1 {
		what = fmt.Sprintf("delete %q", keys[0])
	}
	return s.policy.Do(ctx, what, func(ctx context.Context) error { return s.inner.Delete(ctx, keys...) })
}

// List implements [storage.Store]. After a transient error it goes on
// behind the last key that it has yielded: as lists are in ascending order,
// nothing comes twice and nothing is left out.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		what := fmt.Sprintf("list %q", prefix)
		attempts := s.policy.begin(what)
		last := after
		for {
			progress := false
			var fault error
			for o, err := range s.inner.List(ctx, prefix, last) {
				if err != nil {
					fault = err
					break
				}
				if !yield(o, nil) {
					return
				}
				last, progress = o.Key, true
			}
			if fault == nil {
				return
			}
			if progress {
				attempts = s.policy.begin(what)
			}
			if err := attempts.again(ctx, fault); err != nil {
				yield(storage.Object{}, err)
				return
			}
		}
	}
}

// Properties implements [storage.Store].
func (s *Store) Properties() storage.Properties { return s.inner.Properties() }
