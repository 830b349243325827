package s3

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
)

func TestWhatTheServerSaysIsClassed(t *testing.T) {
	transient, throttled := []error{storage.ErrTransient}, []error{storage.ErrTransient, storage.ErrThrottled}
	for _, c := range []struct {
		status int
		code   string
		want   []error
		advice string // a part of it
	}{
		{403, "AccessDenied", nil, "without s3:ListBucket"},
		{403, "InvalidAccessKeyId", nil, "access key"},
		{403, "SignatureDoesNotMatch", nil, "secret key"},
		{400, "ExpiredToken", nil, "temporary credentials"},
		{403, "RequestTimeTooSkewed", transient, "clock of this host"},
		{404, "NoSuchBucket", nil, "create the bucket"},
		{404, "NoSuchUpload", transient, ""},
		{404, "", nil, "does not come from S3"},
		{403, "", nil, "not S3"},
		{501, "NotImplemented", nil, "'pgbak repo check --probe'"},
		{501, "", nil, "'pgbak repo check --probe'"},
		{409, "OperationAborted", transient, ""},
		{409, "ConditionalRequestConflict", transient, ""},
		{409, "BucketAlreadyExists", nil, ""},
		{400, "RequestTimeout", transient, ""},
		{408, "", transient, ""},
		{429, "", throttled, ""},
		{500, "InternalError", transient, ""},
		{500, "", transient, ""},
		{502, "", transient, ""},
		{503, "", transient, ""},
		{503, "XMinioServerNotInitialized", transient, ""},
		{504, "", transient, ""},
		{505, "", nil, ""},
		{522, "", transient, ""},
		{503, "SlowDown", throttled, ""},
		{503, "SlowDownRead", throttled, ""},
		{503, "SlowDownWrite", throttled, ""},
		{400, "ThrottlingException", throttled, ""},
		{507, "XMinioStorageFull", []error{storage.ErrNoSpace}, ""},
		{507, "", []error{storage.ErrNoSpace}, ""},
		{403, "QuotaExceeded", []error{storage.ErrNoSpace}, ""},
		{400, "BadDigest", transient, ""},
		{400, "InvalidArgument", nil, ""},
		{301, "PermanentRedirect", nil, "s3.region"},
		{307, "TemporaryRedirect", transient, "s3.region"},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { sayError(w, c.status, c.code) })
			s := open(t, optionsFor(t, server, "bucket"))
			_, statErr := s.Stat(t.Context(), "dir/key")
			putErr := s.Put(t.Context(), "dir/key", storage.Bytes([]byte("x")), storage.PutOptions{IfAbsent: true})
			for operation, err := range map[string]error{"stat": statErr, "put": putErr} {
				for _, kind := range []error{storage.ErrTransient, storage.ErrThrottled, storage.ErrNoSpace, storage.ErrExist, storage.ErrNotExist} {
					want := false
					for _, w := range c.want {
						want = want || w == kind
					}
					if errors.Is(err, kind) != want {
						t.Errorf("%s gave %v: is %q: %v, want %v", operation, err, kind, !want, want)
					}
				}
				want := fmt.Sprintf(`%s "dir/key" in s3://bucket at %s: the server answered %d`, operation, server.URL, c.status)
				if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "(request 4711)") ||
					!strings.Contains(err.Error(), c.code) {
					t.Errorf("error is %v, want %s... (request 4711)", err, want)
				}
				if advice := hint.Of(err); !strings.Contains(advice, c.advice) || (advice == "") != (c.advice == "") {
					t.Errorf("advice is %q, want %q in it", advice, c.advice)
				}
			}
		})
	}
}

func TestOnlyS3CanSayThatAnObjectIsAbsent(t *testing.T) {
	for _, c := range []struct {
		what    string
		handler http.HandlerFunc
		absent  bool
	}{
		{"S3", func(w http.ResponseWriter, r *http.Request) { sayError(w, 404, "NoSuchKey") }, true},
		{"a proxy's page", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>not found", 404) }, false},
		{"nothing", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, false},
		{"no bucket", func(w http.ResponseWriter, r *http.Request) { sayError(w, 404, "NoSuchBucket") }, false},
		{"a forbidden key", func(w http.ResponseWriter, r *http.Request) { sayError(w, 403, "AccessDenied") }, false},
		{"another status", func(w http.ResponseWriter, r *http.Request) { sayError(w, 500, "NoSuchKey") }, false},
		{"another document", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(404)
			fmt.Fprint(w, "<html><Code>NoSuchKey</Code></html>")
		}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := open(t, optionsFor(t, toyServer(t, c.handler), "bucket"))
			_, statErr := s.Stat(t.Context(), "key")
			_, getErr := s.Get(t.Context(), "key", storage.Range{})
			if errors.Is(statErr, storage.ErrNotExist) != c.absent || errors.Is(getErr, storage.ErrNotExist) != c.absent {
				t.Errorf("stat %v, get %v: want absent %v", statErr, getErr, c.absent)
			}
			if err := s.Put(t.Context(), "key", storage.Bytes(nil), storage.PutOptions{}); err == nil || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("put gave %v", err)
			}
		})
	}
}

