package s3

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"

	"github.com/pgbak/pgbak/internal/hint"
)

// connect makes the SDK's client. It sends nothing.
func (s *Store) connect(ctx context.Context) error {
	transport, err := newTransport(&s.o)
	if err != nil {
		return err
	}
	var settings []func(*config.LoadOptions) error
	if s.o.Region != "" {
		settings = append(settings, config.WithRegion(s.o.Region))
	}
	files := newFileCredentials(s.o.Credentials, s.o.Clock)
	if files != nil {
		// With a provider the SDK does not set up its chain, of which the last link
		// asks a service on the network.
		settings = append(settings, config.WithCredentialsProvider(files))
	}
	cfg := aws.Config{Region: s.o.Region, Credentials: files}
	if files == nil || s.o.Region == "" || s.o.Endpoint == "" {
		// Something is left to the environment and the files of the AWS tools;
		// archive-push need not look there for nothing.
		var err error
		if cfg, err = config.LoadDefaultConfig(ctx, settings...); err != nil {
			return fmt.Errorf("read the configuration of the AWS tools: %w", err)
		}
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1" // what S3 itself takes for unsaid; another shows with the first request
	}
	s.identity = &identity{files: files, chain: cfg.Credentials}
	s.client = awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		o.HTTPClient = &answers{transport}
		o.Credentials = s.identity
		o.Retryer = aws.NopRetryer{}
		o.UsePathStyle = s.o.PathStyle
		if s.o.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.o.Endpoint)
		}
		// Otherwise the SDK sends checksums in trailers, which older servers take
		// for content.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	s.o.Region = cfg.Region
	if base := s.client.Options().BaseEndpoint; base != nil {
		// The environment of the AWS tools may name one too, which nobody has checked:
		// with a password in it, it would stand in every error.
		if u, err := url.Parse(*base); err != nil || u.User != nil {
			return hint.Wrap(errors.New("the endpoint that the environment of the AWS tools names holds credentials, or is no URL"),
				"write it as https://s3.example.com or https://s3.example.com:9000, and give credentials by files or the environment.")
		}
		s.o.Endpoint = *base
		s.location = s.o.location()
	}
	return nil
}

// request sends one request by try, and once more if the bucket turns out to be in
// another region. What the server said is in the error, which is not yet
// for the caller: see failed.
func (s *Store) request(ctx context.Context, try func(context.Context, func(*awss3.Options)) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := s.requestOnce(ctx, try)
	var said *serverError
	if errors.As(err, &said) && s.learnRegion(said) {
		err = s.requestOnce(ctx, try)
	}
	return err
}

func (s *Store) requestOnce(ctx context.Context, try func(context.Context, func(*awss3.Options)) error) error {
	asked := &answer{}
	err := try(context.WithValue(ctx, answerKey{}, asked), s.inRegion)
	if asked.fault == nil {
		return err
	}
	return s.identity.renew(ctx, asked.fault, asked.signed)
}

// inRegion directs a request to the region that was learned.
func (s *Store) inRegion(o *awss3.Options) {
	if region := s.region.Load(); region != nil {
		o.Region = *region
	}
}

// learnRegion tells whether the server has named a region that is news, so that
// the request should be tried there.
func (s *Store) learnRegion(said *serverError) bool {
	if !said.wrongRegion() || said.Region == "" {
		return false
	}
	known := s.region.Load()
	if known != nil && *known == said.Region {
		return said.region != said.Region // another request has learned it meanwhile
	}
	if known == nil && s.o.Region == said.Region {
		return false
	}
	if s.region.CompareAndSwap(known, &said.Region) && known == nil {
		s.o.Log.Warn("the bucket is in another region than configured: set s3.region to spare a request",
			"storage", s.location, "configured", s.o.Region, "region", said.Region)
	}
	return true
}

// withPayloadHash gives the SHA-256 (hex) that is signed for the content. Without
// it the SDK does not sign content that goes through TLS.
func withPayloadHash(hash string) func(*awss3.Options) {
	return func(o *awss3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("PayloadHash",
				func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
					middleware.InitializeOutput, middleware.Metadata, error) {
					return next.HandleInitialize(v4.SetPayloadHash(ctx, hash), in)
				}), middleware.Before)
		})
	}
}
