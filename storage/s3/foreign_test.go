package s3

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
)

func TestAnAnswerThatIsNotThatOfS3StoresNothing(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "<html>please log in</html>")
	})
	o := optionsFor(t, server, "bucket")
	for _, multipartFrom := range []int64{1, 0} {
		o.MultipartFrom = multipartFrom
		err := open(t, o).Put(t.Context(), "key", storage.Bytes([]byte("content")), storage.PutOptions{})
		if err == nil {
			t.Errorf("a page with status 200 was taken for a stored object (parts from %d)", multipartFrom)
		}
	}
}

func TestDeletingSeveralNeedsAnAnswerOfS3(t *testing.T) {
	for _, body := range []string{"", "<html>please log in</html>", "please log in"} {
		server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
		s := open(t, optionsFor(t, server, "bucket"))
		if err := s.Delete(t.Context(), "a", "b"); err == nil {
			t.Errorf("%q was taken for the answer to a delete", body)
		}
	}
}

func TestAListCutShortIsAnError(t *testing.T) {
	whole := "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents><Contents><Key>b</Key><Size>1</Size></Contents></ListBucketResult>"
	for n := range len(whole) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s", whole[:n])
			rw.Flush()
			conn.Close()
		}))
		o := optionsFor(t, toyServer(t, nil), "bucket")
		o.Endpoint = server.URL
		if got := listed(t, open(t, o)); strings.HasSuffix(got, "<nil>") {
			t.Errorf("%d bytes: %s", n, got)
		}
		server.Close()
	}
}
