// Package faulty decorates a [storage.Store] with faults, for tests that ask
// what a program does when its storage fails at the worst moment.
//
// The work horse is [FailNth]. A test runs its program once for every n until
// a run is so short that no fault fires any more:
//
//	for n := 1; ; n++ {
//		st := faulty.FailNth(mem.New(), n)
//		err := program(st)
//		if !st.Fired() {
//			break // n is larger than the number of operations: all were tried
//		}
//		... // err must be ErrInjected; what st.Inner() holds must be right
//	}
//
// Counted are the calls of Put, Get, Stat, List and Delete, and each Read of a
// reader from Get. [OnOp] is the hook that everything else could be built on
// from outside; [New] takes one hook for before and one for after the effect.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/pgbak/pgbak/storage"
)

// ErrInjected is wrapped by every error that this package makes up.
var ErrInjected = errors.New("injected fault")

// The names of operations, as hooks and Trace tell them.
const (
	OpPut         = "put"
	OpPutIfAbsent = "put-if-absent"
	OpGet         = "get"
	OpRead        = "read" // of the reader that a get gave
	OpStat        = "stat"
	OpList        = "list"
	OpDelete      = "delete"
)

// Op is one operation on a Store.
type Op struct {
	N    int    // counts the operations of the decorated Store from 1
	Name string // OpPut and so on
	Key  string // of list the prefix, of delete the keys, separated by spaces
}

// String is what Trace shows of an operation, such as "put-if-absent packs/1".
func (o Op) String() string { return o.Name + " " + o.Key }

// Hook looks at an operation and makes it fail by returning an error. It may
// be called by several goroutines at the same time.
type Hook func(ctx context.Context, op Op) error

// Store is the decorated Store.
type Store struct {
	inner  storage.Store
	before Hook
	after  Hook
	tear   int // which put is torn, 0 for none
	stale  int // for how many operations a put is not listed

	mu    sync.Mutex
	ops   []Op
	puts  int
	put   map[string]int // by key, the last operation that put it
	fired bool
}

var _ storage.Store = (*Store)(nil)

// New decorates st by two hooks, each of which may be nil. An error of before
// keeps the operation from having any effect. An error of after replaces the
// answer of an operation that has succeeded; a List has then yielded everything.
func New(st storage.Store, before, after Hook) *Store {
	return &Store{inner: st, before: before, after: after, put: map[string]int{}}
}

// Inner is the Store without faults.
func (s *Store) Inner() storage.Store { return s.inner }

// Fired tells whether a fault has happened.
func (s *Store) Fired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired
}

// Trace gives the operations so far in the order in which they began, each as
// [Op.String]; element n-1 is the n-th operation.
func (s *Store) Trace() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	trace := make([]string, len(s.ops))
	for i, op := range s.ops {
		trace[i] = op.String()
	}
	return trace
}

// begin counts an operation and asks the first hook.
func (s *Store) begin(ctx context.Context, name, key string) (Op, error) {
	s.mu.Lock()
	op := Op{N: len(s.ops) + 1, Name: name, Key: key}
	s.ops = append(s.ops, op)
	s.mu.Unlock()
	return op, s.ask(ctx, s.before, op)
}

// end asks the second hook about an operation that has succeeded.
func (s *Store) end(ctx context.Context, op Op) error { return s.ask(ctx, s.after, op) }

func (s *Store) ask(ctx context.Context, hook Hook, op Op) error {
	if hook == nil {
		return nil
	}
	if err := hook(ctx, op); err != nil {
		s.fire()
		return fmt.Errorf("operation %d, %s: %w", op.N, op, err)
	}
	return nil
}

func (s *Store) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fired = true
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	name := OpPut
	if o.IfAbsent {
		name = OpPutIfAbsent
	}
	op, err := s.begin(ctx, name, key)
	if err != nil {
		return err
	}
	if s.torn() {
		src = prefix{src}
	}
	if err := s.inner.Put(ctx, key, src, o); err != nil {
		return err
	}
	s.remember(op)
	return s.end(ctx, op)
}

// remember notes a put for lists that shall not see it yet.
func (s *Store) remember(op Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale > 0 {
		s.put[op.Key] = op.N
	}
}

// hidden tells whether a List, which is the operation op, does not see the key.
func (s *Store) hidden(op Op, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	put, known := s.put[key]
	if !known || op.N-put > s.stale {
		return false
	}
	s.fired = true
	return true
}

// torn counts the puts and tells whether this is the one to tear.
func (s *Store) torn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.puts != s.tear {
		return false
	}
	s.fired = true
	return true
}

// prefix is the first half of a source.
type prefix struct{ storage.Source }

func (p prefix) Size() int64 { return p.Source.Size() / 2 }

func (p prefix) Open() (io.ReadCloser, error) {
	r, err := p.Source.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, p.Size()), r}, nil
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	op, err := s.begin(ctx, OpGet, key)
	if err != nil {
		return nil, err
	}
	rc, err := s.inner.Get(ctx, key, r)
	if err != nil {
		return nil, err
	}
	if err := s.end(ctx, op); err != nil {
		rc.Close()
		return nil, err
	}
	return &reader{ReadCloser: rc, ctx: ctx, store: s, key: key}, nil
}

type reader struct {
	io.ReadCloser
	ctx   context.Context
	store *Store
	key   string
}

func (r *reader) Read(p []byte) (int, error) {
	op, err := r.store.begin(r.ctx, OpRead, r.key)
	if err != nil {
		return 0, err
	}
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		return n, err
	}
	if fault := r.store.end(r.ctx, op); fault != nil {
		return 0, fault // what was read is lost with the answer
	}
	return n, err
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	op, err := s.begin(ctx, OpStat, key)
	if err != nil {
		return storage.Object{}, err
	}
	o, err := s.inner.Stat(ctx, key)
	if err != nil {
		return storage.Object{}, err
	}
	if err := s.end(ctx, op); err != nil {
		return storage.Object{}, err
	}
	return o, nil
}

// List implements [storage.Store]; each iteration is one operation.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		op, err := s.begin(ctx, OpList, prefix)
		if err != nil {
			yield(storage.Object{}, err)
			return
		}
		for o, err := range s.inner.List(ctx, prefix, after) {
			if err == nil && s.hidden(op, o.Key) {
				continue
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
		if err := s.end(ctx, op); err != nil {
			yield(storage.Object{}, err)
		}
	}
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	op, err := s.begin(ctx, OpDelete, strings.Join(keys, " "))
	if err != nil {
		return err
	}
	if err := s.inner.Delete(ctx, keys...); err != nil {
		return err
	}
	return s.end(ctx, op)
}

// Properties implements [storage.Store]; it is no operation.
func (s *Store) Properties() storage.Properties { return s.inner.Properties() }
