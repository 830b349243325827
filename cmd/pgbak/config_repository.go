package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/limit"
)

// repositoryConfig is one entry of repositories.
type repositoryConfig struct {
	Name        string            `yaml:"name"`
	URL         string            `yaml:"url"`
	Compression string            `yaml:"compression"`
	Encryption  *encryptionConfig `yaml:"encryption"`
	S3          *s3Config         `yaml:"s3"`
	Limits      limitsConfig      `yaml:"limits"`
	Retry       retryConfig       `yaml:"retry"`

	// wal is archive.compression, which goes before the repository's; "" is none.
	wal string
}

type encryptionConfig struct {
	PassphraseFile string `yaml:"passphrase-file"`
}

// limitsConfig bounds what one run of pgbak asks of a repository.
type limitsConfig struct {
	Upload      string `yaml:"upload"`
	Download    string `yaml:"download"`
	Requests    string `yaml:"requests"`
	Connections *int   `yaml:"connections"`
}

// retryConfig says for how long a failed operation is tried again.
type retryConfig struct {
	Attempts *int   `yaml:"attempts"`
	Time     string `yaml:"time"`
}

const (
	maxConnections = 1024
	maxAttempts    = 1000
	maxRetryTime   = 24 * time.Hour
)

var errReservedName = errors.New(`the name "all" is reserved: --repo all means every repository`)

func (r repositoryConfig) check() error {
	switch r.Name {
	case "":
		return errors.New("name is missing")
	case allRepositories:
		return errReservedName
	}
	p, err := r.place()
	if err != nil {
		return err
	}
	if _, err := repo.ParseCompression(r.Compression); err != nil {
		return err
	}
	if r.Encryption != nil {
		if err := checkAbsolute("encryption.passphrase-file", r.Encryption.PassphraseFile); err != nil {
			return err
		}
	}
	if err := r.checkS3(p); err != nil {
		return err
	}
	if _, err := r.Limits.parse(); err != nil {
		return err
	}
	_, err = r.Retry.parse()
	return err
}

// compression is how the repository is written, WAL included.
func (r repositoryConfig) compression() (repo.Compression, error) {
	c, err := repo.ParseCompression(r.Compression)
	if err != nil {
		return c, &configError{fmt.Errorf("repository %q: %w", r.Name, err)}
	}
	if r.wal == "" {
		return c, nil
	}
	wal, err := repo.ParseCompression(r.wal)
	if err != nil {
		return c, &configError{fmt.Errorf("archive.compression: %w", err)}
	}
	return c.WithWAL(wal), nil
}

// place is where a repository is, as its url says: in a directory, or in a
// bucket below a prefix.
type place struct {
	directory      string
	bucket, prefix string
}

func (r repositoryConfig) place() (place, error) {
	if r.URL == "" {
		return place{}, errors.New("url is missing")
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		// The error repeats the url, which may hold a secret.
		return place{}, errors.New("url cannot be understood: use file:///DIRECTORY or s3://BUCKET/PREFIX")
	}
	switch u.Scheme {
	case "file":
		return directoryOf(u)
	case "s3":
		return bucketOf(u)
	}
	return place{}, fmt.Errorf("url has the unknown scheme %q: use file:///DIRECTORY or s3://BUCKET/PREFIX", u.Scheme)
}

func directoryOf(u *url.URL) (place, error) {
	switch {
	case u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return place{}, fmt.Errorf("url %q is not of the form file:///DIRECTORY", u.Redacted())
	case filepath.Clean(u.Path) == "/":
		return place{}, errors.New("url: the root directory cannot be a repository")
	}
	return place{directory: filepath.Clean(u.Path)}, nil
}

func bucketOf(u *url.URL) (place, error) {
	switch {
	case u.User != nil:
		return place{}, errors.New("url holds credentials: put them into files that s3.credentials names")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		return place{}, errors.New("url is not of the form s3://BUCKET/PREFIX")
	case u.Host == "":
		return place{}, errors.New("url has no bucket: use s3://BUCKET/PREFIX")
	case u.Port() != "" || strings.Contains(u.Host, ":"):
		return place{}, errors.New("url names a port: the server belongs into s3.endpoint, the url is s3://BUCKET/PREFIX")
	}
	p := place{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if p.prefix == "" {
		return p, nil
	}
	if err := storage.CheckKey(p.prefix); err != nil {
		return place{}, fmt.Errorf("url: prefix: %w", err)
	}
	if len(p.prefix) > maxPrefix {
		return place{}, fmt.Errorf("url: the prefix has %d bytes, at most %d are allowed", len(p.prefix), maxPrefix)
	}
	return p, nil
}

// maxPrefix is what S3's limit of 1024 bytes for a key leaves, with the slash.
const maxPrefix = 1024 - storage.MaxKey - 1

// parse reads the limits; zero is none.
func (l limitsConfig) parse() (limit.Limits, error) {
	var parsed limit.Limits
	for _, rate := range []struct {
		key, text string
		value     *int64
	}{{"upload", l.Upload, &parsed.Upload}, {"download", l.Download, &parsed.Download}} {
		if rate.text == "" {
			continue
		}
		n, err := limit.Parse(rate.text)
		if err != nil {
			return parsed, fmt.Errorf("limits.%s: %w", rate.key, err)
		}
		*rate.value = n
	}
	if l.Requests != "" {
		n, err := limit.ParseRequests(l.Requests)
		if err != nil {
			return parsed, fmt.Errorf("limits.requests: %w", err)
		}
		parsed.Requests = n
	}
	if l.Connections != nil && (*l.Connections < 1 || *l.Connections > maxConnections) {
		return parsed, fmt.Errorf("limits.connections is %d: it must be from 1 to %d", *l.Connections, maxConnections)
	}
	return parsed, nil
}

// retryBounds are what retry says; zero is the default.
type retryBounds struct {
	attempts int
	time     time.Duration
}

func (r retryConfig) parse() (retryBounds, error) {
	var b retryBounds
	if r.Attempts != nil {
		b.attempts = *r.Attempts
		if b.attempts < 1 || b.attempts > maxAttempts {
			return b, fmt.Errorf("retry.attempts is %d: it must be from 1 (never try again) to %d", b.attempts, maxAttempts)
		}
	}
	if r.Time != "" {
		var err error
		if b.time, err = time.ParseDuration(r.Time); err != nil || b.time <= 0 || b.time > maxRetryTime {
			return b, fmt.Errorf("retry.time %q is not a duration above 0 and up to 24h, like 5m or 30s", r.Time)
		}
	}
	return b, nil
}
