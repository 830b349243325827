package s3

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pgbak/pgbak/storage"
)

// List implements [storage.Store]. It holds one page of up to 1000 keys. What is
// in the bucket and cannot be an object of a Store, such as the "directories" that
// some tools put there, is passed over.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if !canBegin(prefix) {
			if cause := ended(ctx); cause != nil {
				yield(storage.Object{}, s.failed(ctx, "list", prefix, cause))
			}
			return
		}
		err := s.list(ctx, prefix, after, func(o storage.Object) bool { return yield(o, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, s.failed(ctx, "list", prefix, err))
		}
	}
}

// errStop: the caller of List wants no more.
var errStop = errors.New("stop")

func (s *Store) list(ctx context.Context, prefix, after string, yield func(storage.Object) bool) error {
	input := &awss3.ListObjectsV2Input{
		Bucket: s.bucket(), Prefix: s.object(askedPrefix(prefix)),
		EncodingType: types.EncodingTypeUrl, // keys can have bytes that XML cannot
	}
	if after != "" {
		input.StartAfter = s.object(after)
	}
	last := ""
	for {
		page, err := s.page(ctx, prefix, input)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			if cause := ended(ctx); cause != nil {
				return cause
			}
			full, err := decodeKey(page, aws.ToString(o.Key))
			if err != nil {
				return err
			}
			if !strings.HasPrefix(full, *input.Prefix) || full <= last {
				return fmt.Errorf("the server listed %q after %q for the prefix %q: it must list in ascending byte order",
					full, last, *input.Prefix)
			}
			last = full
			key := full[len(*s.object("")):]
			if storage.CheckKey(key) != nil || !strings.HasPrefix(key, prefix) || key <= after {
				continue
			}
			if o.Size == nil {
				return fmt.Errorf("the server listed %q without its size", full)
			}
			if !yield(storage.Object{Key: key, Size: *o.Size}) {
				return errStop
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return nil
		}
		if aws.ToString(page.NextContinuationToken) == "" {
			return errors.New("the server broke a list off without saying where to go on")
		}
		input.ContinuationToken = page.NextContinuationToken
	}
}

func (s *Store) page(ctx context.Context, prefix string, input *awss3.ListObjectsV2Input) (*awss3.ListObjectsV2Output, error) {
	var page *awss3.ListObjectsV2Output
	err := s.o.Again(ctx, fmt.Sprintf("list %q", prefix), func(ctx context.Context) error {
		err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) (err error) {
			page, err = s.client.ListObjectsV2(ctx, input, region)
			if err == nil && page.KeyCount == nil && page.Name == nil && page.IsTruncated == nil {
				// An empty list that is none would hide every object.
				return errors.New("the server's answer is no list")
			}
			return err
		})
		if err != nil {
			return s.failed(ctx, "list", prefix, err)
		}
		return nil
	})
	return page, err
}

// decodeKey undoes the encoding that was asked for; a server that does not know it
// does not say that it has used it.
func decodeKey(page *awss3.ListObjectsV2Output, key string) (string, error) {
	if page.EncodingType != types.EncodingTypeUrl {
		return key, nil
	}
	decoded, err := url.QueryUnescape(key)
	if err != nil {
		return "", fmt.Errorf("the server listed a key in a wrong encoding: %w", err)
	}
	return decoded, nil
}

// askedPrefix is prefix without a last "." or "..", which begin keys such as
// "...", but which MinIO refuses to look for.
func askedPrefix(prefix string) string {
	i := strings.LastIndexByte(prefix, '/') + 1
	if rest := prefix[i:]; rest == "." || rest == ".." {
		return prefix[:i]
	}
	return prefix
}

// canBegin tells whether a valid key can begin with prefix. Others are not asked
// for: servers that keep objects as files do not agree on what "a//../" is.
func canBegin(prefix string) bool {
	if prefix == "" {
		return true
	}
	above, rest := "", prefix
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		above, rest = prefix[:i], prefix[i+1:]
		if storage.CheckKey(above) != nil || len(prefix) >= storage.MaxKey {
			return false
		}
		above += "/"
	}
	// "", "." and ".." are no elements but begin some.
	return storage.CheckKey(above+rest) == nil || rest == "" || rest == "." || rest == ".."
}
