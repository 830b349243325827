package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/aws/smithy-go"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// failure is an error for the caller of a Store: a sentence, the cause, and what
// kinds of error it is, which the sentence does not repeat.
type failure struct {
	text  string
	cause error
	kinds []error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error { return append([]error{f.cause}, f.kinds...) }

// failed makes the error of an operation, such as "put", on a key. Kinds are those
// that only the operation can know; without one they follow from the cause. An err
// that went through here before stays what it is.
func (s *Store) failed(ctx context.Context, operation, key string, err error, kinds ...error) error {
	var done *failure
	if errors.As(err, &done) {
		return err
	}
	what := operation
	if key != "" {
		what += fmt.Sprintf(" %q", key)
	}
	if cause := ended(ctx); cause != nil {
		return fmt.Errorf("%s in %s: %w", what, s.location, cause)
	}
	if len(kinds) == 0 {
		kinds = classify(err)
	}
	said := plain(err)
	for _, kind := range kinds {
		if kind == storage.ErrExist || kind == storage.ErrNotExist {
			said = kind.Error() // the code and the request id say no more
		}
	}
	return hint.Wrap(&failure{text: fmt.Sprintf("%s in %s: %s", what, s.location, said), cause: err, kinds: kinds},
		adviceFor(err))
}

// plain is the sentence for a cause, without the layers that the SDK puts around it.
func plain(err error) string {
	var said *serverError
	var credentials *credentialsError
	var send interface{ ConnectionError() bool }
	switch {
	case errors.As(err, &said):
		return said.Error()
	case errors.As(err, &credentials):
		return credentials.Error()
	case errors.As(err, &send) && errors.Unwrap(send.(error)) != nil:
		return errors.Unwrap(send.(error)).Error()
	}
	return err.Error()
}

// classify tells which of the errors of package storage a cause is. None means that
// the error will come again.
func classify(err error) []error {
	var said *serverError
	if errors.As(err, &said) {
		return said.kinds()
	}
	var credentials *credentialsError
	var lookup *smithy.OperationError
	if errors.As(err, &credentials) && !credentials.had &&
		errors.As(credentials.cause, &lookup) && lookup.Service() == "ec2imds" {
		return nil // not on an instance of AWS: nobody answers there, ever
	}
	if credentials != nil && credentials.mayRecover() || connectionMayRecover(err) {
		return []error{storage.ErrTransient}
	}
	return nil
}

// connectionMayRecover looks at an error of the network.
func connectionMayRecover(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	if errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &record) {
		return false
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return !dns.IsNotFound
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	for _, number := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL,
	} {
		if errors.Is(err, number) {
			return true
		}
	}
	// An error of net/http without a name: the server has closed a connection that
	// was idle at the moment when a request was sent on it.
	return strings.Contains(err.Error(), "server closed idle connection")
}

// kinds goes by the code where there is one: the status of a code differs between
// servers.
func (e *serverError) kinds() []error {
	transient := []error{storage.ErrTransient}
	throttled := []error{storage.ErrTransient, storage.ErrThrottled}
	switch e.Code {
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests",
		"TooManyRequestsException", "RequestThrottled", "RequestThrottledException":
		return throttled
	case "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return []error{storage.ErrNoSpace}
	case "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict",
		"IncompleteBody",
		// The SDK takes the server's time from the answer for the next request.
		"RequestTimeTooSkewed",
		// What arrived is not what was sent, or the content has changed between its
		// two readings.
		"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest",
		// A race in versitygw, like that of spuriousDenial: the directory of a new object
		// was removed with the last of its others.
		"ExistingObjectIsDirectory",
		// Somebody, or a completion whose answer was lost, has ended the upload: a new
		// Put finds out.
		"NoSuchUpload":
		return transient
	}
	if strings.HasPrefix(e.Code, "Throttling") || e.Status == http.StatusTooManyRequests {
		return throttled
	}
	if e.renewed {
		return transient
	}
	if e.Status/100 == 2 && e.Code == "" {
		return transient // it may have been S3 all the same: the next attempt tells
	}
	switch e.Status {
	case http.StatusInsufficientStorage:
		return []error{storage.ErrNoSpace}
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return nil
	case http.StatusRequestTimeout:
		return transient
	case http.StatusTemporaryRedirect:
		if e.Region == "" || e.Region == e.region {
			return transient // the name of a new bucket is not known everywhere yet
		}
	}
	if e.Status/100 == 5 {
		return transient // also the numbers that networks before a server have of their own, as 522
	}
	return nil
}
