package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// s3Access is a bucket on a real server, and files with what is needed to use it.
type s3Access struct {
	*s3test.Server
	bucket, dir string
}

// newBucket makes a bucket and, where the server user can read them, the files
// of credentials and CA.
func newBucket(t *testing.T, server *s3test.Server) *s3Access {
	t.Helper()
	s := &s3Access{Server: server, bucket: server.Bucket(t), dir: pgtest.TempDir(t)}
	for name, content := range map[string]string{"key": server.AccessKey + "\n", "secret": server.SecretKey + "\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// repository is the entry of a configuration; more are its further lines.
func (s *s3Access) repository(name, endpoint string, more ...string) string {
	ca := ""
	if s.CAFile != "" {
		ca = ", ca-file: " + s.CAFile
	}
	return fmt.Sprintf(`  - name: %s
    url: s3://%s/%s
    s3: {endpoint: %q, region: %s%s, credentials: {key-file: %s/key, secret-file: %s/secret}}
%s`, name, s.bucket, name, endpoint, s.Region, ca, s.dir, s.dir, strings.Join(more, ""))
}

// configOf is a configuration with these repositories and plainConfig's stanza.
func configOf(repositories ...string) string {
	_, stanzas, _ := strings.Cut(plainConfig, "stanzas:")
	return "repositories:\n" + strings.Join(repositories, "") + "stanzas:" + stanzas
}

func TestAClusterComesBackFromS3(t *testing.T) {
	bucket := newBucket(t, s3test.MinIO(t, s3test.Options{TLS: true}))
	h := hostWith(t, configOf(bucket.repository("s3", bucket.URL)), nil)
	contains(t, h.expect(t, exitOK, "init").stdout, "repository s3: stanza main is ready")
	h.expect(t, exitOK, "init")
	h.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	h.expect(t, exitOK, "backup")
	h.Exec(t, "INSERT INTO t SELECT generate_series(1001, 2000)")
	h.expect(t, exitOK, "check")
	contains(t, h.expect(t, exitOK, "info").stdout, "status: ok")

	into := filepath.Join(h.dir, "restored")
	var restored restoreResult
	o := h.expect(t, exitOK, "restore", "--target-dir", into, "--archive-mode", "off", "--output", "json")
	if err := json.Unmarshal([]byte(o.stdout), &restored); err != nil || restored.Files == 0 || restored.RepositoryName != "s3" {
		t.Errorf("restored %+v, %v", restored, err)
	}
	c := pgtest.Open(t, into, 17, nil)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
	if n := c.Query(t, "SELECT count(*) FROM t"); n != "2000" {
		t.Errorf("%s rows came back, want 2000", n)
	}
	c.Stop(t, "fast")
}
