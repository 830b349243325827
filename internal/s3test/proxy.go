package s3test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// copySize is how much of a body is copied at once.
const copySize = 256 << 10

// Proxy stands between clients and a Server: it records every request, and delays and breaks what a test wants. It speaks the scheme of
// the Server, with a certificate of its own by the same authority, and leaves the Host header as the client signed it. A
// server that does not answer is seen as a cut connection. It is safe for many goroutines.
type Proxy struct {
	// URL is what clients use instead of the Server's.
	URL string

	upstream  *url.URL
	transport *http.Transport
	server    *http.Server
	closed    chan struct{}
	buffers   sync.Pool
	decide    atomic.Pointer[func(Request) Fault]
	latency   atomic.Int64 // a round trip, in nanoseconds

	mu       sync.Mutex
	requests []Request
	conns    map[net.Conn]http.ConnState
}

// NewProxy starts a proxy before a server and stops it when the test ends. Of a Server that no function of this package made
// only URL is used.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	upstream, err := url.Parse(s.URL)
	if err != nil {
		t.Fatalf("proxy: URL of the server: %v", err)
	}
	p := &Proxy{
		upstream: upstream,
		transport: &http.Transport{
			TLSClientConfig: s.tlsConfig(), DisableCompression: true, MaxIdleConnsPerHost: 1000,
			WriteBufferSize: copySize, ReadBufferSize: copySize, ExpectContinueTimeout: 10 * time.Second,
		},
		closed:  make(chan struct{}),
		buffers: sync.Pool{New: func() any { return new([copySize]byte) }},
		conns:   make(map[net.Conn]http.ConnState),
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p.URL = "http://" + plain.Addr().String()
	listener := net.Listener(&slowListener{Listener: plain, latency: &p.latency})
	if s.authority != nil {
		config, err := s.authority.serve()
		if err != nil {
			t.Fatalf("proxy: %v", err)
		}
		p.URL = "https://" + plain.Addr().String()
		listener = tls.NewListener(listener, config)
	}
	// Connections that end in the middle are what it is for: nothing to log.
	p.server = &http.Server{Handler: p, ConnState: p.noteState, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = p.server.Serve(listener) }() // ends by Close
	t.Cleanup(func() {
		close(p.closed)
		_ = p.server.Close() // whatever still runs
		p.transport.CloseIdleConnections()
	})
	return p
}

// Requests returns what has arrived since the start or the last Reset, in this order, broken requests too.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.requests...)
}

// Reset forgets the requests: the next one is number 1 again.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// On lets f decide what becomes of each request, from the next one on; nil breaks nothing. f is called by many goroutines at once,
// when the headers of a request have arrived and before anything is forwarded.
func (p *Proxy) On(f func(Request) Fault) {
	if f == nil {
		p.decide.Store(nil)
		return
	}
	p.decide.Store(&f)
}

// Latency lets bytes arrive later, as over a network with this round trip: half of it in each direction, and one more for a
// new connection. Throughput is not limited. Zero ends it. Idle connections without latency are closed, and clients take new ones: call it
// while no request is on its way.
func (p *Proxy) Latency(rtt time.Duration) {
	p.latency.Store(int64(rtt))
	if rtt > 0 {
		p.closeQuick()
	}
}

// closeQuick closes the connections over which bytes cannot be delayed, politely: a client that had not seen the end of a connection
// yet would send its next request by it, and that would fail. Hence it waits until the client has closed its side, which
// a client does that watches its idle connections, as Go's does.
func (p *Proxy) closeQuick() {
	deadline := time.Now().Add(2 * time.Second)
	for quick := p.quick(); len(quick) > 0; quick = p.quick() {
		for _, conn := range quick {
			if half, ok := conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil || time.Now().After(deadline) {
				_ = conn.Close()
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// quick returns the open connections that bytes go through without delay and that no request is on.
func (p *Proxy) quick() []net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var quick []net.Conn
	for conn, state := range p.conns {
		below := conn
		if secure, ok := conn.(*tls.Conn); ok {
			below = secure.NetConn()
		}
		if _, direct := below.(*net.TCPConn); direct && state != http.StateActive {
			quick = append(quick, conn)
		}
	}
	return quick
}

// noteState keeps the state of every connection.
func (p *Proxy) noteState(conn net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(p.conns, conn)
		return
	}
	p.conns[conn] = state
}

// ServeHTTP records, decides, and forwards what the decision leaves.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := None
	request := p.record(r)
	if decide := p.decide.Load(); decide != nil {
		fault = (*decide)(request)
	}
	if !p.serve(w, r, fault) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close() // cut: whatever was not flushed is lost
		}
	}
}

// serve does what the fault wants with the request, and returns false if the connection must be cut.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, fault Fault) bool {
	switch fault {
	case CutBefore:
		return false
	case SlowDown:
		drainUnlessAsked(r)
		return refuse(w, r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	case Hang:
		return p.hang(r)
	}
	// Else the first byte of an answer would close the request's body, which is still being read: a server may answer early, and after
	// the last byte of a body comes the look at its end.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		return false
	}
	answer, err := p.forward(r)
	if err != nil {
		return false
	}
	defer func() { _ = answer.Body.Close() }()
	switch fault {
	case DropAnswer:
		_, _ = io.Copy(io.Discard, answer.Body) // to the end: the server may still be at work while it answers
		return false
	case InternalError:
		_, _ = io.Copy(io.Discard, answer.Body)
		return refuse(w, r, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
	case CutBody:
		if half := halve(answer); half > 0 && r.Method != http.MethodHead {
			p.pass(w, answer, half)
		}
		return false
	default:
		return p.pass(w, answer, math.MaxInt64)
	}
}

// record gives the request its number.
func (p *Proxy) record(r *http.Request) Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	request := Request{
		N: len(p.requests) + 1, Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
		Header: r.Header.Clone(), Size: r.ContentLength,
	}
	p.requests = append(p.requests, request)
	return request
}

// forward sends the request to the server. The Host header stays the client's, as it is signed.
func (p *Proxy) forward(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.upstream.Scheme, p.upstream.Host
	out.Header.Del("Connection")
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	if out.Header["User-Agent"] == nil {
		out.Header.Set("User-Agent", "") // or the transport says its own
	}
	answer, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("forward %s %s: %w", r.Method, r.URL.Path, err)
	}
	return answer, nil
}

// pass copies an answer, and at most limit bytes of its body. What has come is sent on at once. It returns false if the
// server or the client went away.
func (p *Proxy) pass(w http.ResponseWriter, answer *http.Response, limit int64) bool {
	header := w.Header()
	for name, values := range answer.Header {
		header[name] = values
	}
	header.Del("Connection") // that of the server, not of the client
	w.WriteHeader(answer.StatusCode)
	buffer := p.buffers.Get().(*[copySize]byte)
	defer p.buffers.Put(buffer)
	flush := http.NewResponseController(w).Flush
	for limit > 0 {
		n, err := answer.Body.Read(buffer[:min(copySize, limit)])
		limit -= int64(n)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil || flush() != nil {
				return false
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false
		}
	}
	return true
}
