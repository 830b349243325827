// Package storage keeps immutable objects under slash-separated keys. It is
// the lowest layer of pgbak: everything above it speaks to a [Store] and never
// to a disk or a bucket.
//
// Drivers (storage/posix, storage/s3, storage/mem) are dumb: they do not retry,
// limit, count or log. That is added by decorators of the same interface
// (storage/retry, storage/limit, storage/metrics, storage/readonly; storage/faulty
// injects faults in tests). The promises of the interface are checked by one
// suite, storage/conformance, which every driver and every decorator passes.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
)

// ErrNotExist is wrapped by Get and Stat when the store proves that no object
// has the key. A fault (timeout, permission, broken disk) is never reported as
// ErrNotExist: callers turn it into "the WAL ends here".
var ErrNotExist = errors.New("object does not exist")

// ErrExist is wrapped by Put with PutOptions.IfAbsent when the key is taken.
var ErrExist = errors.New("object already exists")

// ErrNoSpace is wrapped by Put when the store has no room left; the object is
// then not visible and nothing of it remains.
var ErrNoSpace = errors.New("no space left in the repository storage")

// ErrTransient is wrapped by errors that may be gone when the same operation is
// tried again: a lost connection, a timeout, a server that is overloaded or
// restarting. Every other error will come again. Drivers tell which is which;
// whether, how often and how long something is tried again is for the caller, or
// for the decorator storage/retry that stands between them.
//
// A Put that fails with ErrTransient may have had its effect.
var ErrTransient = errors.New("the storage may recover")

// ErrThrottled is wrapped, besides ErrTransient, when the store asks for fewer
// requests: wait longer before the next.
var ErrThrottled = errors.New("the storage asks for fewer requests")

// Store keeps immutable objects under keys. A driver promises:
//
//   - Put is all-or-nothing: a reader sees the whole object or none, also
//     after a crash of the writer or of the machine; and it is durable when
//     Put returns nil. After an error the object may or may not be there.
//   - With PutOptions.IfAbsent exactly one of several concurrent Puts of a key
//     with different contents succeeds, the others get an error that wraps
//     ErrExist and change nothing. Of Puts of one content more than one may
//     succeed: who retries after a lost answer takes his own object, when he
//     finds it there, for success. Where Properties.ConditionalPut is false this
//     holds only for Puts that do not overlap.
//   - What was Put is at once visible to Get, Stat and List of every client.
//   - List yields the objects whose key begins with the prefix and comes behind
//     after, in ascending byte order of the key; it sees every object that was
//     there before it began and was not deleted since. after is "" for all; a
//     list that begins far behind the prefix costs no more than another one.
//   - Get, Stat: an absent key gives an error that wraps ErrNotExist. Delete of
//     an absent key is no error.
//   - All methods may be called concurrently, and end soon after their context.
//   - Drivers do not retry: an error that wraps ErrTransient says that the caller
//     may. The exception are the single requests of an operation that needs many
//     (parts of a large object, pages of a list), which nobody else can repeat.
//
// Keys are non-empty, slash-separated, and pass [CheckKey].
type Store interface {
	Put(ctx context.Context, key string, src Source, o PutOptions) error
	// Get reads the range of the object; the caller closes the reader. A read
	// that ends early, because the object is shorter than the range asks for,
	// ends in io.EOF without an error: lengths are the caller's to check.
	Get(ctx context.Context, key string, r Range) (io.ReadCloser, error)
	Stat(ctx context.Context, key string) (Object, error)
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	Delete(ctx context.Context, keys ...string) error
	Properties() Properties
}

// Object is what List and Stat tell about an object. There is no time: no
// decision of pgbak may depend on a store's clock.
type Object struct {
	Key  string
	Size int64 // bytes
}

// Source is content that can be read more than once, because a Put may have
// to be tried again.
type Source interface {
	// Size is the number of bytes that every reader from Open yields.
	Size() int64
	// Open begins at the first byte. A reader that is an io.Seeker too spares a
	// driver, which must know a checksum before it sends, a copy in memory.
	Open() (io.ReadCloser, error)
}

// PutOptions say how Put treats a key that is taken; the zero value replaces.
type PutOptions struct {
	IfAbsent bool
}

// Range selects bytes of an object. The zero value is the whole object.
type Range struct {
	// Offset counts from the start, or, if negative, from the end: -n asks for
	// the last n bytes, and for the whole object when it is shorter.
	Offset int64
	// Length in bytes; 0 means up to the end.
	Length int64
}

// Properties are a store's capabilities as data.
type Properties struct {
	// Location is what errors and info call the store, without secrets.
	Location string
	// ConditionalPut tells that PutOptions.IfAbsent holds under a race.
	ConditionalPut bool
	// CheapReads tells that many small reads cost neither money nor round trips,
	// as on a local disk: then content is read back before it is relied upon.
	CheapReads bool
}
