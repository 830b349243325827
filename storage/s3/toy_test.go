package s3

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pgbak/pgbak/internal/s3test"
)

// toyServer answers as a test wants, for what real servers do not do at will.
func toyServer(t *testing.T, handler http.HandlerFunc) *s3test.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &s3test.Server{URL: server.URL, Region: "us-east-1", AccessKey: "toy", SecretKey: "toy-secret"}
}

// sayError is an error of S3, or of something else if there is no code.
func sayError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Amz-Request-Id", "4711")
	w.WriteHeader(status)
	if code == "" {
		fmt.Fprint(w, "<html>sorry</html>")
		return
	}
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>that is why</Message><RequestId>4711</RequestId></Error>`, code)
}

// lookupFails is a dialer for which the resolver has this answer: the machine of a test
// may have no name server to ask.
func lookupFails(err *net.DNSError) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, network, _ string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
}
