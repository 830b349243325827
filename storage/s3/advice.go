package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// adviceFor is the one sentence that tells a user what to do, or "".
func adviceFor(err error) string {
	var said *serverError
	if errors.As(err, &said) {
		return said.advice()
	}
	var credentials *credentialsError
	if errors.As(err, &credentials) {
		return "give credentials by s3.credentials, by the environment variables AWS_ACCESS_KEY_ID " +
			"and AWS_SECRET_ACCESS_KEY, or by a role of the machine or the pod."
	}
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.As(err, &authority):
		return "name the certificate of the server's authority by s3.ca-file."
	case errors.As(err, &host):
		return "use in s3.endpoint a name that is in the server's certificate, or set s3.path-style if only the bucket's name before it is not."
	case errors.As(err, &invalid):
		return "renew the server's certificate, or correct the clock of this host."
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the server does not speak TLS at this port: use http:// in s3.endpoint, or another port."
	case strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`):
		return "the server speaks TLS at this port: use https:// in s3.endpoint."
	case errors.As(err, &dns) && dns.IsNotFound:
		return "check the host name in s3.endpoint, and set s3.path-style if the server does not know buckets as host names."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check that the server runs and that s3.endpoint has its port."
	}
	return ""
}

func (e *serverError) advice() string {
	switch e.Code {
	case "InvalidAccessKeyId":
		return "check the access key: the server does not know it."
	case "SignatureDoesNotMatch":
		return "check the secret key: it does not belong to the access key."
	case "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired":
		return "get new temporary credentials: those in use have expired or are not valid."
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		return "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the objects and s3:ListBucket " +
			"on the bucket: without s3:ListBucket an object that does not exist looks like a forbidden one."
	case "NoSuchBucket":
		return "create the bucket, or correct its name or s3.endpoint."
	case "RequestTimeTooSkewed":
		return "correct the clock of this host: it differs from the server's by more than 15 minutes."
	case "NotImplemented":
		return "run 'pgbak repo check --probe' to see what this server cannot do."
	case "InvalidObjectState":
		return "bring the object back from its archive tier, and use no such tier for a repository."
	case "InvalidStorageClass":
		return "set s3.storage-class to one that this server has."
	}
	switch {
	case e.Status == http.StatusNotImplemented:
		return "run 'pgbak repo check --probe' to see what this server cannot do."
	case e.wrongRegion() && e.Region != "":
		return "set s3.region to " + e.Region + "."
	case e.Status/100 == 3:
		return "set s3.region and s3.endpoint to those of the bucket."
	case e.Code == "" && wantsTLS(e.Status, e.text):
		return "the server speaks TLS at this port: use https:// in s3.endpoint."
	case e.Code == "" && (e.Status == http.StatusForbidden || e.Status/100 == 2):
		return "check s3.endpoint: what answered is not S3, perhaps a proxy in between."
	case e.Code == "" && e.Status == http.StatusNotFound:
		return "check s3.endpoint and the bucket's name: the answer does not come from S3."
	}
	return ""
}
