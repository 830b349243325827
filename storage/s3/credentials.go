package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgbak/pgbak/internal/hint"
)

// CredentialFiles are files that each hold one value; a line end after it is not
// part of it. They are read again when they change, as mounted secrets of Kubernetes
// do. TokenFile is for temporary credentials and may be "".
type CredentialFiles struct {
	KeyFile, SecretFile, TokenFile string
}

func (f CredentialFiles) check() error {
	if (f.KeyFile == "") != (f.SecretFile == "") || f.TokenFile != "" && f.KeyFile == "" {
		return errors.New("s3: a file for the key needs one for the secret, and the reverse")
	}
	return nil
}

// maxCredential bounds what is read of a file, in bytes; session tokens have a few
// thousand.
const maxCredential = 64 << 10

// lookEvery is how often files are looked at for changes.
const lookEvery = 2 * time.Second

// fileCredentials implements the SDK's CredentialsProvider.
type fileCredentials struct {
	files CredentialFiles
	clock func() time.Time

	mu     sync.Mutex
	looked time.Time
	state  [3]fileState // of the files that value was read from
	value  aws.Credentials
}

// fileState tells a changed file from the same; a secret of Kubernetes is replaced by
// a new file.
type fileState struct {
	modified time.Time
	size     int64
}

// newFileCredentials is nil when there are no files.
func newFileCredentials(files CredentialFiles, clock func() time.Time) *fileCredentials {
	if files.KeyFile == "" {
		return nil
	}
	return &fileCredentials{files: files, clock: clock}
}

// Retrieve gives what is in the files, as far as that was not looked at just now.
func (c *fileCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	if since := now.Sub(c.looked); c.value.HasKeys() && since >= 0 && since < lookEvery {
		return c.value, nil
	}
	return c.look(now)
}

// again reads the files whatever was known of them.
func (c *fileCredentials) again() (aws.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = [3]fileState{}
	return c.look(c.clock())
}

func (c *fileCredentials) look(now time.Time) (aws.Credentials, error) {
	paths := [3]string{c.files.KeyFile, c.files.SecretFile, c.files.TokenFile}
	var state [3]fileState
	for i, path := range paths {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return aws.Credentials{}, &fileError{err} // names the path
		}
		state[i] = fileState{info.ModTime(), info.Size()}
	}
	if c.value.HasKeys() && state == c.state {
		c.looked = now
		return c.value, nil
	}
	var values [3]string
	for i, path := range paths {
		if path == "" {
			continue
		}
		value, err := readCredential(path)
		if err != nil {
			return aws.Credentials{}, &fileError{err}
		}
		values[i] = value
	}
	c.value = aws.Credentials{
		AccessKeyID: values[0], SecretAccessKey: values[1], SessionToken: values[2], Source: "files",
	}
	c.state, c.looked = state, now
	return c.value, nil
}

// readCredential never shows in an error what is in the file.
func readCredential(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err // names the path
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return "", fmt.Errorf("%s is empty", path)
	}
	if len(b) > maxCredential || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", hint.Wrap(fmt.Errorf("%s does not hold one credential on one line", path),
			"the file holds nothing but the value, without quotes or a name before it.")
	}
	return string(b), nil
}

// identity is who asks: the credentials of all requests, from files or from
// the SDK's chain. It implements the SDK's CredentialsProvider.
type identity struct {
	files *fileCredentials // nil without
	chain aws.CredentialsProvider

	mu   sync.Mutex
	used aws.Credentials // the last that were given out
}

// credentialsError says that a request could not be signed.
type credentialsError struct {
	cause error
	had   bool // there were credentials before
}

// mayRecover tells that there will be credentials again: the service that gives them is in
// trouble, or files that were good are being written anew at this moment.
func (e *credentialsError) mayRecover() bool {
	var file *fileError
	if errors.As(e.cause, &file) {
		return e.had
	}
	var service interface{ HTTPStatusCode() int }
	return errors.As(e.cause, &service) &&
		(service.HTTPStatusCode()/100 == 5 || service.HTTPStatusCode() == http.StatusTooManyRequests)
}

// fileError is a file that has no credential.
type fileError struct{ error }

func (e *fileError) Unwrap() error { return e.error }

func (e *credentialsError) Error() string { return "credentials: " + e.cause.Error() }
func (e *credentialsError) Unwrap() error { return e.cause }

// Retrieve implements the SDK's CredentialsProvider.
func (i *identity) Retrieve(ctx context.Context) (aws.Credentials, error) {
	value, err := i.provider().Retrieve(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		return value, &credentialsError{cause: err, had: i.used.HasKeys()}
	}
	i.used = value
	if asked, found := ctx.Value(answerKey{}).(*answer); found {
		asked.signed = value
	}
	return value, nil
}

func (i *identity) provider() aws.CredentialsProvider {
	if i.files != nil {
		return i.files
	}
	return i.chain
}

// renew looks for other credentials when the server has rejected those that it got,
// used, and notes in the error whether there are some. Another request may have got
// them meanwhile, so the last that were given out tell nothing.
func (i *identity) renew(ctx context.Context, said *serverError, used aws.Credentials) error {
	if !said.rejectsCredentials() {
		return said
	}
	var value aws.Credentials
	var err error
	if i.files != nil {
		value, err = i.files.again()
	} else if cache, ok := i.chain.(*aws.CredentialsCache); ok && used.CanExpire {
		cache.Invalidate()
		value, err = cache.Retrieve(ctx)
	} else {
		return said
	}
	said.renewed = err == nil && (value.AccessKeyID != used.AccessKeyID ||
		value.SecretAccessKey != used.SecretAccessKey || value.SessionToken != used.SessionToken)
	return said
}

func (e *serverError) rejectsCredentials() bool {
	switch e.Code {
	case "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired",
		"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity":
		return true
	}
	return false
}
