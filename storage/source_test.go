package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
)

func readSource(t *testing.T, src storage.Source) string {
	t.Helper()
	var b bytes.Buffer
	if err := storage.CopySource(t.Context(), &b, src); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSourcesCanBeReadTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for title, src := range map[string]storage.Source{
		"bytes": storage.Bytes([]byte("content")), "file": storage.File(path, 7),
	} {
		for range 2 {
			if got := readSource(t, src); got != "content" || src.Size() != 7 {
				t.Errorf("%s: %q of %d bytes", title, got, src.Size())
			}
		}
	}
}

func TestFileSourceFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		title string
		src   storage.Source
		want  error
		says  string
	}{
		{"a file that is not there", storage.File(path+"2", 7), fs.ErrNotExist, path + "2"},
		{"a directory", storage.File(filepath.Dir(path), 7), nil, filepath.Dir(path)},
		{"a file that has become shorter", storage.File(path, 8), storage.ErrSource, "1 of 8 bytes are missing"},
		{"a file that has become longer", storage.File(path, 6), storage.ErrSource, "more bytes follow"},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			err := storage.CopySource(t.Context(), io.Discard, tt.src)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v saying %q", err, tt.want, tt.says)
			}
		})
	}
}

// cutOff is a writer that cancels a context by its first write.
type cutOff struct {
	cancel context.CancelFunc
	n      int
}

func (c *cutOff) Write(b []byte) (int, error) {
	c.cancel()
	c.n += len(b)
	return len(b), nil
}

func TestCopySourceStopsWhenItsContextIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &cutOff{cancel: cancel}
	err := storage.CopySource(ctx, w, storage.Bytes(make([]byte, 100<<20)))
	if !errors.Is(err, context.Canceled) || w.n > 10<<20 {
		t.Errorf("copy gave %v after %d bytes, want context.Canceled within 10 MiB", err, w.n)
	}
}

func TestSpool(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 100)
	for _, memory := range []int{0, 1, 100, len(text) - 1, len(text), 10_000} {
		dir := t.TempDir()
		s := storage.NewSpool(memory, dir)
		if got := readSource(t, s.Source()); got != "" {
			t.Errorf("an empty spool has %q", got)
		}
		for b := []byte(text); len(b) > 0; {
			n := min(len(b), 37)
			if got, err := s.Write(b[:n]); got != n || err != nil {
				t.Fatal(got, err)
			}
			b = b[n:]
		}
		if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
			t.Errorf("with %d bytes of memory, the spool's file has a name: %v, %v", memory, left, err)
		}
		src := s.Source()
		for range 2 {
			if got := readSource(t, src); got != text || src.Size() != int64(len(text)) || s.Size() != src.Size() {
				t.Errorf("with %d bytes of memory, the spool has %d other bytes", memory, len(got))
			}
		}
		readInterleaved(t, src, text)
		if _, err := s.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		if a, b := readSource(t, src), readSource(t, s.Source()); a != text || b != text+"more" {
			t.Error("a source changes when more is written")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_, writeErr := s.Write(nil)
		for what, err := range map[string]error{
			"open": storage.CopySource(t.Context(), io.Discard, src), "write": writeErr,
		} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s after close gave %v", what, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("second close gave %v", err)
		}
	}
}

// readInterleaved reads a source by two readers in turn.
func readInterleaved(t *testing.T, src storage.Source, want string) {
	t.Helper()
	var readers [2]io.ReadCloser
	var got [2]bytes.Buffer
	for i := range readers {
		r, err := src.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers[i] = r
	}
	for got[0].Len() < len(want) {
		for i, r := range readers {
			if _, err := io.CopyN(&got[i], r, 10); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
	}
	if got[0].String() != want || got[1].String() != want {
		t.Error("two readers of one spool disturb one another")
	}
}

func TestSpoolFaults(t *testing.T) {
	s := storage.NewSpool(3, filepath.Join(t.TempDir(), "none"))
	if _, err := s.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Write([]byte("d")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("write without a directory for the file gave %v", err)
		}
	}
	if _, err := s.Source().Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an incomplete spool can be read: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
