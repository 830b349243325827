package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// s3Config says how the bucket of an s3:// url is reached, and how objects are
// kept there. It never holds a secret, only the names of files that do.
type s3Config struct {
	Endpoint     string             `yaml:"endpoint"`
	Region       string             `yaml:"region"`
	PathStyle    *bool              `yaml:"path-style"`
	CAFile       string             `yaml:"ca-file"`
	StorageClass string             `yaml:"storage-class"`
	SSE          string             `yaml:"sse"`
	KMSKeyID     string             `yaml:"kms-key-id"`
	Credentials  *credentialsConfig `yaml:"credentials"`
}

type credentialsConfig struct {
	KeyFile    string `yaml:"key-file"`
	SecretFile string `yaml:"secret-file"`
	TokenFile  string `yaml:"token-file"`
}

// checkS3 holds what concerns s3 urls only.
func (r repositoryConfig) checkS3(p place) error {
	if p.bucket == "" {
		switch {
		case r.S3 != nil:
			return errors.New("s3 is only for a url that begins with s3://")
		case r.Limits.Connections != nil:
			return errors.New("limits.connections is only for a url that begins with s3://")
		}
		return nil
	}
	s := r.s3()
	if err := s.check(); err != nil {
		return err
	}
	return checkBucket(p.bucket, s.amazon())
}

// s3 is the section s3, or an empty one.
func (r repositoryConfig) s3() s3Config {
	if r.S3 == nil {
		return s3Config{}
	}
	return *r.S3
}

// Sets of characters that names are made of. Names are compared without regular
// expressions, which every start of archive-push would have to compile.
const (
	digits   = "0123456789"
	lower    = "abcdefghijklmnopqrstuvwxyz"
	capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isName tells whether the name, which is not "", begins and ends with a character
// of its set and has else only these.
func isName(name, first, between, last string) bool {
	only := func(text, set string) bool { return strings.Trim(text, set) == "" }
	end := len(name) - 1
	return end >= 0 && only(name[:1], first) && only(name[end:], last) && only(name, between)
}

// amazon tells whether the bucket is Amazon's and not another server's.
func (s s3Config) amazon() bool {
	if s.Endpoint == "" {
		return true
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return false
	}
	host := "." + strings.ToLower(u.Hostname())
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// pathStyle puts the bucket into the path. Amazon wants it in the host name;
// other servers need a name and a certificate for that, which few have.
func (s s3Config) pathStyle() bool {
	if s.PathStyle != nil {
		return *s.PathStyle
	}
	return !s.amazon()
}

func (s s3Config) check() error {
	if err := s.checkEndpoint(); err != nil {
		return err
	}
	if s.Region != "" && !isName(s.Region, lower+capitals+digits, lower+capitals+digits+"._-", lower+capitals+digits+"._-") {
		return fmt.Errorf("s3.region %q is not the name of a region", s.Region)
	}
	if s.CAFile != "" {
		if err := checkAbsolute("s3.ca-file", s.CAFile); err != nil {
			return err
		}
	}
	encryptions := []string{"AES256", "aws:kms", "aws:kms:dsse"}
	switch {
	case s.StorageClass != "" && !isName(s.StorageClass, capitals, capitals+digits+"_-", capitals+digits+"_-"):
		return fmt.Errorf("s3.storage-class %q is not the name of a storage class", s.StorageClass)
	case s.StorageClass == "GLACIER" || s.StorageClass == "DEEP_ARCHIVE":
		return fmt.Errorf("s3.storage-class %s: its objects cannot be read at once, so no backup and no restore would work", s.StorageClass)
	case s.SSE != "" && !slices.Contains(encryptions, s.SSE):
		return fmt.Errorf("s3.sse %q is unknown: use %s", s.SSE, strings.Join(encryptions, ", "))
	case s.KMSKeyID != "" && !strings.HasPrefix(s.SSE, "aws:kms"):
		return errors.New("s3.kms-key-id needs s3.sse: aws:kms or aws:kms:dsse")
	}
	return s.Credentials.check()
}

// checkEndpoint does not repeat what it refuses: a secret may be in it.
func (s s3Config) checkEndpoint() error {
	if s.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(s.Endpoint)
	switch {
	case err != nil:
		return errors.New("s3.endpoint cannot be understood: use https://HOST:PORT")
	case u.Scheme != "https" && u.Scheme != "http" || u.Opaque != "":
		return errors.New("s3.endpoint must begin with https:// or http://")
	case u.User != nil:
		return errors.New("s3.endpoint holds credentials: put them into files that s3.credentials names")
	case u.Hostname() == "":
		return errors.New("s3.endpoint has no host: use https://HOST:PORT")
	case u.Path != "" && u.Path != "/":
		return errors.New("s3.endpoint has a path: the bucket and the prefix belong into url")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("s3.endpoint is not of the form https://HOST:PORT")
	case u.Scheme == "http" && s.CAFile != "":
		return errors.New("s3.ca-file is of no use with an s3.endpoint that begins with http://")
	}
	return nil
}

func (c *credentialsConfig) check() error {
	if c == nil {
		return nil
	}
	switch {
	case c.KeyFile == "" && c.SecretFile == "" && c.TokenFile == "":
		return errors.New("s3.credentials is empty: name key-file and secret-file, or leave it out")
	case c.KeyFile == "":
		return errors.New("s3.credentials.key-file is missing")
	case c.SecretFile == "":
		return errors.New("s3.credentials.secret-file is missing")
	}
	for _, file := range []struct{ key, path string }{{"key-file", c.KeyFile}, {"secret-file", c.SecretFile}, {"token-file", c.TokenFile}} {
		if file.path == "" {
			continue
		}
		if err := checkAbsolute("s3.credentials."+file.key, file.path); err != nil {
			return err
		}
	}
	return nil
}

// checkBucket holds Amazon's rules for names of buckets
// (docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html); on
// other servers there are older buckets with capitals and underscores.
func checkBucket(name string, amazon bool) error {
	ends, between, longest := lower+capitals+digits, lower+capitals+digits+"._-", 255
	if amazon {
		ends, between, longest = lower+digits, lower+digits+".-", 63
	}
	if len(name) < 3 || len(name) > longest || !isName(name, ends, between, ends) || strings.Contains(name, "..") || net.ParseIP(name) != nil {
		return fmt.Errorf("url: %q is not the name of a bucket: use 3 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}
