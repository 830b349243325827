package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/pgbak/pgbak/storage"
)

// deleteAtOnce is S3's limit of keys in one request.
const deleteAtOnce = 1000

// Delete implements [storage.Store]. After an error some of the keys may be gone.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	if cause := ended(ctx); cause != nil {
		return s.failed(ctx, "delete", "", cause)
	}
	if len(keys) == 1 {
		return s.deleteOne(ctx, keys[0])
	}
	for some := range slices.Chunk(keys, deleteAtOnce) {
		if err := s.deleteMany(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) deleteOne(ctx context.Context, key string) error {
	return s.o.Again(ctx, fmt.Sprintf("delete %q", key), func(ctx context.Context) error {
		err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) error {
			_, err := s.client.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: s.bucket(), Key: s.object(key)}, region)
			return err
		})
		if err == nil || absence(err) != nil {
			return nil
		}
		return s.failed(ctx, "delete", key, err)
	})
}

func (s *Store) deleteMany(ctx context.Context, keys []string) error {
	objects := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		objects[i].Key = s.object(key)
	}
	input := &awss3.DeleteObjectsInput{Bucket: s.bucket(), Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)}}
	what := fmt.Sprintf("delete %d objects from", len(keys))
	return s.o.Again(ctx, fmt.Sprintf("%s %q", what, keys[0]), func(ctx context.Context) error {
		var output *awss3.DeleteObjectsOutput
		err := s.request(ctx, func(ctx context.Context, region func(*awss3.Options)) (err error) {
			output, err = s.client.DeleteObjects(ctx, input, region, withContentMD5)
			return err
		})
		if err != nil {
			return s.failed(ctx, what, keys[0], err)
		}
		return s.deleteFaults(ctx, output.Errors)
	})
}

// deleteFaults is the error for the keys that an otherwise successful answer says
// could not be deleted.
func (s *Store) deleteFaults(ctx context.Context, refused []types.Error) error {
	var faults []error
	for _, r := range refused {
		said := &serverError{Status: 200, Code: aws.ToString(r.Code), Message: aws.ToString(r.Message)}
		if said.Code == "NoSuchKey" {
			continue
		}
		full := aws.ToString(r.Key)
		faults = append(faults, s.failed(ctx, "delete", full[min(len(full), len(*s.object(""))):], said))
	}
	if len(faults) == 0 {
		return nil
	}
	// All of them count for what kind of error it is: if one will come again, trying
	// again is in vain.
	var kinds []error
	for _, kind := range []error{storage.ErrTransient, storage.ErrThrottled} {
		if !slices.ContainsFunc(faults, func(err error) bool { return !errors.Is(err, storage.ErrTransient) }) &&
			slices.ContainsFunc(faults, func(err error) bool { return errors.Is(err, kind) }) {
			kinds = append(kinds, kind)
		}
	}
	text := faults[0].Error()
	if len(faults) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(faults)-1)
	}
	return &failure{text: text, cause: errors.New(text), kinds: kinds}
}

// withContentMD5 sends the checksum that every server has asked for since there is
// this operation, instead of the SDK's CRC32, which only newer servers know.
func withContentMD5(o *awss3.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		for _, id := range []string{"AWSChecksum:SetupInputContext"} {
			if _, err := stack.Initialize.Remove(id); err != nil {
				return err
			}
		}
		if _, err := stack.Finalize.Remove("AWSChecksum:ComputeInputPayloadChecksum"); err != nil {
			return err
		}
		return smithyhttp.AddContentChecksumMiddleware(stack)
	})
}
