package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Bucket makes a new bucket and returns its name, which no other bucket has.
func (s *Server) Bucket(t testing.TB) string {
	t.Helper()
	name := "pgbak-" + strings.ToLower(rand.Text()[:16])
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	status, answer, err := s.do(ctx, http.MethodPut, "/"+name, s.location())
	if err != nil || status != http.StatusOK {
		t.Fatalf("make bucket %s on %s: status %d, error %v\n%s", name, s.name, status, err, answer)
	}
	return name
}

// location is the body of CreateBucket: its region, which must not be said for us-east-1.
func (s *Server) location() []byte {
	if s.Region == "us-east-1" {
		return nil
	}
	return fmt.Appendf(nil, `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`+
		`<LocationConstraint>%s</LocationConstraint></CreateBucketConfiguration>`, s.Region)
}

// do sends one signed request by a connection of its own and returns the whole answer.
func (s *Server) do(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	return s.doAt(ctx, s.URL, method, path, body)
}

// doAt is do by way of another URL, that of a proxy.
func (s *Server) doAt(ctx context.Context, base, method, path string, body []byte) (status int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("request: %w", err)
	}
	if err := s.sign(r, body); err != nil {
		return 0, nil, err
	}
	transport := &http.Transport{TLSClientConfig: s.tlsConfig(), DisableKeepAlives: true, DialContext: DialLocal}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// sign adds the headers of AWS Signature Version 4 to a request with this body.
func (s *Server) sign(r *http.Request, body []byte) error {
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", hash)
	credentials := aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
	err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).
		SignHTTP(r.Context(), credentials, r, hash, "s3", s.Region, time.Now())
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}
