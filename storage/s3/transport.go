package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// Timeouts bound the waiting for a network or a server that does not answer; a
// request that reaches one fails with storage.ErrTransient. Zero is the default.
type Timeouts struct {
	Dial   time.Duration // until there is a connection; 10 s
	TLS    time.Duration // until its handshake is done; 10 s
	Header time.Duration // from the end of a request to the first line of its answer; 60 s
	Stall  time.Duration // without a byte sent or received while there should be one; 60 s
}

func (t *Timeouts) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&t.Dial, 10 * time.Second}, {&t.TLS, 10 * time.Second}, {&t.Header, time.Minute}, {&t.Stall, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// connBuffer is the size, in bytes, of the read and of the write buffer of a
// connection, and of the largest piece that must pass within Timeouts.Stall.
const connBuffer = 256 << 10

// newTransport speaks HTTP/1.1 only: one large transfer on each connection is what
// fills a network, and the streams of HTTP/2 share the window of one.
func newTransport(o *Options) (*http.Transport, error) {
	roots, err := trustedRoots(o.CAFile)
	if err != nil {
		return nil, err
	}
	dial := (&net.Dialer{Timeout: o.Timeouts.Dial, KeepAlive: 30 * time.Second}).DialContext
	if o.dial != nil {
		dial = o.dial
	}
	stall, clock := o.Timeouts.Stall, o.Clock
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &impatientConn{Conn: conn, stall: stall, clock: clock}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   o.Timeouts.TLS,
		ResponseHeaderTimeout: o.Timeouts.Header,
		// How long a large Put waits for "100 Continue"; servers that do not know
		// it get the content after that.
		ExpectContinueTimeout: time.Second,
		MaxConnsPerHost:       o.Connections,
		MaxIdleConns:          o.Connections,
		MaxIdleConnsPerHost:   o.Connections,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // or an object stored with an encoding would not come back as it is
		WriteBufferSize:       connBuffer,
		ReadBufferSize:        connBuffer,
		Protocols:             protocols,
	}, nil
}

// trustedRoots are the certificates of the file if there is one, and then only
// those: who names the authority of his own server means that one, and reading the
// system's hundred or more costs archive-push several milliseconds each time.
func trustedRoots(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in CA file %s", caFile)
	}
	return roots, nil
}

// impatientConn fails, with a timeout, a read or a write during which nothing has
// passed for the time of stall. A read can be under way while a long request
// is being written (the transport always reads ahead), so a write gives the read new
// time too.
type impatientConn struct {
	net.Conn
	stall time.Duration
	clock func() time.Time
}

func (c *impatientConn) Read(p []byte) (int, error) {
	if err := c.Conn.SetReadDeadline(c.clock().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *impatientConn) Write(p []byte) (written int, err error) {
	for {
		piece := p[:min(len(p), connBuffer)]
		if err := c.Conn.SetDeadline(c.clock().Add(c.stall)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(piece)
		written += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return written, err
		}
	}
}
