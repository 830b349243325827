package s3

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/pgbak/pgbak/storage"
)

// metered is a source that counts what is read of it through a limit and past it.
type metered struct {
	storage.Source
	limited, free *atomic.Int64
}

func (m metered) Open() (io.ReadCloser, error) {
	r, err := m.Source.Open()
	return &meteredReader{r.(io.ReadSeeker), m}, err
}

type meteredReader struct {
	io.ReadSeeker
	m metered
}

func (r *meteredReader) Close() error { return nil }

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	r.m.limited.Add(int64(n))
	return n, err
}

func (r *meteredReader) Unpaced() io.Reader { return counting{r.ReadSeeker, r.m.free} }

type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestOnlyWhatIsSentCountsForALimit(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"e"`)
	})
	const size = 5 << 20
	var limited, free atomic.Int64
	src := metered{storage.Bytes(make([]byte, size)), &limited, &free}
	if err := open(t, optionsFor(t, server, "bucket")).Put(t.Context(), "key", src, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if limited.Load() != size || free.Load() != size {
		t.Errorf("%d bytes were read through the limit and %d past it, want %d each", limited.Load(), free.Load(), size)
	}
}
