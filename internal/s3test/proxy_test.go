package s3test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// toy is a server whose answers are known, and which remembers what it has done.
type toy struct {
	*httptest.Server
	mu   sync.Mutex
	done []string // method and size of the body of every request that was read to its end
}

// sample is the body of the toy's answers: larger than any buffer on the way, and without a period of a power of two.
var sample = bytes.Repeat([]byte("0123456789abcdefghi"), 200_000)

func newToy(t *testing.T) *toy {
	s := &toy{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.done = append(s.done, fmt.Sprint(r.Method, " ", size))
		s.mu.Unlock()
		if r.URL.Query().Has("chunked") {
			_ = http.NewResponseController(w).Flush()
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(sample)))
		}
		_, _ = w.Write(sample)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *toy) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.done...)
}

// ask sends a request by the client and returns what came of it; the body up to its error.
func ask(ctx context.Context, client *http.Client, method, url string, body []byte) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	got, err := io.ReadAll(answer.Body)
	return answer.StatusCode, got, err
}

// newClient has connections of its own.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestFaults(t *testing.T) {
	large := make([]byte, 10<<20)
	done := fmt.Sprint("PUT ", len(large))
	half := sample[:len(sample)/2]
	for _, tc := range []struct {
		fault  Fault
		status int    // 0: no answer
		body   []byte // what arrives of the body
		part   bool   // the body ends too early
		done   string // by the server
	}{
		{None, 200, sample, false, done},
		{CutBefore, 0, nil, false, ""},
		{DropAnswer, 0, nil, false, done},
		{CutBody, 200, half, true, done},
		{SlowDown, 503, []byte("<Code>SlowDown</Code>"), false, ""},
		{InternalError, 500, []byte("<Code>InternalError</Code>"), false, done},
		{Hang, 0, nil, false, ""},
	} {
		for _, query := range []string{"", "?chunked"} {
			for _, rtt := range []time.Duration{0, 20 * time.Millisecond} {
				t.Run(fmt.Sprint(tc.fault, query, " ", rtt), func(t *testing.T) {
					upstream := newToy(t)
					p := NewProxy(t, &Server{URL: upstream.URL})
					p.Latency(rtt)
					p.On(func(Request) Fault { return tc.fault })
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if tc.fault == Hang {
						time.AfterFunc(300*time.Millisecond, cancel)
					}
					status, body, err := ask(ctx, newClient(t), http.MethodPut, p.URL+"/b/k"+query, large)
					if status != tc.status {
						t.Errorf("status %d, error %v, want status %d", status, err, tc.status)
					}
					if got := errors.Is(err, io.ErrUnexpectedEOF); status == 200 && got != tc.part || tc.part && err == nil {
						t.Errorf("error of the body %v, ends too early: want %v", err, tc.part)
					}
					if tc.fault == Hang && !errors.Is(err, context.Canceled) {
						t.Errorf("error %v, want that of the client, which gave up", err)
					}
					if status == 200 && !bytes.Equal(body, tc.body) || !bytes.Contains(body, tc.body) {
						t.Errorf("%d bytes of the body, want %d", len(body), len(tc.body))
					}
					if got := strings.Join(upstream.seen(), ","); got != tc.done {
						t.Errorf("the server did %q, want %q", got, tc.done)
					}
					waitForNoRequest(t, p)
				})
			}
		}
	}
}

// waitForNoRequest fails if the proxy is still busy with a request whose client has gone.
func waitForNoRequest(t *testing.T, p *Proxy) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		busy := 0
		p.mu.Lock()
		for _, state := range p.conns {
			if state == http.StateActive {
				busy++
			}
		}
		p.mu.Unlock()
		if busy == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests are still under way", busy)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestContinueIsAskedOfTheServer(t *testing.T) {
	for _, tc := range []struct {
		title  string
		fault  Fault
		accept bool // the server wants the body
		status int
		sent   bool
	}{
		{"server wants it", None, true, 200, true},
		{"server refuses", None, false, 412, false},
		{"fault", SlowDown, true, 503, false},
	} {
		t.Run(tc.title, func(t *testing.T) {
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !tc.accept {
					w.WriteHeader(http.StatusPreconditionFailed)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			}))
			defer upstream.Close()
			p := NewProxy(t, &Server{URL: upstream.URL})
			p.On(func(Request) Fault { return tc.fault })
			body := &countingReader{Reader: strings.NewReader("content")}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL+"/b/k", body)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = 7
			r.Header.Set("Expect", "100-continue")
			answer, err := newClient(t).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != tc.status || body.n.Load() > 0 != tc.sent {
				t.Errorf("status %d, %d bytes sent, want %d, sent %v", answer.StatusCode, body.n.Load(), tc.status, tc.sent)
			}
		})
	}
}

