package s3test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestLatencyCountsRoundTrips(t *testing.T) {
	const rtt = 200 * time.Millisecond
	for _, tc := range []struct {
		title         string
		tls           bool
		first, second int // round trips of a request on a new connection and on the same again
	}{
		{"http: connect, ask", false, 2, 1},
		{"https: connect, TLS 1.3, ask", true, 3, 1},
	} {
		t.Run(tc.title, func(t *testing.T) {
			s := Versity(t, Options{TLS: tc.tls}) // it is quick to start, and the proxy keeps its connections open
			bucket := s.Bucket(t)
			p := NewProxy(t, s)
			client := newClient(t)
			client.Transport.(*http.Transport).TLSClientConfig = s.tlsConfig()
			// A busy machine adds time now and then, so the best of some is compared from above.
			measure := func(trips int, what string, fresh bool) {
				t.Helper()
				best := time.Hour
				least, most := time.Duration(trips)*rtt, time.Duration(trips)*rtt+rtt/2
				for range 8 {
					if fresh {
						client.CloseIdleConnections()
					}
					began := time.Now()
					status, _, err := ask(t.Context(), client, http.MethodGet, p.URL+"/"+bucket+"/k", nil) // unsigned
					best = min(best, time.Since(began))
					if err != nil || status != http.StatusForbidden {
						t.Errorf("%s: status %d, error %v, want 403", what, status, err)
					}
					if best <= most {
						break
					}
				}
				t.Logf("%s: %v", what, best)
				if best < least || best > most {
					t.Errorf("%s took %v, want %d round trips of %v", what, best, trips, rtt)
				}
			}
			measure(0, "no latency", false)
			p.Latency(rtt)
			measure(tc.first, "new connection", true)
			measure(tc.second, "same connection", false)
			p.Latency(0)
			measure(0, "same connection without latency", false)
		})
	}
}

func TestLatencyDoesNotLimitThroughput(t *testing.T) {
	upstream := newToy(t)
	p := NewProxy(t, &Server{URL: upstream.URL})
	p.Latency(200 * time.Millisecond)
	began := time.Now()
	// 128 MiB up and 3.8 MB down: windows of 64 KiB would need 2048 round trips, or half of it.
	if status, body, err := ask(t.Context(), newClient(t), http.MethodPut, p.URL+"/b/k", make([]byte, 128<<20)); status != 200 || err != nil || len(body) != len(sample) {
		t.Errorf("status %d, %d bytes, error %v", status, len(body), err)
	}
	took := time.Since(began)
	t.Logf("128 MiB in %v", took)
	if took > 30*time.Second {
		t.Errorf("128 MiB took %v", took)
	}
}

func TestProxyHasACertificateOfItsOwn(t *testing.T) {
	s := Versity(t, Options{TLS: true})
	p := NewProxy(t, s)
	serial := func(url string) string {
		conn, err := tls.Dial("tcp", url[len("https://"):], s.tlsConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	if serial(s.URL) == serial(p.URL) {
		t.Error("server and proxy show the same certificate")
	}
}

func TestNoRequestIsLostWhenLatencyBegins(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := Versity(t, Options{TLS: secure})
		p := NewProxy(t, s)
		client := newClient(t)
		transport := client.Transport.(*http.Transport)
		transport.TLSClientConfig = s.tlsConfig()
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := DialLocal(ctx, network, address)
			return lateEnd{conn}, err
		}
		// The second PUT would go by the connection without latency, and Go does not repeat one.
		for _, rtt := range []time.Duration{0, time.Microsecond} {
			p.Latency(rtt)
			if _, _, err := ask(t.Context(), client, http.MethodPut, p.URL+"/bucket/k", []byte("xyz")); err != nil {
				t.Errorf("TLS %v, latency %v: %v", secure, rtt, err)
			}
		}
	}
}

// lateEnd is a connection whose end the client sees late.
type lateEnd struct{ net.Conn }

func (c lateEnd) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		time.Sleep(100 * time.Millisecond)
	}
	return n, err
}