func TestErrorsOfRealServers(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{TLS: true})
	plain := s3test.MinIO(t, s3test.Options{})
	bucket := server.Bucket(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := l.Addr().String()
	l.Close()
	for _, c := range []struct {
		what      string
		change    func(*Options)
		transient bool
		said      string
		advice    string
	}{
		{"wrong key", func(o *Options) { writeFile(t, o.Credentials.KeyFile, "nobody") }, false, "403 InvalidAccessKeyId", "the server does not know it"},
		{"wrong secret", func(o *Options) { writeFile(t, o.Credentials.SecretFile, "secret-of-another") }, false, "403 SignatureDoesNotMatch", "secret key"},
		{"no bucket", func(o *Options) { o.Bucket = "no-such-bucket" }, false, "404 NoSuchBucket", "create the bucket"},
		{"unknown authority", func(o *Options) { o.CAFile = "" }, false, "certificate signed by unknown authority", "s3.ca-file"},
		{"another host name", func(o *Options) {
			o.Endpoint, o.dial = strings.Replace(o.Endpoint, "127.0.0.1", "s3.example.com", 1), s3test.DialLocal
		}, false, "certificate is valid for", "s3.endpoint a name"},
		{"http to https", func(o *Options) { o.Endpoint = strings.Replace(o.Endpoint, "https", "http", 1) }, false, "HTTP request to an HTTPS server", "use https://"},
		{"https to http", func(o *Options) { o.Endpoint = strings.Replace(plain.URL, "http", "https", 1) }, false, "", "use http://"},
		{"refused", func(o *Options) { o.Endpoint = "https://" + refused }, true, "connection refused", "check that the server runs"},
		{"unknown host", func(o *Options) {
			o.Endpoint, o.dial = "https://nobody.invalid", lookupFails(&net.DNSError{Err: "no such host", Name: "nobody.invalid", IsNotFound: true})
		}, false, "no such host", "check the host name"},
		{"no name server", func(o *Options) {
			o.Endpoint, o.dial = "https://s3.example.com", lookupFails(&net.DNSError{Err: "i/o timeout", Name: "s3.example.com", IsTimeout: true})
		}, true, "i/o timeout", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := optionsFor(t, server, bucket)
			o.Prefix = "some/prefix"
			c.change(&o)
			s := open(t, o)
			_, err := s.Stat(t.Context(), "key")
			if err == nil || errors.Is(err, storage.ErrTransient) != c.transient || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("error %v, transient must be %v", err, c.transient)
			}
			if !strings.HasPrefix(fmt.Sprint(err), `stat "key" in s3://`+o.Bucket+`/some/prefix at `+o.Endpoint+": ") || !strings.Contains(fmt.Sprint(err), c.said) {
				t.Errorf("error %v, want the place and %q", err, c.said)
			}
			if !strings.Contains(hint.Of(err), c.advice) {
				t.Errorf("advice %q for %v, want %q in it", hint.Of(err), err, c.advice)
			}
			if strings.Contains(fmt.Sprint(err), server.SecretKey) || strings.Contains(fmt.Sprint(err), "secret-of-another") {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

func TestAnotherRegionIsLearnedOnce(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{Region: "eu-test-1"})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	var log bytes.Buffer
	o.Region, o.Endpoint, o.Log = "us-west-2", proxy.URL, slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, o)
	for i := range 3 {
		if err := s.Put(t.Context(), fmt.Sprint(i), storage.Bytes([]byte("content")), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(proxy.Requests()); n != 4 {
		t.Errorf("%d requests for three puts, want one more than three", n)
	}
	if b, err := storage.ReadAll(t.Context(), s, "0", 100); string(b) != "content" {
		t.Errorf("read %q, error %v", b, err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "region=eu-test-1") || !strings.Contains(log.String(), "s3.region") {
		t.Errorf("the log says %q, want one warning that names the region", log.String())
	}
}

func TestARedirectThatLeadsNowhereIsAnError(t *testing.T) {
	n := 0
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("X-Amz-Bucket-Region", "eu-test-1")
		w.Header().Set("Location", "http://127.0.0.1:1/")
		sayError(w, 301, "PermanentRedirect")
	})
	_, err := open(t, optionsFor(t, server, "bucket")).Stat(t.Context(), "key")
	if err == nil || errors.Is(err, storage.ErrTransient) || n != 2 || hint.Of(err) != "set s3.region to eu-test-1." {
		t.Errorf("%d requests, error %v, advice %q", n, err, hint.Of(err))
	}
}
