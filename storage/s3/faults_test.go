package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
)

// operations are all that a Store can do, on objects that the test has put.
func operations() map[string]func(context.Context, *Store) error {
	large := storage.Bytes(bytes.Repeat([]byte("x"), 6<<20))
	return map[string]func(context.Context, *Store) error{
		"put": func(ctx context.Context, s *Store) error {
			return s.Put(ctx, "new", storage.Bytes([]byte("new")), storage.PutOptions{})
		},
		"put if absent": func(ctx context.Context, s *Store) error {
			return s.Put(ctx, "absent", storage.Bytes([]byte("new")), storage.PutOptions{IfAbsent: true})
		},
		"put large": func(ctx context.Context, s *Store) error { return s.Put(ctx, "large", large, storage.PutOptions{}) },
		"get": func(ctx context.Context, s *Store) error {
			r, err := s.Get(ctx, "old", storage.Range{})
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err == nil && string(b) != strings.Repeat("old", 1000) {
				return fmt.Errorf("get gave %d bytes without an error", len(b))
			}
			return err
		},
		"stat": func(ctx context.Context, s *Store) error { _, err := s.Stat(ctx, "old"); return err },
		"list": func(ctx context.Context, s *Store) error {
			n := 0
			for _, err := range s.List(ctx, "", "") {
				if err != nil {
					return err
				}
				n++
			}
			if n == 0 {
				return errors.New("list gave nothing without an error")
			}
			return nil
		},
		"delete":      func(ctx context.Context, s *Store) error { return s.Delete(ctx, "one") },
		"delete many": func(ctx context.Context, s *Store) error { return s.Delete(ctx, "one", "two", "three") },
	}
}

func TestEveryFaultOfEveryRequestIsTransient(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.MultipartFrom, o.PartSize, o.Connections = 5<<20, 5<<20, 4
	s := open(t, o)
	if err := s.Put(t.Context(), "old", storage.Bytes(bytes.Repeat([]byte("old"), 1000)), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	o.Endpoint = proxy.URL
	o.Timeouts = Timeouts{Header: 300 * time.Millisecond}
	for name, operation := range operations() {
		for _, fault := range s3test.Faults() {
			t.Run(name+"/"+fault.String(), func(t *testing.T) {
				// Every request of the operation in turn: a large put has several.
				for n := 1; ; n++ {
					if err := s.Delete(t.Context(), "new", "absent", "large"); err != nil {
						t.Fatal(err)
					}
					var seen, fired atomic.Int32
					var mu sync.Mutex
					victim := ""
					proxy.On(func(r s3test.Request) s3test.Fault {
						// A GET is sent again by the transport, when a used connection is cut: by the same name it fails again.
						id := r.Operation() + r.Path + r.Query
						mu.Lock()
						defer mu.Unlock()
						if seen.Add(1) == int32(n) {
							victim = id
						}
						if victim == id {
							fired.Add(1)
							return fault
						}
						return s3test.None
					})
					err := operation(t.Context(), open(t, o))
					proxy.On(nil)
					if fired.Load() == 0 {
						if n == 1 || err != nil {
							t.Fatalf("request %d: the fault never fired, error %v", n, err)
						}
						return
					}
					if fault == s3test.CutBody && err == nil {
						continue // an answer without a body, such as a PUT's, cannot lose half of it
					}
					if strings.HasPrefix(victim, "DELETE") && strings.Contains(victim, "uploadId") {
						t.Fatalf("request %d: an upload was aborted without an earlier fault", n)
					}
					if !errors.Is(err, storage.ErrTransient) || errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrExist) {
						t.Fatalf("request %d, %s: error %v, want a transient one", n, victim, err)
					}
					if errors.Is(err, storage.ErrThrottled) != (fault == s3test.SlowDown) {
						t.Fatalf("request %d: error %v, throttled is wrong", n, err)
					}
				}
			})
		}
	}
}

func TestCancelledRequestsSayWhy(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.MultipartFrom, o.PartSize, o.Endpoint = 5<<20, 5<<20, proxy.URL
	cause := errors.New("the user has had enough")
	for name, operation := range operations() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			proxy.On(func(r s3test.Request) s3test.Fault {
				if ctx.Err() != nil {
					return s3test.None // the abort of an upload
				}
				cancel(cause)
				return s3test.Hang
			})
			defer proxy.On(nil)
			began := time.Now()
			err := operation(ctx, open(t, o))
			if !errors.Is(err, cause) || errors.Is(err, storage.ErrTransient) {
				t.Errorf("error %v, want the cause and nothing transient", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestStalledServerIsATimeout(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.Endpoint, o.Timeouts.Stall = proxy.URL, 200*time.Millisecond
	s := open(t, o)
	proxy.On(func(s3test.Request) s3test.Fault { return s3test.Hang })
	began := time.Now()
	_, err := s.Stat(t.Context(), "key")
	if !errors.Is(err, storage.ErrTransient) || time.Since(began) > 30*time.Second {
		t.Errorf("after %s error %v, want a transient one soon", time.Since(began), err)
	}
	// A connection that has nothing to do is not harmed: the next request gets a new one.
	proxy.On(nil)
	for range 2 {
		if _, err := s.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("error %v, want ErrNotExist", err)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// steady is content that comes slowly and never stops for long.
type steady struct{ pieces int }

func (s steady) Size() int64 { return int64(s.pieces) * 1000 }

func (s steady) Open() (io.ReadCloser, error) { return &trickle{left: s.pieces}, nil }

type trickle struct{ left int }

func (d *trickle) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	d.left--
	time.Sleep(100 * time.Millisecond)
	return copy(p, make([]byte, 1000)), nil
}

// Seek goes to the start, where a Put begins for the second time.
func (d *trickle) Seek(int64, int) (int64, error) { d.left = 10; return 0, nil }

func (d *trickle) Close() error { return nil }

func TestASlowTransferIsNoStall(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPut {
			w.Header().Set("ETag", `"e"`)
			return
		}
		w.Header().Set("Content-Length", "10")
		for range 9 {
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		if strings.HasSuffix(r.URL.Path, "stalls") {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}
		_, _ = w.Write([]byte("x"))
	})
	o := optionsFor(t, server, "bucket")
	o.Timeouts.Stall = 600 * time.Millisecond // the transfers take more
	s := open(t, o)
	if err := s.Put(t.Context(), "key", steady{10}, storage.PutOptions{}); err != nil {
		t.Error(err)
	}
	if b, err := storage.ReadAll(t.Context(), s, "slow", 10); err != nil || len(b) != 10 {
		t.Errorf("read %q, error %v", b, err)
	}
	if b, err := storage.ReadAll(t.Context(), s, "stalls", 10); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("read %q, error %v, want a transient one", b, err)
	}
}
