package s3

import (
	"io"
	"net/http"
	"testing"

	"github.com/pgbak/pgbak/storage"
)

func TestARangeThatIsCutShortByTheServerIsAnError(t *testing.T) {
	for _, c := range []struct {
		r    storage.Range
		sent string
	}{
		{storage.Range{Offset: 3}, "bytes 3-5/10"},
		{storage.Range{Offset: 3, Length: 4}, "bytes 3-5/10"},
		{storage.Range{Offset: 3, Length: 40}, "bytes 3-5/10"},
		{storage.Range{Offset: -7}, "bytes 3-5/10"},
		{storage.Range{Offset: -7, Length: 2}, "bytes 3-5/10"},
		{storage.Range{}, "bytes 0-2/10"},
	} {
		server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", c.sent)
			w.WriteHeader(206)
			io.WriteString(w, "345")
		})
		r, err := open(t, optionsFor(t, server, "bucket")).Get(t.Context(), "key", c.r)
		if err == nil {
			b, readErr := io.ReadAll(r)
			t.Errorf("%+v gave %q and error %v without a word of what is missing", c.r, b, readErr)
		}
	}
}

// A list whose connection was cut, from a server that ends its answers by closing.
