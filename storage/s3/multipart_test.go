package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
)

// uploads are the unfinished ones in the bucket.
func uploads(t *testing.T, s *Store) int {
	t.Helper()
	// MinIO lists those of one key only.
	output, err := s.client.ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: s.bucket(), Prefix: s.object("large")})
	if err != nil {
		t.Fatal(err)
	}
	return len(output.Uploads)
}

func TestAFailedLargePutLeavesNothing(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.Endpoint, o.MultipartFrom, o.PartSize = proxy.URL, 5<<20, 5<<20
	s := open(t, o)
	content := storage.Bytes(bytes.Repeat([]byte("x"), 12<<20))
	cause := errors.New("the user has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	for _, c := range []struct {
		what string
		on   func(s3test.Request) s3test.Fault
		ctx  context.Context
		src  storage.Source
		want error
	}{
		{"a part is lost", func(r s3test.Request) s3test.Fault {
			if strings.Contains(r.Query, "partNumber=2") {
				return s3test.CutBefore
			}
			return s3test.None
		}, t.Context(), content, storage.ErrTransient},
		{"the completion is refused", func(r s3test.Request) s3test.Fault {
			if r.Method == "POST" && strings.Contains(r.Query, "uploadId") {
				return s3test.SlowDown
			}
			return s3test.None
		}, t.Context(), content, storage.ErrThrottled},
		{"it is cancelled", func(r s3test.Request) s3test.Fault {
			if strings.Contains(r.Query, "partNumber=2") {
				cancel(cause)
			}
			return s3test.None
		}, ctx, content, cause},
		{"the source is short", nil, t.Context(), claim{content, 13 << 20}, storage.ErrSource},
		{"the source is long", nil, t.Context(), claim{content, 11 << 20}, storage.ErrSource},
		{"the source fails", nil, t.Context(), broken{content, cause}, cause},
	} {
		t.Run(c.what, func(t *testing.T) {
			proxy.Reset()
			proxy.On(c.on)
			err := s.Put(c.ctx, "large", c.src, storage.PutOptions{})
			proxy.On(nil)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if c.want != storage.ErrTransient && c.want != storage.ErrThrottled && errors.Is(err, storage.ErrTransient) {
				t.Errorf("error %v is transient", err)
			}
			begun := false
			for _, r := range proxy.Requests() {
				begun = begun || strings.Contains(r.Query, "uploads")
			}
			if n := uploads(t, s); n != 0 || !begun {
				t.Errorf("%d unfinished uploads are left, one was begun: %v", n, begun)
			}
			if _, err := s.Stat(t.Context(), "large"); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("stat gives %v, want ErrNotExist", err)
			}
		})
	}
}

// claim is a source that announces another size.
type claim struct {
	storage.Source
	size int64
}

func (c claim) Size() int64 { return c.size }

// broken is a source that fails in the middle.
type broken struct {
	storage.Source
	err error
}

func (b broken) Open() (io.ReadCloser, error) {
	r, err := b.Source.Open()
	return io.NopCloser(io.MultiReader(io.LimitReader(r, b.Size()/2), failing{b.err})), err
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestALargePutIfAbsentKeepsWhatIsThere(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.Endpoint, o.MultipartFrom, o.PartSize = proxy.URL, 5<<20, 5<<20
	s := open(t, o)
	content := storage.Bytes(make([]byte, 6<<20))
	// Another comes between the look and the completion.
	var once atomic.Bool
	proxy.On(func(r s3test.Request) s3test.Fault {
		if strings.Contains(r.Query, "partNumber=2") && once.CompareAndSwap(false, true) {
			if err := s.Put(t.Context(), "large", storage.Bytes([]byte("the other")), storage.PutOptions{}); err != nil {
				t.Error(err)
			}
		}
		return s3test.None
	})
	for range 2 {
		err := s.Put(t.Context(), "large", content, storage.PutOptions{IfAbsent: true})
		if !errors.Is(err, storage.ErrExist) || !once.Load() {
			t.Errorf("error %v, want ErrExist", err)
		}
	}
	if b, err := storage.ReadAll(t.Context(), s, "large", 100); string(b) != "the other" || uploads(t, s) != 0 {
		t.Errorf("the object is %q, error %v, %d uploads", b, err, uploads(t, s))
	}
}

func TestPartsAreSentAgainByThemselves(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server)
	o := optionsFor(t, server, server.Bucket(t))
	o.Endpoint, o.MultipartFrom, o.PartSize = proxy.URL, 5<<20, 5<<20
	o.Again = func(ctx context.Context, what string, try func(context.Context) error) error {
		err := try(ctx)
		if errors.Is(err, storage.ErrTransient) {
			err = try(ctx)
		}
		return err
	}
	var fired atomic.Int32
	proxy.On(func(r s3test.Request) s3test.Fault {
		if strings.Contains(r.Query, "partNumber=2") && fired.Add(1) == 1 {
			return s3test.DropAnswer
		}
		return s3test.None
	})
	want := bytes.Repeat([]byte("0123456789"), 1200<<10)
	s := open(t, o)
	if err := s.Put(t.Context(), "large", storage.Bytes(want), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := storage.ReadAll(t.Context(), s, "large", 64<<20)
	if err != nil || !bytes.Equal(got, want) || fired.Load() != 2 {
		t.Errorf("read %d bytes, error %v, part 2 was sent %d times", len(got), err, fired.Load())
	}
}

func TestACompletionThatFailsAfter200IsAnError(t *testing.T) {
	for _, body := range []string{
		`<?xml version="1.0"?><Error><Code>InternalError</Code><Message>we are sorry</Message></Error>`, "", "   \n\n",
	} {
		aborted := false
		server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			switch {
			case query.Has("uploads"):
				fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
			case r.Method == http.MethodPut:
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("ETag", `"e"`)
			case r.Method == http.MethodDelete:
				aborted = true
				w.WriteHeader(204)
			default:
				io.WriteString(w, body)
			}
		})
		o := optionsFor(t, server, "bucket")
		o.MultipartFrom = 1
		err := open(t, o).Put(t.Context(), "key", storage.Bytes([]byte("content")), storage.PutOptions{})
		if !errors.Is(err, storage.ErrTransient) || !aborted {
			t.Errorf("%q: error %v, aborted %v", body, err, aborted)
		}
	}
}

func TestPartsInMemoryAreBoundedForAllPutsTogether(t *testing.T) {
	const part, puts, partsOfEach = 8 << 20, 6, 5
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"e"`)
		query := r.URL.Query()
		switch {
		case query.Has("uploads"):
			fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
		case r.Method == http.MethodPost:
			fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
		}
	})
	o := optionsFor(t, server, "bucket")
	o.MultipartFrom, o.PartSize = 1, part
	s := open(t, o)
	src := storage.Bytes(make([]byte, part*partsOfEach))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for i := range puts {
		wg.Go(func() {
			if err := s.Put(t.Context(), fmt.Sprint(i), src, storage.PutOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > (partsAtOnce+1)*part {
		t.Errorf("%d puts of %d parts took %d MiB, want at most %d parts of %d MiB", puts, partsOfEach, got>>20, partsAtOnce, part>>20)
	}
}
