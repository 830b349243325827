package s3

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/storage"
)

func TestRequestsAreWhatOldServersUnderstand(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", tls), func(t *testing.T) {
			server := s3test.MinIO(t, s3test.Options{TLS: tls})
			proxy := s3test.NewProxy(t, server)
			o := optionsFor(t, server, server.Bucket(t))
			o.Endpoint, o.MultipartFrom, o.PartSize = proxy.URL, 6<<20, 5<<20
			s := open(t, o)
			for _, operation := range []string{"put", "put if absent", "put large", "delete many", "list"} {
				// Deleted and listed is what was put.
				if err := operations()[operation](t.Context(), s); err != nil {
					t.Fatalf("%s: %v", operation, err)
				}
			}
			signed := map[string]int{}
			for _, r := range proxy.Requests() {
				for name, values := range r.Header {
					name = strings.ToLower(name)
					if strings.HasPrefix(name, "x-amz-checksum") || strings.HasPrefix(name, "x-amz-sdk-checksum") || name == "x-amz-trailer" || name == "x-amz-decoded-content-length" ||
						strings.Contains(strings.Join(values, " "), "aws-chunked") {
						t.Errorf("%s has the header %s: %s", r.Operation(), name, values)
					}
				}
				if hash := r.Header.Get("X-Amz-Content-Sha256"); len(hash) != 2*sha256.Size {
					t.Errorf("%s is signed with the payload hash %q", r.Operation(), hash)
				}
				if r.Operation() == "POST ?delete" && r.Header.Get("Content-Md5") == "" {
					t.Error("a delete of several has no Content-MD5")
				}
				signed[r.Operation()]++
			}
			if signed["POST ?delete"] != 1 || signed["LIST"] != 1 || len(proxy.Requests()) != 2+4+1+1 {
				t.Errorf("the requests were %v", signed)
			}
		})
	}
}

func TestPutSendsWhatItSigned(t *testing.T) {
	want := bytes.Repeat([]byte("content"), 1000)
	sum := sha256.Sum256(want)
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if !bytes.Equal(b, want) || r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) || r.ContentLength != int64(len(want)) {
			t.Errorf("got %d bytes of %d, signed %s", len(b), r.ContentLength, r.Header.Get("X-Amz-Content-Sha256"))
		}
		for name, value := range map[string]string{
			"If-None-Match": "*", "X-Amz-Storage-Class": "STANDARD_IA",
			"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "some-key",
		} {
			if r.Header.Get(name) != value {
				t.Errorf("header %s is %q, want %q", name, r.Header.Get(name), value)
			}
		}
		w.Header().Set("ETag", `"e"`)
	})
	o := optionsFor(t, server, "bucket")
	o.StorageClass, o.SSE, o.KMSKeyID = "STANDARD_IA", "aws:kms", "some-key"
	if err := open(t, o).Put(t.Context(), "key", storage.Bytes(want), storage.PutOptions{IfAbsent: true}); err != nil {
		t.Error(err)
	}
}

func TestAnEarlyAnswerToALargePutIsHeard(t *testing.T) {
	for status, want := range map[int]error{http.StatusPreconditionFailed: storage.ErrExist, http.StatusServiceUnavailable: storage.ErrThrottled} {
		server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
			sayError(w, status, map[int]string{412: "PreconditionFailed", 503: "SlowDown"}[status])
		})
		s := open(t, optionsFor(t, server, "bucket"))
		for range 10 {
			err := s.Put(t.Context(), "key", storage.Bytes(make([]byte, 32<<20)), storage.PutOptions{IfAbsent: true})
			if !errors.Is(err, want) {
				t.Fatalf("%d gave error %v, want %v", status, err, want)
			}
		}
	}
}

// changing is a source that is another when it is read again.
type changing struct{ first, second []byte }

func (c changing) Size() int64 { return int64(len(c.first)) }

func (c changing) Open() (io.ReadCloser, error) {
	return &changed{Reader: bytes.NewReader(c.first), second: c.second}, nil
}

type changed struct {
	io.Reader
	second []byte
}

