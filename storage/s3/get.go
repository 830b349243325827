package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pgbak/pgbak/storage"
)

// Get implements [storage.Store]. Closing the reader before its end gives the
// connection up and reads no further.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	if r.Length < 0 {
		return nil, fmt.Errorf("get %q: negative length %d", key, r.Length)
	}
	found, err := s.get(ctx, key, r)
	if outOfRange(err) {
		return io.NopCloser(bytes.NewReader(nil)), nil // the object ends before, or is empty
	}
	if err != nil {
		return nil, s.failed(ctx, "get", key, err, absence(err)...)
	}
	left := found.length
	if r.Length > 0 {
		left = min(left, r.Length)
	}
	return &reader{ctx: ctx, store: s, key: key, body: found.body, left: left}, nil
}

// Stat implements [storage.Store]. It is a GET of the first byte, as the answer to a
// HEAD has no body, and a 404 without one can come from anything on the way: it
// would not prove that the object is absent.
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Object{}, fmt.Errorf("stat: %w", err)
	}
	found, err := s.get(ctx, key, storage.Range{Length: 1})
	if outOfRange(err) {
		// It is there and has no first byte. The whole of it tells its size without
		// having to believe that.
		found, err = s.get(ctx, key, storage.Range{})
	}
	if err != nil {
		return storage.Object{}, s.failed(ctx, "stat", key, err, absence(err)...)
	}
	defer found.body.Close()
	if found.length <= 1 {
		// What is read to its end leaves a connection that can be used again.
		_, _ = io.Copy(io.Discard, found.body)
	}
	return storage.Object{Key: key, Size: found.size}, nil
}

// found is an answered GET.
type found struct {
	body   io.ReadCloser
	length int64 // of the body, in bytes
	size   int64 // of the object
}

func (s *Store) get(ctx context.Context, key string, r storage.Range) (found, error) {
	input := &awss3.GetObjectInput{Bucket: s.bucket(), Key: s.object(key), Range: rangeHeader(r)}
	var output *awss3.GetObjectOutput
	err := s.request(ctx, func(ctx context.Context, o func(*awss3.Options)) (err error) {
		output, err = s.client.GetObject(ctx, input, o)
		return err
	})
	if err != nil {
		return found{}, err
	}
	f, err := describe(output, r)
	if err != nil {
		output.Body.Close()
	}
	return f, err
}

// describe checks that the answer is what was asked for: a server, or what stands
// before it, may not know ranges.
func describe(output *awss3.GetObjectOutput, r storage.Range) (found, error) {
	if output.ContentLength == nil || *output.ContentLength < 0 {
		return found{}, errors.New("the server did not say how long its answer is")
	}
	f := found{body: output.Body, length: *output.ContentLength, size: *output.ContentLength}
	if output.ContentRange == nil {
		// The whole object. It is also what was asked for when it is all of the tail.
		if r.Offset > 0 || r.Offset < 0 && -r.Offset < f.length {
			return found{}, errors.New("the server sent the whole object where a range of it was asked for")
		}
		return f, nil
	}
	if f.length == 0 && strings.HasSuffix(*output.ContentRange, "/0") {
		return f, nil // MinIO's answer for the tail of an empty object is no range at all: "bytes 0--1/0"
	}
	first, last, size, err := parseContentRange(*output.ContentRange)
	if err != nil {
		return found{}, err
	}
	wantFirst, wantLast := span(r, size)
	if first != wantFirst || last != wantLast || last-first+1 != f.length {
		return found{}, fmt.Errorf("the server sent the range %q with %d bytes, not that which was asked for", *output.ContentRange, f.length)
	}
	f.size = size
	return f, nil
}

// span is what the request of rangeHeader selects of an object of size bytes. A
// server may send less (RFC 9110, section 15.3.7), which would look like the end.
func span(r storage.Range, size int64) (first, last int64) {
	switch {
	case r.Offset < 0:
		return max(size+max(r.Offset, -maxOffset), 0), size - 1
	case r.Length == 0 || r.Length > size-1-r.Offset:
		return r.Offset, size - 1
	}
	return r.Offset, r.Offset + r.Length - 1
}

// parseContentRange reads "bytes 0-0/1234", RFC 9110, section 14.4.
func parseContentRange(header string) (first, last, size int64, err error) {
	span, total, _ := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	from, to, _ := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	size, err3 := strconv.ParseInt(total, 10, 64)
	if errors.Join(err1, err2, err3) != nil || first < 0 || last < first || size <= 0 {
		return 0, 0, 0, fmt.Errorf("the server sent the range %q, which is none", header)
	}
	return first, last, size, nil
}

// maxOffset is beyond the end of every object, and far enough from the largest
// number that no server miscalculates.
const maxOffset = 1 << 60

func rangeHeader(r storage.Range) *string {
	switch {
	case r == storage.Range{}:
		return nil
	case r.Offset < 0:
		// The length is applied to what comes: HTTP has no such range.
		return aws.String(fmt.Sprintf("bytes=-%d", min(uint64(-r.Offset), maxOffset)))
	case r.Length == 0 || r.Length >= maxOffset:
		return aws.String(fmt.Sprintf("bytes=%d-", min(r.Offset, maxOffset)))
	}
	first := min(r.Offset, maxOffset)
	return aws.String(fmt.Sprintf("bytes=%d-%d", first, first+r.Length-1))
}

// outOfRange tells that the object is there and has nothing in the range.
func outOfRange(err error) bool {
	var said *serverError
	return errors.As(err, &said) && said.Status == http.StatusRequestedRangeNotSatisfiable && said.Code == "InvalidRange"
}

// absence is the one proof that an object does not exist.
func absence(err error) []error {
	var said *serverError
	if errors.As(err, &said) && said.Status == http.StatusNotFound && said.Code == "NoSuchKey" {
		return []error{storage.ErrNotExist}
	}
	return nil
}

// reader yields the left bytes that the answer has announced, or an error.
type reader struct {
	ctx   context.Context
	store *Store
	key   string
	body  io.ReadCloser
	left  int64
}

func (r *reader) Read(p []byte) (int, error) {
	if cause := ended(r.ctx); cause != nil {
		return 0, r.store.failed(r.ctx, "read", r.key, cause)
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == nil || r.left == 0 {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, r.store.failed(r.ctx, "read", r.key, err)
}

func (r *reader) Close() error {
	r.left = 0
	// Whatever closing says, the content has been read and its length checked.
	_ = r.body.Close()
	return nil
}
