package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pgbak/pgbak/storage"
)

// Put implements [storage.Store]. An object becomes visible only when the server
// has all of it, by the protocol.
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if err := storage.CheckKey(key); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if cause := ended(ctx); cause != nil {
		return s.failed(ctx, "put", key, cause)
	}
	if src.Size() >= s.o.MultipartFrom {
		return s.putLarge(ctx, key, src, o)
	}
	c, err := openContent(ctx, src)
	if err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	defer c.Close()
	input := &awss3.PutObjectInput{
		Bucket: s.bucket(), Key: s.object(key), Body: c,
		StorageClass: types.StorageClass(s.o.StorageClass), ServerSideEncryption: types.ServerSideEncryption(s.o.SSE),
		SSEKMSKeyId: optional(s.o.KMSKeyID), IfNoneMatch: ifNoneMatch(o),
	}
	err = s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
		if _, err := c.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := s.client.PutObject(ctx, input, region, withPayloadHash(c.hash))
		return err
	})
	return s.putResult(ctx, key, err, c, o)
}

// putResult makes the error of a Put. It is asked after the request has ended, when
// nobody reads the content any more.
func (s *Store) putResult(ctx context.Context, key string, err error, c *content, o storage.PutOptions) error {
	if err == nil {
		s.hasPut.Store(true)
		return nil
	}
	if c != nil && c.err != nil && ctx.Err() == nil {
		return fmt.Errorf("put %q: %w", key, c.err)
	}
	kinds := taken(err, o)
	if s.spuriousDenial(err) {
		kinds = []error{storage.ErrTransient}
	}
	return s.failed(ctx, "put", key, err, kinds...)
}

// spuriousDenial recognises a race in MinIO on one disk: when others delete the last
// object beside a new one, MinIO removes the directory under its feet, tries once
// more, and if that happens again calls it AccessDenied. Who was allowed to put before
// is believed to be allowed still.
func (s *Store) spuriousDenial(err error) bool {
	var said *serverError
	return errors.As(err, &said) && said.server == "MinIO" && said.Code == "AccessDenied" && s.hasPut.Load()
}

// taken is the answer to If-None-Match when there is an object.
func taken(err error, o storage.PutOptions) []error {
	var said *serverError
	if o.IfAbsent && errors.As(err, &said) && said.Status == http.StatusPreconditionFailed {
		return []error{storage.ErrExist}
	}
	return nil
}

func ifNoneMatch(o storage.PutOptions) *string {
	if o.IfAbsent {
		return aws.String("*")
	}
	return nil
}

// optional is nil for "": the SDK sends a header for every pointer.
func optional(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}
