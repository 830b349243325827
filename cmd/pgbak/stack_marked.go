package main

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/pgbak/pgbak/storage"
)

// storageError marks a failure of the storage.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// marked is a decorator that wraps every failure of a store in a storageError.
// An object that is absent or there already is an answer, not a failure.
type marked struct{ storage.Store }

func mark(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrExist) {
		return err
	}
	return &storageError{err}
}

func (m marked) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	source := &markedSource{Source: src}
	err := m.Store.Put(ctx, key, source, o)
	if source.failed {
		// What could not be read is the caller's file, not the store.
		return err
	}
	return mark(err)
}

func (m marked) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	rc, err := m.Store.Get(ctx, key, r)
	if err != nil {
		return nil, mark(err)
	}
	return markedReader{rc}, nil
}

func (m marked) Stat(ctx context.Context, key string) (storage.Object, error) {
	o, err := m.Store.Stat(ctx, key)
	return o, mark(err)
}

func (m marked) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range m.Store.List(ctx, prefix, after) {
			if !yield(o, mark(err)) {
				return
			}
		}
	}
}

func (m marked) Delete(ctx context.Context, keys ...string) error {
	return mark(m.Store.Delete(ctx, keys...))
}

type markedReader struct{ io.ReadCloser }

func (r markedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	return n, mark(err)
}

// markedSource remembers whether the source itself failed.
type markedSource struct {
	storage.Source
	failed bool
}

func (s *markedSource) Open() (io.ReadCloser, error) {
	rc, err := s.Source.Open()
	if err != nil {
		s.failed = true
		return nil, err
	}
	r := sourceReader{rc, s}
	seeker, seeks := rc.(io.Seeker)
	writer, writes := rc.(io.WriterTo)
	switch {
	case seeks && writes:
		return &sourceWriter{sourceSeeker{r, seeker}, writer}, nil
	case seeks:
		return &sourceSeeker{r, seeker}, nil
	}
	return &r, nil
}

type sourceReader struct {
	io.ReadCloser
	source *markedSource
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		r.source.failed = true
	}
	return n, err
}

// sourceSeeker has Seek too: without it a driver that sends over a network would
// copy all content to memory, see storage.Source.
type sourceSeeker struct {
	sourceReader
	io.Seeker
}

// Seek implements io.Seeker.
func (r *sourceSeeker) Seek(offset int64, whence int) (int64, error) {
	n, err := r.Seeker.Seek(offset, whence)
	if err != nil {
		r.source.failed = true
	}
	return n, err
}

// sourceWriter has WriteTo too: what is in memory is written from there.
type sourceWriter struct {
	sourceSeeker
	io.WriterTo
}

// WriteTo implements io.WriterTo. An error of w is not the source's.
func (r *sourceWriter) WriteTo(w io.Writer) (int64, error) {
	out := &writeFault{w: w}
	n, err := r.WriterTo.WriteTo(out)
	if err != nil && out.err == nil {
		r.source.failed = true
	}
	return n, err
}

// writeFault keeps what w fails with.
type writeFault struct {
	w   io.Writer
	err error
}

func (f *writeFault) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil {
		f.err = err
	}
	return n, err
}