func (c *changed) Seek(int64, int) (int64, error) {
	c.Reader = bytes.NewReader(c.second)
	if c.second == nil {
		c.Reader = failing{syscall.ECONNRESET} // as content that comes by a network might say
	}
	return 0, nil
}

func (c *changed) Close() error { return nil }

func TestContentThatChangesWhileItIsSentIsNotStored(t *testing.T) {
	server := s3test.MinIO(t, s3test.Options{})
	s := open(t, optionsFor(t, server, server.Bucket(t)))
	first := bytes.Repeat([]byte("1"), 100_000)
	for _, c := range []struct {
		what   string
		second []byte
		want   error
	}{
		{"other bytes", bytes.Repeat([]byte("2"), 100_000), storage.ErrTransient},
		{"fewer bytes", first[1:], storage.ErrSource},
		{"an error", nil, syscall.ECONNRESET},
	} {
		err := s.Put(t.Context(), "key", changing{first, c.second}, storage.PutOptions{})
		if !errors.Is(err, c.want) || errors.Is(err, storage.ErrTransient) != (c.want == storage.ErrTransient) {
			t.Errorf("%s: error %v, want %v", c.what, err, c.want)
		}
		if _, err := s.Stat(t.Context(), "key"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: stat gives %v", c.what, err)
		}
	}
}

func TestDeleteTellsOfEachKeyThatIsLeft(t *testing.T) {
	var mu sync.Mutex
	var faults string
	sizes := []int{}
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		sum := md5.Sum(b)
		if r.Header.Get("Content-Md5") != base64.StdEncoding.EncodeToString(sum[:]) {
			t.Errorf("Content-MD5 is %q", r.Header.Get("Content-Md5"))
		}
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, bytes.Count(b, []byte("<Key>")))
		fmt.Fprintf(w, "<DeleteResult>%s</DeleteResult>", faults)
	})
	fault := func(key, code string) string {
		return fmt.Sprintf("<Error><Key>p/%s</Key><Code>%s</Code><Message>no</Message></Error>", key, code)
	}
	o := optionsFor(t, server, "bucket")
	o.Prefix = "p"
	s := open(t, o)
	for _, c := range []struct {
		faults               string
		failed               bool
		transient, throttled bool
	}{
		{"", false, false, false},
		{fault("a", "NoSuchKey"), false, false, false},
		{fault("a", "AccessDenied"), true, false, false},
		{fault("a", "InternalError"), true, true, false},
		{fault("a", "InternalError") + fault("b", "SlowDown"), true, true, true},
		{fault("a", "SlowDown") + fault("b", "AccessDenied"), true, false, false},
	} {
		faults = c.faults
		err := s.Delete(t.Context(), "a", "b", "c")
		if (err != nil) != c.failed || errors.Is(err, storage.ErrTransient) != c.transient || errors.Is(err, storage.ErrThrottled) != c.throttled {
			t.Errorf("%s gave error %v", c.faults, err)
		}
		if c.failed && !strings.Contains(err.Error(), `delete "a" in s3://bucket/p`) {
			t.Errorf("error %v does not name the key", err)
		}
	}
	faults, sizes = "", nil
	keys := make([]string, 2001)
	for i := range keys {
		keys[i] = fmt.Sprint(i)
	}
	if err := s.Delete(t.Context(), keys...); err != nil || fmt.Sprint(sizes) != "[1000 1000 1]" {
		t.Errorf("requests of %v keys, error %v", sizes, err)
	}
}

