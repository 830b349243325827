package s3

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/storagetest"
)

// credentialFiles writes the server's credentials to files.
func credentialFiles(t testing.TB, server *s3test.Server) CredentialFiles {
	t.Helper()
	dir := t.TempDir()
	f := CredentialFiles{KeyFile: filepath.Join(dir, "key"), SecretFile: filepath.Join(dir, "secret")}
	writeFile(t, f.KeyFile, server.AccessKey+"\n")
	writeFile(t, f.SecretFile, server.SecretKey)
	return f
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// optionsFor are those of a client that can use the bucket.
func optionsFor(t testing.TB, server *s3test.Server, bucket string) Options {
	t.Helper()
	return Options{
		Bucket: bucket, Endpoint: server.URL, Region: server.Region, PathStyle: true, CAFile: server.CAFile,
		Credentials: credentialFiles(t, server),
	}
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	servers := map[string]func(testing.TB, s3test.Options) *s3test.Server{"MinIO": s3test.MinIO, "versitygw": s3test.Versity}
	for name, start := range servers {
		for _, tls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, tls), func(t *testing.T) {
				server := start(t, s3test.Options{TLS: tls})
				bucket := server.Bucket(t)
				o := optionsFor(t, server, bucket)
				n := 0
				prefixed := func(o Options) func(*testing.T) storage.Store {
					return func(t *testing.T) storage.Store {
						n++
						o.Prefix = fmt.Sprintf("store/%d", n)
						return open(t, o)
					}
				}
				storagetest.Run(t, prefixed(o))
			})
		}
	}
}
