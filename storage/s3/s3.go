package s3

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// Options say where the bucket is, who asks, and how. Bucket is needed, the zero
// value of all else is usable.
type Options struct {
	// Bucket is the bucket's name. Prefix comes before all keys, with a slash
	// between; it does not begin or end with one, and may be "".
	Bucket, Prefix string
	// Endpoint is http:// or https:// with host and perhaps port; "" is AWS.
	Endpoint string
	// Region is signed into each request. "" takes what the environment or the
	// shared configuration of the AWS tools says, else us-east-1.
	Region string
	// PathStyle puts the bucket in the path of the URL and not in front of the host.
	PathStyle bool
	// CAFile has certificates (PEM); with it only these are trusted.
	CAFile string
	// StorageClass is that of new objects; "" is the bucket's default.
	StorageClass string
	// SSE is how the server encrypts new objects: "" (the bucket's default), AES256,
	// aws:kms or aws:kms:dsse; KMSKeyID the key for the latter two, "" is the account's.
	SSE, KMSKeyID string
	// Credentials are files; without them the SDK looks for credentials where
	// all AWS tools do: environment, shared files, web identity, container, instance.
	Credentials CredentialFiles
	// Connections is how many there are at most; further requests wait. An open
	// reader of Get counts until it is closed. 0 is 32.
	Connections int
	// PartSize and MultipartFrom, in bytes: content from MultipartFrom on is sent
	// in parts of PartSize. 0 is 32 MiB and 128 MiB.
	PartSize, MultipartFrom int64
	// Timeouts bound the waiting for a server that does not answer.
	Timeouts Timeouts
	// Again runs one request of an operation that takes several (a part, a page of
	// a list, a thousand keys of a delete), and runs it again as the caller's
	// policy wants; nil runs it once. What it is given tells the errors apart as
	// Store's methods do.
	Again func(ctx context.Context, what string, try func(context.Context) error) error
	// Clock is the time; nil is the machine's. Timeouts of connections are
	// set by it, so it must not stand still.
	Clock func() time.Time
	// Log gets a warning when the bucket is in another region; nil is nobody.
	Log *slog.Logger

	// dial replaces the way to connections, in tests.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a bucket, or what is below a prefix in it. It is ready for use by
// several goroutines.
type Store struct {
	o        Options
	client   *awss3.Client
	identity *identity
	location string
	// region is where the bucket turned out to be, when that is not o.Region.
	region atomic.Pointer[string]
	hasPut atomic.Bool // once at least
	// parts has the memory of each part of a large object that nobody is sending; nil
	// where there was none yet.
	parts chan []byte
}

var _ storage.Store = (*Store)(nil)

// Open checks the options and reads the CA file and, of the AWS tools' shared
// files, what is there. It sends no request: whether the bucket exists and the
// credentials are good shows with the first operation.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.setDefaults()
	s := &Store{o: o, location: o.location(), parts: make(chan []byte, partsAtOnce)}
	for range partsAtOnce {
		s.parts <- nil
	}
	if err := s.connect(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", s.location, err)
	}
	return s, nil
}

// Properties implements [storage.Store].
func (s *Store) Properties() storage.Properties {
	return storage.Properties{Location: s.location, ConditionalPut: true}
}

func (o *Options) check() error {
	if len(o.Bucket) < 3 || len(o.Bucket) > 255 || strings.ContainsFunc(o.Bucket, notInBucket) {
		return fmt.Errorf("s3: %q cannot be the name of a bucket", o.Bucket)
	}
	if o.Prefix != "" && (storage.CheckKey(o.Prefix) != nil || len(o.Prefix) > maxPrefix) {
		return fmt.Errorf("s3: %q cannot be a prefix of keys: "+
			"it needs up to %d bytes, without slashes at its ends or empty elements", o.Prefix, maxPrefix)
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
			u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			// An endpoint that was written with a password must not be shown.
			return hint.Wrap(fmt.Errorf("s3: the endpoint is not http:// or https:// with a host and a port"),
				"write it as https://s3.example.com or https://s3.example.com:9000.")
		}
	}
	switch o.SSE {
	case "", "AES256":
		if o.KMSKeyID != "" {
			return fmt.Errorf("s3: a KMS key is for server-side encryption aws:kms or aws:kms:dsse, not for %q", o.SSE)
		}
	case "aws:kms", "aws:kms:dsse":
	default:
		return fmt.Errorf("s3: server-side encryption %q is unknown: it is AES256, aws:kms or aws:kms:dsse", o.SSE)
	}
	if o.Connections < 0 || o.PartSize < 0 || o.MultipartFrom < 0 {
		return fmt.Errorf("s3: connections and sizes are not negative")
	}
	return o.Credentials.check()
}

// maxPrefix leaves room for keys of storage.MaxKey bytes in the 1024 of S3.
const maxPrefix = 1024 - storage.MaxKey - 1

// notInBucket is wider than the rules of AWS, whose first buckets and whose
// imitators have capitals and underscores too.
func notInBucket(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
}

func (o *Options) setDefaults() {
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.Connections == 0 {
		o.Connections = 32
	}
	if o.PartSize == 0 {
		o.PartSize = 32 << 20
	}
	if o.MultipartFrom == 0 {
		o.MultipartFrom = 128 << 20
	}
	o.Timeouts.setDefaults()
	if o.Again == nil {
		o.Again = func(ctx context.Context, _ string, try func(context.Context) error) error { return try(ctx) }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
}

// location is how people know the place: no secret is in it.
func (o *Options) location() string {
	where := "s3://" + o.Bucket
	if o.Prefix != "" {
		where += "/" + o.Prefix
	}
	if o.Endpoint != "" {
		where += " at " + o.Endpoint
	}
	return where
}

// object is the key in the bucket.
func (s *Store) object(key string) *string {
	if s.o.Prefix != "" {
		key = s.o.Prefix + "/" + key
	}
	return aws.String(key)
}

func (s *Store) bucket() *string { return aws.String(s.o.Bucket) }
