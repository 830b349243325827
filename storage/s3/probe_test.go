package s3

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage/conformance"
)

// hastyServer keeps objects and looks whether a key is taken when a request begins, not
// when it has all of the content.
func hastyServer(t *testing.T) *s3test.Server {
	var mu sync.Mutex
	objects := map[string][]byte{}
	return toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.URL.Path, "/bucket/")
		mu.Lock()
		old, taken := objects[key]
		mu.Unlock()
		switch {
		case r.URL.Query().Has("list-type"):
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprint(w, "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>")
			var keys []string
			for k := range objects {
				if strings.HasPrefix(k, r.URL.Query().Get("prefix")) {
					keys = append(keys, k)
				}
			}
			sort.Strings(keys)
			for _, k := range keys {
				fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size></Contents>", k, len(objects[k]))
			}
			fmt.Fprint(w, "</ListBucketResult>")
		case r.Method == http.MethodPut && taken && r.Header.Get("If-None-Match") != "":
			_, _ = io.Copy(io.Discard, r.Body)
			sayError(w, http.StatusPreconditionFailed, "PreconditionFailed")
		case r.Method == http.MethodPut:
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			objects[key] = b
			mu.Unlock()
			w.Header().Set("ETag", `"e"`)
		case r.Method == http.MethodGet && taken:
			w.Header().Set("Content-Length", fmt.Sprint(len(old)))
			_, _ = w.Write(old)
		case r.Method == http.MethodGet:
			sayError(w, http.StatusNotFound, "NoSuchKey")
		case r.Method == http.MethodPost:
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			for k := range objects {
				if strings.Contains(string(b), "<Key>"+k+"</Key>") {
					delete(objects, k)
				}
			}
			fmt.Fprint(w, "<DeleteResult></DeleteResult>")
		case r.Method == http.MethodDelete:
			mu.Lock()
			defer mu.Unlock()
			delete(objects, key)
			w.WriteHeader(http.StatusNoContent)
		}
	})
}

func TestTheProbeFindsAServerThatLooksTooEarly(t *testing.T) {
	missed := 0
	for range 5 {
		held, err := conformance.ConditionalPut(t.Context(), open(t, optionsFor(t, hastyServer(t), "bucket")), "probe/1/")
		if err != nil {
			t.Fatal(err)
		}
		if held {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("of 5 probes %d found that such a server keeps two writers apart", missed)
	}
}
