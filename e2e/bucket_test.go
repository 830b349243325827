package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/s3"
)

// bucket is a place for a repository on a real S3 server.
type bucket struct {
	*s3test.Server
	name     string
	dir      string // has the credentials as files
	endpoint string // what the program is told: the server, or a proxy before it
	more     string // further lines of the repository's configuration
}

func newBucket(t *testing.T, server *s3test.Server) *bucket {
	t.Helper()
	b := &bucket{Server: server, name: server.Bucket(t), dir: pgtest.TempDir(t), endpoint: server.URL}
	files := &host{dir: b.dir}
	files.write(t, "key", server.AccessKey+"\n")
	files.write(t, "secret", server.SecretKey+"\n")
	return b
}

// behind is a bucket that the program reaches by a proxy alone.
func behind(t *testing.T, server *s3test.Server) (*bucket, *s3test.Proxy) {
	t.Helper()
	b, proxy := newBucket(t, server), s3test.NewProxy(t, server)
	b.endpoint = proxy.URL
	return b, proxy
}

// prefix shows that nothing of a repository lies outside of its own.
const prefix = "a/prefix"

// settings are the lines of a repository in the configuration.
func (b *bucket) settings() string {
	ca := ""
	if b.CAFile != "" {
		ca = ", ca-file: " + b.CAFile
	}
	return fmt.Sprintf(`url: s3://%s/%s
    s3: {endpoint: %q, region: %s%s, credentials: {key-file: %s, secret-file: %s}}%s`,
		b.name, prefix, b.endpoint, b.Region, ca, filepath.Join(b.dir, "key"), filepath.Join(b.dir, "secret"), b.more)
}

// store is the bucket itself: no proxy, and nothing is tried again.
func (b *bucket) store(t *testing.T) storage.Store {
	t.Helper()
	st, err := s3.Open(t.Context(), s3.Options{Bucket: b.name, Prefix: prefix, Endpoint: b.URL, Region: b.Region, PathStyle: true, CAFile: b.CAFile,
		Credentials: s3.CredentialFiles{KeyFile: filepath.Join(b.dir, "key"), SecretFile: filepath.Join(b.dir, "secret")}})
	if err != nil {
		t.Fatal(err)
	}
	return st
}
