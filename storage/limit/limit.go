// Package limit decorates a [storage.Store] so that it takes no more than its
// share of a network, a disk or a server's patience: bytes per second up and
// down, and operations per second. The rates are those of the Store as a whole,
// whatever number of goroutines use it. [Parse] and [ParseRequests] read what a
// user writes.
//
// Bandwidth is held where the bytes pass: in the reader that the driver gets of
// a Put's source, and in the one that the caller gets of a Get. So a large
// object flows evenly instead of coming in one burst after a pause. Every byte
// that a driver reads counts, and also what it reads twice; a driver that must
// know a checksum before it sends takes the content for that from
// [storage.Unpaced], so that only what it sends is counted. Of a source that a
// driver copies to memory before it sends (one that cannot seek, the parts of a
// large object) the copying is what is held back.
//
// A rate is a bucket of tokens (golang.org/x/time/rate) that holds what flows
// in a tenth of a second, but at least 64 KiB, or one operation: so much may
// pass at once. An operation is one call of an interface's method: the parts of
// a large object and the pages of a list are not counted by themselves.
package limit

import (
	"context"
	"io"
	"iter"
	"time"

	"golang.org/x/time/rate"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/storage"
)

// Limits are what [New] holds.
type Limits struct {
	Upload, Download int64   // bytes per second; 0 is no limit
	Requests         float64 // operations per second; 0 is no limit

	// Clock tells how much time has passed; nil is the machine's.
	Clock func() time.Time
	// Sleep waits for d, or until ctx ends, and then gives its cause; nil is a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Store is the decorated Store.
type Store struct {
	inner            storage.Store
	upload, download *bucket // nil is no limit
	requests         *bucket
}

var _ storage.Store = (*Store)(nil)

// New decorates st.
func New(st storage.Store, l Limits) *Store {
	if l.Clock == nil {
		l.Clock = time.Now
	}
	if l.Sleep == nil {
		l.Sleep = pause.For
	}
	const smallest = 64 << 10
	return &Store{
		inner:    st,
		upload:   newBucket(l, float64(l.Upload), smallest),
		download: newBucket(l, float64(l.Download), smallest),
		requests: newBucket(l, l.Requests, 1),
	}
}

// bucket is one rate.
type bucket struct {
	tokens *rate.Limiter
	limits Limits
	// piece is how much is taken at once: what flows in a tenth of a second, but
	// not less than makes sense to send and not more than the bucket holds.
	piece int
}

func newBucket(l Limits, perSecond, smallest float64) *bucket {
	if perSecond <= 0 {
		return nil
	}
	const page = 4 << 10
	burst := int(max(perSecond/10, smallest))
	return &bucket{
		tokens: rate.NewLimiter(rate.Limit(perSecond), burst),
		limits: l,
		piece:  min(burst, max(int(perSecond/10), page)),
	}
}

// take waits until n tokens are there, n being at most a piece. It ends at once
// with the cause when ctx does.
func (b *bucket) take(ctx context.Context, n int) error {
	if b == nil || n == 0 {
		return nil
	}
	now := b.limits.Clock()
	taken := b.tokens.ReserveN(now, n)
	delay := taken.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	err := b.limits.Sleep(ctx, delay)
	if err != nil {
		taken.CancelAt(b.limits.Clock())
	}
	return err
}

// paced reads no faster than its bucket allows.
type paced struct {
	io.ReadCloser
	ctx    context.Context
	bucket *bucket
}

// Read implements io.Reader. It takes the tokens after it has read, when it
// knows how many, and passes the bytes on when they are there.
func (p paced) Read(buf []byte) (int, error) {
	n, err := p.ReadCloser.Read(buf[:min(len(buf), p.bucket.piece)])
	if fault := p.bucket.take(p.ctx, n); fault != nil {
		return 0, fault
	}
	return n, err
}

// Unpaced is for [storage.Unpaced].
func (p paced) Unpaced() io.Reader { return p.ReadCloser }

// pacedSeeker is paced with the Seek of what it reads from.
type pacedSeeker struct {
	paced
	io.Seeker
}

// source is a Source whose readers are paced.
type source struct {
	storage.Source
	ctx    context.Context
	bucket *bucket
}

// Open implements [storage.Source].
func (s source) Open() (io.ReadCloser, error) {
	r, err := s.Source.Open()
	if err != nil {
		return nil, err
	}
	p := paced{ReadCloser: r, ctx: s.ctx, bucket: s.bucket}
	if seeker, ok := r.(io.Seeker); ok {
		return pacedSeeker{p, seeker}, nil
	}
	return p, nil
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if err := s.requests.take(ctx, 1); err != nil {
		return err
	}
	if s.upload != nil {
		src = source{src, ctx, s.upload}
	}
	return s.inner.Put(ctx, key, src, o)
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	if err := s.requests.take(ctx, 1); err != nil {
		return nil, err
	}
	body, err := s.inner.Get(ctx, key, r)
	if err != nil || s.download == nil {
		return body, err
	}
	return paced{ReadCloser: body, ctx: ctx, bucket: s.download}, nil
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	if err := s.requests.take(ctx, 1); err != nil {
		return storage.Object{}, err
	}
	return s.inner.Stat(ctx, key)
}

// List implements [storage.Store].
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := s.requests.take(ctx, 1); err != nil {
			yield(storage.Object{}, err)
			return
		}
		s.inner.List(ctx, prefix, after)(yield)
	}
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if err := s.requests.take(ctx, 1); err != nil {
		return err
	}
	return s.inner.Delete(ctx, keys...)
}

// Properties implements [storage.Store].
func (s *Store) Properties() storage.Properties { return s.inner.Properties() }
