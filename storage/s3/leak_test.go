package s3

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
)

// countedConn tells when it is closed.
type countedConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

func TestNoConnectionIsLeftOpenWhateverHappens(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.MultipartFrom, o.PartSize, o.Connections = 5<<20, 5<<20, 3
	s := open(t, o)
	if err := s.Put(t.Context(), "old", storage.Bytes([]byte(strings.Repeat("old", 1000))), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	var now, most, dialed atomic.Int64
	o.Endpoint, o.Timeouts = proxy.URL, Timeouts{Header: 200 * time.Millisecond}
	o.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		dialed.Add(1)
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return &countedConn{Conn: conn, closed: func() { now.Add(-1) }}, nil
	}
	s = open(t, o)
	var turn atomic.Int64
	faults := append(s3test.Faults(), s3test.None, s3test.None)
	proxy.On(func(s3test.Request) s3test.Fault { return faults[int(turn.Add(1))%len(faults)] })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				for _, operation := range operations() {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					_ = operation(ctx, s)
					cancel()
				}
				// Read in part, and given up.
				if r, err := s.Get(t.Context(), "old", storage.Range{Offset: 1}); err == nil {
					_, _ = io.CopyN(io.Discard, r, 10)
					r.Close()
				}
			}
		})
	}
	wg.Wait()
	proxy.On(nil)
	for i := range 20 {
		if err := s.Put(t.Context(), fmt.Sprint("after/", i), storage.Bytes([]byte("x")), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// net/http gives the place of a connection away just before it closes it, so for
	// a moment there can be more; each of the three places can be closing one.
	if now.Load() > 3 || most.Load() > 6 {
		t.Errorf("%d connections are open, want 3; %d were at most, want 6", now.Load(), most.Load())
	}
	if dialed.Load() < 20 {
		t.Errorf("only %d connections were made: the faults did not strike", dialed.Load())
	}
	if n := len(s.parts); n != partsAtOnce {
		t.Errorf("the memory of %d parts was not given back", partsAtOnce-n)
	}
}
