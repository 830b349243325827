package s3test

import (
	"net/http"
	"testing"
	"time"
)

func TestServersKeepObjectsOverARestart(t *testing.T) {
	for _, tc := range []struct {
		title string
		start func(testing.TB, Options) *Server
		o     Options
	}{
		{"MinIO http", MinIO, Options{}},
		{"MinIO https elsewhere", MinIO, Options{TLS: true, Region: "eu-test-1"}},
		{"versitygw http", Versity, Options{}},
		{"versitygw https elsewhere", Versity, Options{TLS: true, Region: "eu-test-1"}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			began := time.Now()
			s := tc.start(t, tc.o)
			t.Logf("started in %v", time.Since(began))
			p := NewProxy(t, s)
			path := "/" + s.Bucket(t) + "/a/b%2Bc%20d"
			want(t, s, p.URL, http.MethodPut, path, "content", 200, "")
			want(t, s, p.URL, http.MethodGet, path, "", 200, "content")
			s.Stop()
			if _, _, err := s.doAt(t.Context(), s.URL, http.MethodGet, path, nil); err == nil {
				t.Error("a stopped server answers")
			}
			s.Start()
			want(t, s, s.URL, http.MethodGet, path, "", 200, "content")
			if n := len(p.Requests()); n != 2 {
				t.Errorf("the proxy saw %d requests, want 2", n)
			}
		})
	}
}

// want sends a request with its body and compares status and answer.
func want(t *testing.T, s *Server, base, method, path, body string, status int, answer string) {
	t.Helper()
	gotStatus, got, err := s.doAt(t.Context(), base, method, path, []byte(body))
	if err != nil || gotStatus != status || string(got) != answer {
		t.Fatalf("%s %s: status %d, answer %q, error %v, want %d and %q", method, path, gotStatus, got, err, status, answer)
	}
}