func TestAnswerMayBeginBeforeTheEndOfTheRequest(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_, _ = io.WriteString(w, "begun ")
		_ = control.Flush()
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, string(body), err)
	}))
	defer upstream.Close()
	p := NewProxy(t, &Server{URL: upstream.URL})
	body, source := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, p.URL+"/b/k", body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := newClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(source, "late ")
		_ = source.Close()
	}()
	got, err := io.ReadAll(answer.Body)
	if err != nil || string(got) != "begun late <nil>" {
		t.Errorf("%q, error %v", got, err)
	}
}

func TestSlowDownTakesTheWholeBodyAndKeepsTheConnection(t *testing.T) {
	upstream := newToy(t)
	p := NewProxy(t, &Server{URL: upstream.URL})
	p.On(func(Request) Fault { return SlowDown })
	client := newClient(t)
	var reused []bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = append(reused, info.Reused) },
	})
	for range 2 {
		if status, _, err := ask(ctx, client, http.MethodPut, p.URL+"/b/k", make([]byte, 10<<20)); status != 503 || err != nil {
			t.Fatalf("status %d, error %v", status, err)
		}
	}
	if fmt.Sprint(reused) != "[false true]" {
		t.Errorf("connections reused: %v", reused)
	}
}

func TestRequestsAreNumberedAndNamed(t *testing.T) {
	upstream := newToy(t)
	p := NewProxy(t, &Server{URL: upstream.URL})
	client := newClient(t)
	var faultOn []int
	p.On(func(r Request) Fault {
		if r.Operation() == "LIST" {
			faultOn = append(faultOn, r.N)
			return SlowDown
		}
		return None
	})
	for _, call := range []string{"PUT /b/k", "GET /b?list-type=2&prefix=a%2Fb", "DELETE /b/k%20l"} {
		method, path, _ := strings.Cut(call, " ")
		if _, _, err := ask(t.Context(), client, method, p.URL+path, []byte("xyz")); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range p.Requests() {
		got = append(got, fmt.Sprint(r.N, " ", r.Operation(), " ", r.Path, " ", r.Query, " ", r.Size))
	}
	want := "1 PUT /b/k  3\n2 LIST /b list-type=2&prefix=a%2Fb 3\n3 DELETE /b/k l  3"
	if strings.Join(got, "\n") != want || fmt.Sprint(faultOn) != "[2]" {
		t.Errorf("requests:\n%s\nwant:\n%s\nfault on %v", strings.Join(got, "\n"), want, faultOn)
	}
	p.On(nil)
	p.Reset()
	status, _, err := ask(t.Context(), client, http.MethodGet, p.URL+"/b?list-type=2", nil)
	if requests := p.Requests(); err != nil || status != 200 || len(requests) != 1 || requests[0].N != 1 {
		t.Errorf("after the reset: status %d, error %v, requests %v", status, err, requests)
	}
}

func TestOperation(t *testing.T) {
	for call, want := range map[string]string{
		"GET ":                           "GET",
		"GET x-id=GetObject":             "GET",
		"HEAD ":                          "HEAD",
		"PUT x-id=PutObject":             "PUT",
		"DELETE x-id=DeleteObject":       "DELETE",
		"GET list-type=2&max-keys=1":     "LIST",
		"GET location":                   "GET ?location",
		"POST delete=":                   "POST ?delete",
		"POST uploads":                   "POST ?uploads",
		"PUT partNumber=3&uploadId=u":    "PUT ?partNumber",
		"POST uploadId=u":                "POST ?uploadId",
		"DELETE uploadId=u&x-id=Abort":   "DELETE ?uploadId",
		"GET prefix=uploads&list-type=2": "LIST",
	} {
		method, query, _ := strings.Cut(call, " ")
		if got := (Request{Method: method, Query: query}).Operation(); got != want {
			t.Errorf("%s: %q, want %q", call, got, want)
		}
	}
}

func TestGoSendsAGetAgainOnAUsedConnection(t *testing.T) {
	upstream := newToy(t)
	p := NewProxy(t, &Server{URL: upstream.URL})
	client := newClient(t)
	p.On(func(r Request) Fault {
		if r.N == 2 {
			return CutBefore
		}
		return None
	})
	for range 2 {
		if _, _, err := ask(t.Context(), client, http.MethodGet, p.URL+"/b/k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.Requests()); n != 3 {
		t.Errorf("%d requests, want 3: the doc comment of the faults is wrong", n)
	}
}

func TestServerThatIsGoneIsACutConnection(t *testing.T) {
	upstream := newToy(t)
	p := NewProxy(t, &Server{URL: upstream.URL})
	upstream.Close()
	if status, _, err := ask(t.Context(), newClient(t), http.MethodPut, p.URL+"/b/k", []byte("xyz")); err == nil {
		t.Errorf("status %d, want an error", status)
	}
}

// countingReader counts what was read.
type countingReader struct {
	io.Reader
	n atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}
