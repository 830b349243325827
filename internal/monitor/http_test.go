package monitor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func ask(h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestHealthAndReadiness(t *testing.T) {
	var later atomic.Int64
	probes, answers := make(chan struct{}, 10), make(chan error, 10)
	h := &Health{Age: 10 * time.Second, Measure: func() []Family { return []Family{{Name: "things_total", Kind: "counter", Help: "Things."}} }, Clock: func() time.Time { return time.Unix(later.Load(), 0) },
		Probe: func(context.Context) error {
			probes <- struct{}{}
			return <-answers
		}}
	want := func(path string, code int, text string) {
		t.Helper()
		if got, body := ask(h, http.MethodGet, path); got != code || !strings.Contains(body, text) {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	want("/healthz", 200, "alive")
	want("/metrics", 200, "# TYPE things_total counter")
	want("/nothing", 404, "")
	if code, _ := ask(h, http.MethodPost, "/healthz"); code != 405 {
		t.Errorf("POST: %d", code)
	}
	want("/readyz", 503, "has not answered yet") // after a short while
	<-probes
	answers <- nil
	want("/readyz", 200, "ready")
	later.Add(5)
	want("/readyz", 200, "ready")
	if len(probes) != 0 {
		t.Error("a young outcome was probed again")
	}
	later.Add(10)
	answers <- errors.New("repository is away")
	want("/readyz", 503, "repository is away")
	<-probes
	later.Add(20)
	want("/readyz", 503, "repository is away") // the word of the last, while the next one runs
	<-probes
	answers <- nil
	want("/readyz", 200, "ready")
}
