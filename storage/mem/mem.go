// Package mem is a [storage.Store] in memory, for tests: it keeps every promise
// of the interface but durability, and Clone makes copies of the whole store,
// so that a test can look at what a crash at this moment would leave behind.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pgbak/pgbak/storage"
)

// Store is a map from keys to contents. It is ready for use by several
// goroutines.
type Store struct {
	mu      sync.RWMutex
	objects map[string][]byte // the slices are never written to
}

var _ storage.Store = (*Store)(nil)

// New returns an empty Store.
func New() *Store { return &Store{objects: map[string][]byte{}} }

// Clone returns a Store with the same objects that goes its own way from here.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Store{objects: maps.Clone(s.objects)}
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if err := check(ctx, key); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if o.IfAbsent && s.has(key) {
		return fmt.Errorf("put %q: %w", key, storage.ErrExist) // as a directory does: the content is not looked at
	}
	var content bytes.Buffer
	if err := storage.CopySource(ctx, &content, src); err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[key]; taken && o.IfAbsent {
		return fmt.Errorf("put %q: %w", key, storage.ErrExist)
	}
	s.objects[key] = content.Bytes()
	return nil
}

func (s *Store) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, taken := s.objects[key]
	return taken
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	content, err := s.object(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %w", err)
	}
	if r.Length < 0 {
		return nil, fmt.Errorf("get %q: negative length %d", key, r.Length)
	}
	size := int64(len(content))
	from := min(r.Offset, size)
	if from < 0 {
		from = max(size+from, 0)
	}
	n := size - from
	if r.Length > 0 {
		n = min(n, r.Length)
	}
	return &reader{ctx: ctx, content: bytes.NewReader(content[from : from+n])}, nil
}

// reader ends with its context, as a reader from a network would.
type reader struct {
	ctx     context.Context
	content *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.content.Read(p)
}

func (r *reader) Close() error { return nil }

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	content, err := s.object(ctx, key)
	if err != nil {
		return storage.Object{}, fmt.Errorf("stat %w", err)
	}
	return storage.Object{Key: key, Size: int64(len(content))}, nil
}

func (s *Store) object(ctx context.Context, key string) ([]byte, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	content, ok := s.objects[key]
	if !ok {
		return nil, fmt.Errorf("%q: %w", key, storage.ErrNotExist)
	}
	return content, nil
}

// List implements [storage.Store]; it yields what is there when it begins.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for _, o := range s.snapshot(prefix, after) {
			if ctx.Err() != nil {
				break
			}
			if !yield(o, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(storage.Object{}, fmt.Errorf("list %q: %w", prefix, context.Cause(ctx)))
		}
	}
}

func (s *Store) snapshot(prefix, after string) []storage.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []storage.Object
	for key, content := range s.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			found = append(found, storage.Object{Key: key, Size: int64(len(content))})
		}
	}
	slices.SortFunc(found, func(a, b storage.Object) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := check(ctx, key); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.objects, key)
	}
	return nil
}

// Properties implements [storage.Store].
func (s *Store) Properties() storage.Properties {
	return storage.Properties{Location: "memory", ConditionalPut: true, CheapReads: true}
}

func check(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%q: %w", key, context.Cause(ctx))
	}
	return storage.CheckKey(key)
}
