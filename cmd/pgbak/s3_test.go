package main

import (
	"bytes"
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
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if n := c.Query(t, "SELECT count(*) FROM t"); n != "2000" {
		t.Errorf("%s rows came back, want 2000", n)
	}
	c.Stop(t, "fast")
}

// TestS3TroubleIsTroubleOfTheStorage runs against one server what can be wrong
// with it, from its reader's point of view: a code, a sentence, a hint.
func TestS3TroubleIsTroubleOfTheStorage(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{TLS: true})
	good := newBucket(t, server)
	once := "    retry: {attempts: 1}\n"
	write := func(t *testing.T, s *s3Access, name, content string) {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const secret = "quite-another-secret-key"
	for _, c := range []struct {
		title string
		bad   func(t *testing.T, s *s3Access) string // the repository's entry
		code  int
		names []string
	}{
		{"a wrong secret", func(t *testing.T, s *s3Access) string {
			write(t, s, "secret", secret)
			return s.repository("s3", s.URL, once)
		}, exitStorage, []string{"s3://", "SignatureDoesNotMatch", "hint: check the secret key"}},
		{"an unknown key", func(t *testing.T, s *s3Access) string {
			write(t, s, "key", "nobody")
			return s.repository("s3", s.URL, once)
		}, exitStorage, []string{"InvalidAccessKeyId", "hint: "}},
		{"no file with the secret", func(t *testing.T, s *s3Access) string {
			remove(t, filepath.Join(s.dir, "secret"))
			return s.repository("s3", s.URL, once)
		}, exitStorage, []string{"/secret", "no such file"}},
		{"no bucket", func(_ *testing.T, s *s3Access) string {
			s.bucket = "nothing-here"
			return s.repository("s3", s.URL, once)
		},
			exitStorage, []string{"nothing-here", "NoSuchBucket", "hint: create the bucket"}},
		{"an unknown authority", func(_ *testing.T, s *s3Access) string {
			return strings.Replace(s.repository("s3", s.URL, once), ", ca-file: "+s.CAFile, "", 1)
		}, exitStorage, []string{"x509", "hint: ", "s3.ca-file"}},
		{"no CA file", func(_ *testing.T, s *s3Access) string {
			return strings.Replace(s.repository("s3", s.URL, once), s.CAFile, "/nowhere/ca.pem", 1)
		}, exitConfiguration, []string{"/nowhere/ca.pem"}},
		{"a server that is not there", func(_ *testing.T, s *s3Access) string { return s.repository("s3", "https://127.0.0.1:1", once) },
			exitStorage, []string{"127.0.0.1:1", "connection refused", "hint: "}},
		{"no repository", func(_ *testing.T, s *s3Access) string { return s.repository("empty", s.URL, once) },
			exitRepository, []string{"not initialised", "s3://", "hint: "}},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			access := newBucket(t, server)
			access.bucket = good.bucket
			s := newSite(t, configOf(c.bad(t, access)))
			for _, command := range []string{"info", "archive-push " + segmentName} {
				s.writeSegment(t)
				o := s.run(t, append([]string{"--log-level", "debug"}, strings.Fields(command)...)...)
				if o.code != c.code {
					t.Errorf("%s: exit %d, want %d\n%s", command, o.code, c.code, o.stderr)
				}
				contains(t, o.stdout+o.stderr, c.names...)
				hides(t, o, secret, server.SecretKey)
			}
			if o := s.run(t, "archive-get", segmentName, "fetched"); o.code != exitGetTrouble {
				t.Errorf("archive-get: exit %d\n%s", o.code, o.stderr)
			}
		})
	}
}

// hides holds that no secret is in what a run has said.
func hides(t *testing.T, o outcome, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(o.stdout+o.stderr, secret) {
			t.Errorf("the secret %s was printed:\n%s%s", secret, o.stdout, o.stderr)
		}
	}
}

func TestNoSecretIsPrintedAndEachRunSaysWhatItAsked(t *testing.T) {
	bucket := newBucket(t, s3test.MinIO(t, s3test.Options{}))
	const passphrase = "correct horse battery staple"
	passphraseFile := filepath.Join(bucket.dir, "passphrase")
	if err := os.WriteFile(passphraseFile, []byte(passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	files := bucket.repository("s3", bucket.URL, "    encryption: {passphrase-file: "+passphraseFile+"}\n")
	fromEnvironment := strings.Replace(files, fmt.Sprintf(", credentials: {key-file: %s/key, secret-file: %s/secret}", bucket.dir, bucket.dir), "", 1)
	if fromEnvironment == files {
		t.Fatal("the credentials are still in the configuration")
	}
	for title, entry := range map[string]string{"files": files, "environment": fromEnvironment} {
		s := newSite(t, configOf(strings.Replace(entry, bucket.bucket+"/s3", bucket.bucket+"/"+title, 1)))
		if entry == fromEnvironment {
			s.env = []string{"AWS_ACCESS_KEY_ID=" + bucket.AccessKey, "AWS_SECRET_ACCESS_KEY=" + bucket.SecretKey}
		}
		path, content := s.writeSegment(t)
		for _, command := range []string{"repo check --probe", "init", "repo check"} {
			hides(t, s.mustRun(t, append([]string{"--log-level", "debug"}, strings.Fields(command)...)...), bucket.SecretKey, passphrase)
		}
		o := s.mustRun(t, "--log-level", "debug", "archive-push", path)
		contains(t, o.stderr, `msg="storage operations" repository=s3`, "put 1 (")
		hides(t, o, bucket.SecretKey, passphrase)
		o = s.mustRun(t, "--log-level", "debug", "archive-get", segmentName, "fetched")
		contains(t, o.stderr, "msg=fetched", "repository=s3")
		hides(t, o, bucket.SecretKey, passphrase)
		if got, err := os.ReadFile(s.path("fetched")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: other content came back (%v)", title, err)
		}
		if o := s.run(t, "archive-get", "000000010000000000000009", "fetched"); o.code != exitFailed {
			t.Errorf("%s: archive-get of an absent file: exit %d\n%s", title, o.code, o.stderr)
		}
		for _, command := range []string{"info", "check", "restore --target-dir " + s.path("x"), "backup"} {
			hides(t, s.run(t, append([]string{"--log-level", "debug"}, strings.Fields(command)...)...), bucket.SecretKey, passphrase)
		}
	}
}

func TestAnOutageIsTriedAgainWithinItsBoundAndEndsWithoutHarm(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	bucket := newBucket(t, server)
	s := newSite(t, configOf(bucket.repository("s3", bucket.URL, "    retry: {attempts: 3, time: 20s}\n")))
	s.mustRun(t, "init")
	path, _ := s.writeSegment(t)
	server.Stop()
	o := s.run(t, "archive-push", path)
	if o.code != exitStorage {
		t.Errorf("push: exit %d\n%s", o.code, o.stderr)
	}
	contains(t, o.stderr, "is tried again", "attempt=2", "next-in=", "after 3 attempts", "hint: ")
	if o := s.run(t, "archive-get", segmentName, "fetched"); o.code != exitGetTrouble {
		t.Errorf("get: exit %d\n%s", o.code, o.stderr)
	}
	server.Start()
	s.mustRun(t, "archive-push", path)
	s.mustRun(t, "archive-get", segmentName, "fetched")
}
