package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
)

const (
	// partsAtOnce is how many parts are in memory and on their way, in all Puts of
	// a Store together.
	partsAtOnce = 3
	// maxParts is S3's limit for one object.
	maxParts = 10_000
	// abortTime bounds the attempt to take back an upload, which is also made when
	// the caller's context has ended.
	abortTime = 15 * time.Second
)

// putLarge sends the content in parts. What the server has of them is no object
// until the upload is completed.
func (s *Store) putLarge(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if o.IfAbsent {
		// The server looks at If-None-Match only at the very end.
		if _, err := s.Stat(ctx, key); err == nil {
			return s.failed(ctx, "put", key, storage.ErrExist, storage.ErrExist)
		} else if !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	u := &upload{store: s, key: key}
	if err := u.begin(ctx); err != nil {
		return s.failed(ctx, "put", key, err)
	}
	err := u.send(ctx, src)
	if err == nil {
		err = u.complete(ctx, o)
	}
	if err != nil {
		// Parts of an upload that nobody ends cost money until somebody finds them. If
		// it was completed and only the answer is missing, there is nothing to take back.
		u.abort(ctx)
		return err
	}
	return nil
}

// upload is one multipart upload.
type upload struct {
	store *Store
	key   string
	id    *string
	parts []types.CompletedPart
}

func (u *upload) begin(ctx context.Context) error {
	s := u.store
	input := &awss3.CreateMultipartUploadInput{
		Bucket: s.bucket(), Key: s.object(u.key),
		StorageClass: types.StorageClass(s.o.StorageClass), ServerSideEncryption: types.ServerSideEncryption(s.o.SSE),
		SSEKMSKeyId: optional(s.o.KMSKeyID),
	}
	return s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
		output, err := s.client.CreateMultipartUpload(ctx, input, region)
		if err == nil && aws.ToString(output.UploadId) == "" {
			return errors.New("the server began an upload without a name")
		}
		if err == nil {
			u.id = output.UploadId
		}
		return err
	})
}

// send reads the source part by part and sends some at a time. It returns the
// error for Put.
func (u *upload) send(ctx context.Context, src storage.Source) error {
	s, size := u.store, src.Size()
	r, err := src.Open()
	if err != nil {
		return fmt.Errorf("put %q: open content: %w", u.key, err)
	}
	defer r.Close()
	partSize := max(s.o.PartSize, (size+maxParts-1)/maxParts)
	u.parts = make([]types.CompletedPart, (size+partSize-1)/partSize)
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range u.parts {
		b, ok := s.acquirePart(groupCtx, min(partSize, size-int64(i)*partSize))
		if !ok {
			break
		}
		if _, err := io.ReadFull(r, b); err != nil {
			s.releasePart(b)
			group.Go(func() error { return sourceFault(u.key, err) })
			break
		}
		group.Go(func() error {
			defer s.releasePart(b)
			return u.sendPart(groupCtx, i, b)
		})
	}
	if err := group.Wait(); err != nil {
		return s.failed(ctx, "put", u.key, err)
	}
	if cause := ended(ctx); cause != nil {
		return s.failed(ctx, "put", u.key, cause)
	}
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("put %q: %w: more bytes follow", u.key, storage.ErrSource)
	case err != io.EOF:
		return sourceFault(u.key, err)
	}
	return nil
}

// sourceFault is a failure of the caller's content; it is marked so that nothing
// takes it for one of the storage.
func sourceFault(key string, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: it is shorter", storage.ErrSource)
	}
	return &failure{text: fmt.Sprintf("put %q: copy content: %v", key, err), cause: err}
}

// acquirePart waits for the memory of a part of size bytes; false if ctx ends before.
func (s *Store) acquirePart(ctx context.Context, size int64) ([]byte, bool) {
	select {
	case b := <-s.parts:
		if int64(cap(b)) < size {
			b = make([]byte, size)
		}
		return b[:size], true
	case <-ctx.Done():
		return nil, false
	}
}

func (s *Store) releasePart(b []byte) { s.parts <- b }

func (u *upload) sendPart(ctx context.Context, i int, b []byte) error {
	s := u.store
	number := aws.Int32(int32(i + 1))
	c := bytesContent(ctx, b)
	what := fmt.Sprintf("put part %d of", *number)
	return s.o.Again(ctx, fmt.Sprintf("%s %q", what, u.key), func(ctx context.Context) error {
		err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
			if _, err := c.Seek(0, io.SeekStart); err != nil {
				return err
			}
			output, err := s.client.UploadPart(ctx, &awss3.UploadPartInput{
				Bucket: s.bucket(), Key: s.object(u.key), UploadId: u.id, PartNumber: number, Body: c,
			}, region, withPayloadHash(c.hash))
			if err == nil {
				u.parts[i] = types.CompletedPart{PartNumber: number, ETag: output.ETag}
			}
			return err
		})
		if err != nil {
			return s.failed(ctx, what, u.key, err)
		}
		return nil
	})
}

// complete makes the parts an object. It is sent once: when its answer is lost, the
// object may be there, and a second completion could not tell its own object from
// another's. The caller's next Put can.
func (u *upload) complete(ctx context.Context, o storage.PutOptions) error {
	s := u.store
	input := &awss3.CompleteMultipartUploadInput{
		Bucket: s.bucket(), Key: s.object(u.key), UploadId: u.id, IfNoneMatch: ifNoneMatch(o),
		MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
	}
	err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
		output, err := s.client.CompleteMultipartUpload(ctx, input, region)
		if err == nil && output.ETag == nil {
			// The answer began with 200 and then was nothing.
			return fmt.Errorf("the server did not say how the upload ended: %w", io.ErrUnexpectedEOF)
		}
		return err
	})
	return s.putResult(ctx, u.key, err, nil, o)
}

// abort takes the parts back, as well as it can: whoever reads its error could only
// do the same once more.
func (u *upload) abort(ctx context.Context) {
	s := u.store
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
		_, err := s.client.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{
			Bucket: s.bucket(), Key: s.object(u.key), UploadId: u.id,
		}, region)
		return err
	})
	var said *serverError
	if err != nil && !(errors.As(err, &said) && said.Code == "NoSuchUpload") {
		s.o.Log.Warn("an unfinished upload stays in the bucket until a lifecycle rule removes it",
			"storage", s.location, "key", u.key, "error", s.failed(ctx, "abort upload of", u.key, err))
	}
}
