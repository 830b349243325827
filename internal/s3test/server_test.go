package s3test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
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
			bucket := s.Bucket(t)
			const key = "/a/b%2Bc%20d"
			path := "/" + bucket + key
			want(t, s, p.URL, http.MethodPut, path, "content", 200, "")
			want(t, s, p.URL, http.MethodGet, path, "", 200, "content")
			// The virtual host style, signed for another Host, by the proxy too.
			virtual := strings.Replace(VirtualURL(p.URL), "://", "://"+bucket+".", 1)
			want(t, s, virtual, http.MethodGet, key, "", 200, "content")
			s.Stop()
			if _, _, err := s.doAt(t.Context(), s.URL, http.MethodGet, path, nil); err == nil {
				t.Error("a stopped server answers")
			}
			s.Start()
			want(t, s, s.URL, http.MethodGet, path, "", 200, "content")
			if n := len(p.Requests()); n != 3 {
				t.Errorf("the proxy saw %d requests, want 3", n)
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

func TestWrongSecretIsRefused(t *testing.T) {
	s := Versity(t, Options{})
	other := *s
	other.SecretKey = "wrong"
	status, _, err := other.do(t.Context(), http.MethodGet, "/", nil)
	if err != nil || status != http.StatusForbidden {
		t.Errorf("status %d, error %v, want 403", status, err)
	}
}

func TestMissingProgramFailsTheTestAndSaysWhatToDo(t *testing.T) {
	t.Setenv("PGBAK_TEST_CACHE", t.TempDir())
	seen := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		MinIO(seen, Options{})
	}()
	<-done
	if !strings.Contains(seen.message, "run scripts/install-s3.sh") {
		t.Errorf("message %q", seen.message)
	}
}

// failing takes the end of a test for itself.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