func TestGetTakesNothingButTheRange(t *testing.T) {
	content := "0123456789"
	for _, c := range []struct {
		what    string
		r       storage.Range
		handler http.HandlerFunc
		want    string // "" is an error
	}{
		{"whole, range ignored", storage.Range{Length: 4}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) }, "0123"},
		{"middle, range ignored", storage.Range{Offset: 3, Length: 4}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) }, ""},
		{"tail, range ignored", storage.Range{Offset: -3}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) }, ""},
		{"longer tail, range ignored", storage.Range{Offset: -30}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content) }, content},
		{"another range", storage.Range{Offset: 3, Length: 4}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 4-7/10")
			w.WriteHeader(206)
			io.WriteString(w, content[4:8])
		}, ""},
		{"no length", storage.Range{}, func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			io.WriteString(w, content)
		}, ""},
		{"a proxy's 416", storage.Range{Offset: 30}, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "?", http.StatusRequestedRangeNotSatisfiable)
		}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := open(t, optionsFor(t, toyServer(t, c.handler), "bucket"))
			r, err := s.Get(t.Context(), "key", c.r)
			var b []byte
			if err == nil {
				b, err = io.ReadAll(r)
				r.Close()
			}
			if string(b) != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q and error %v, want %q", b, err, c.want)
			}
		})
	}
}

func TestAnObjectCutShortIsNeverWhole(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "some")
	})
	r, err := open(t, optionsFor(t, server, "bucket")).Get(t.Context(), "key", storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if string(b) != "some" || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, storage.ErrTransient) {
		t.Errorf("read %q and error %v", b, err)
	}
}

func TestClosingEarlyReadsNoFurther(t *testing.T) {
	sent := make(chan int, 1)
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(1<<30))
		piece, n := make([]byte, 1<<20), 0
		for n < 1<<30 {
			m, err := w.Write(piece)
			if n += m; err != nil {
				break
			}
		}
		sent <- n
	})
	r, err := open(t, optionsFor(t, server, "bucket")).Get(t.Context(), "key", storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if n := <-sent; n > 64<<20 {
		t.Errorf("%d bytes were sent to a reader that was closed after 10", n)
	}
}

func TestAListMustBeInOrder(t *testing.T) {
	page := ""
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, page) })
	s := open(t, optionsFor(t, server, "bucket"))
	for _, c := range []struct{ what, page, want string }{
		{"in order", "<Contents><Key>a</Key><Size>1</Size></Contents><Contents><Key>b%2Bc</Key><Size>1</Size></Contents>", "[a b+c] <nil>"},
		{"placeholders and foreign objects", "<Contents><Key>a/</Key><Size>0</Size></Contents><Contents><Key>a//b</Key><Size>1</Size></Contents><Contents><Key>b</Key><Size>1</Size></Contents>", "[b] <nil>"},
		{"out of order", "<Contents><Key>b</Key><Size>1</Size></Contents><Contents><Key>a</Key><Size>1</Size></Contents>", `ascending byte order`},
		{"twice", "<Contents><Key>b</Key><Size>1</Size></Contents><Contents><Key>b</Key><Size>1</Size></Contents>", `ascending byte order`},
		{"no way on", "<IsTruncated>true</IsTruncated>", "where to go on"},
		{"no size", "<Contents><Key>b</Key></Contents>", "without its size"},
	} {
		page = "<ListBucketResult><Name>bucket</Name><EncodingType>url</EncodingType>" + c.page + "</ListBucketResult>"
		if got := listed(t, s); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	for _, page = range []string{"", "<html></html>", "<ListBucketResult></ListBucketResult>"} {
		if got := listed(t, s); strings.Contains(got, "<nil>") {
			t.Errorf("%q is an empty list: %s", page, got)
		}
	}
}

func listed(t *testing.T, s *Store) string {
	keys := []string{}
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			return fmt.Sprint(keys, err)
		}
		keys = append(keys, o.Key)
	}
	return fmt.Sprint(keys, error(nil))
}

func TestAWrongClockIsCorrectedByTheServers(t *testing.T) {
	// A server whose clock is an hour ahead refuses what was signed by this machine's.
	n := 0
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		now := time.Now().Add(time.Hour)
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || now.Sub(signed) > 15*time.Minute {
			sayError(w, 403, "RequestTimeTooSkewed")
			return
		}
	})
	s := open(t, optionsFor(t, server, "bucket"))
	if err := s.Delete(t.Context(), "key"); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("error %v, want a transient one", err)
	}
	if err := s.Delete(t.Context(), "key"); err != nil || n != 2 {
		t.Errorf("the second time, after %d requests: %v", n, err)
	}
}
