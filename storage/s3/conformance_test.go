package s3

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/conformance"
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
	for _, c := range []struct {
		server  string
		start   func(testing.TB, s3test.Options) *s3test.Server
		options s3test.Options
		change  func(*Options)
	}{
		{"MinIO", s3test.MinIO, s3test.Options{}, func(*Options) {}},
		{"MinIO", s3test.MinIO, s3test.Options{TLS: true}, func(o *Options) {
			// All but empty objects by parts, of the least size that servers take.
			o.MultipartFrom, o.PartSize = 1, 5<<20
			o.PathStyle, o.Endpoint, o.dial = false, s3test.VirtualURL(o.Endpoint), s3test.DialLocal
		}},
		{"versitygw", s3test.Versity, s3test.Options{}, func(*Options) {}},
		{"versitygw", s3test.Versity, s3test.Options{TLS: true}, func(*Options) {}},
	} {
		t.Run(fmt.Sprintf("%s, TLS %v", c.server, c.options.TLS), func(t *testing.T) {
			t.Parallel() // they wait for disks more than they compute
			server := c.start(t, c.options)
			o := optionsFor(t, server, server.Bucket(t))
			c.change(&o)
			for i, check := range conformance.Checks() {
				t.Run(check.Name, func(t *testing.T) {
					o := o
					o.Prefix = fmt.Sprintf("store/%d", i)
					if err := check.Try(t.Context(), &patient{Store: open(t, o)}, "conformance/"); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// patient puts again what a server has refused because of a race of its own, as
// storage/retry would, and nothing else.
type patient struct{ *Store }

func (p *patient) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	for {
		err := p.Store.Put(ctx, key, src, o)
		var said *serverError
		race := errors.As(err, &said) && (said.Code == "AccessDenied" || said.Code == "ExistingObjectIsDirectory")
		// versitygw closes the connection behind an early 412, and what is still
		// being sent then can overtake the answer.
		early := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		if !errors.Is(err, storage.ErrTransient) || !race && !early {
			return err
		}
	}
}
