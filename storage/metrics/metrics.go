// Package metrics decorates a [storage.Store] to count what goes through it:
// calls, errors by class, bytes and times of each kind of operation. It stands
// next to the driver, below retries, so that each attempt is counted.
package metrics

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/pgbak/pgbak/storage"
)

// Store is the decorated Store.
type Store struct {
	inner storage.Store
	clock func() time.Time

	mu     sync.Mutex
	totals Snapshot
}

var _ storage.Store = (*Store)(nil)

// New decorates st; times are measured by clock.
func New(st storage.Store, clock func() time.Time) *Store { return &Store{inner: st, clock: clock} }

// Snapshot tells what has been counted so far. An operation is counted when it
// has ended.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals
}

// end counts an operation that began at start and ended now with err.
func (s *Store) end(o *Operation, start time.Time, bytes int64, err error) {
	took := s.clock().Sub(start)
	s.mu.Lock()
	defer s.mu.Unlock()
	o.Calls++
	o.Bytes += bytes
	o.Time += took
	o.Longest = max(o.Longest, took)
	switch {
	case err == nil:
	case errors.Is(err, storage.ErrThrottled):
		o.Throttled++
	case errors.Is(err, storage.ErrTransient):
		o.Transient++
	case errors.Is(err, storage.ErrNotExist):
		o.Absent++
	case errors.Is(err, storage.ErrExist):
		o.Exists++
	default:
		o.Other++
	}
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	start := s.clock()
	err := s.inner.Put(ctx, key, src, o)
	bytes := int64(0)
	if err == nil {
		bytes = src.Size()
	}
	s.end(&s.totals.Put, start, bytes, err)
	return err
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	start := s.clock()
	body, err := s.inner.Get(ctx, key, r)
	if err != nil {
		s.end(&s.totals.Get, start, 0, err)
		return nil, err
	}
	return &reader{body: body, store: s, start: start}, nil
}

// reader counts a Get when it is closed.
type reader struct {
	body  io.ReadCloser
	store *Store
	start time.Time

	mu     sync.Mutex
	bytes  int64
	fault  error // the first error of a Read that is not the end
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += int64(n)
	if err != io.EOF && r.fault == nil {
		r.fault = err
	}
	return n, err
}

func (r *reader) Close() error {
	err := r.body.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.store.end(&r.store.totals.Get, r.start, r.bytes, r.fault)
	}
	return err
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	start := s.clock()
	o, err := s.inner.Stat(ctx, key)
	s.end(&s.totals.Stat, start, 0, err)
	return o, err
}

// List implements [storage.Store].
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		start := s.clock()
		var fault error
		for o, err := range s.inner.List(ctx, prefix, after) {
			fault = err
			if !yield(o, err) {
				break
			}
		}
		s.end(&s.totals.List, start, 0, fault)
	}
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	start := s.clock()
	err := s.inner.Delete(ctx, keys...)
	s.end(&s.totals.Delete, start, 0, err)
	return err
}

// Properties implements [storage.Store].
func (s *Store) Properties() storage.Properties { return s.inner.Properties() }
