package storage_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// digits is a Store with the object "dir/digits".
func digits(t *testing.T) storage.Store {
	t.Helper()
	st := mem.New()
	if err := st.Put(t.Context(), "dir/digits", storage.Bytes([]byte("0123456789")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return st
}

// wantRead holds what a read gave; want is content, or the error if it is one.
func wantRead(t *testing.T, got []byte, err error, key string, want any) {
	t.Helper()
	if wantErr, ok := want.(error); ok {
		if !errors.Is(err, wantErr) || !strings.Contains(err.Error(), key) {
			t.Errorf("got error %v, want %v that names %s", err, wantErr, key)
		}
		return
	}
	if err != nil || string(got) != want.(string) {
		t.Errorf("got %q and error %v, want %q", got, err, want)
	}
}

func TestReadAll(t *testing.T) {
	tests := []struct {
		title string
		key   string
		limit int64
		want  any
	}{
		{"an object below the limit", "dir/digits", 100, "0123456789"},
		{"an object as large as the limit", "dir/digits", 10, "0123456789"},
		{"an object larger than the limit", "dir/digits", 9, storage.ErrTooLarge},
		{"a limit of nothing", "dir/digits", 0, storage.ErrTooLarge},
		{"an absent object", "dir/none", 9, storage.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			got, err := storage.ReadAll(t.Context(), digits(t), tt.key, tt.limit)
			wantRead(t, got, err, tt.key, tt.want)
		})
	}
	for _, limit := range []int64{-1, math.MinInt64, math.MaxInt64} {
		if _, err := storage.ReadAll(t.Context(), digits(t), "dir/digits", limit); err == nil {
			t.Errorf("a limit of %d is no error", limit)
		}
	}
}

func TestReadRange(t *testing.T) {
	tests := []struct {
		title  string
		key    string
		off, n int64
		want   any
	}{
		{"from the start", "dir/digits", 0, 3, "012"},
		{"from the middle", "dir/digits", 3, 4, "3456"},
		{"up to the end", "dir/digits", 7, 3, "789"},
		{"the whole object", "dir/digits", 0, 10, "0123456789"},
		{"nothing", "dir/digits", 5, 0, ""},
		{"beyond the end", "dir/digits", 7, 4, io.ErrUnexpectedEOF},
		{"from the end", "dir/digits", 10, 1, io.ErrUnexpectedEOF},
		{"from far beyond the end", "dir/digits", math.MaxInt64 - 1, 1, io.ErrUnexpectedEOF},
		{"of an absent object", "dir/none", 0, 1, storage.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			got, err := storage.ReadRange(t.Context(), digits(t), tt.key, tt.off, tt.n)
			wantRead(t, got, err, tt.key, tt.want)
		})
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {math.MinInt64, 1}, {math.MaxInt64, 1}} {
		if _, err := storage.ReadRange(t.Context(), digits(t), "dir/digits", r[0], r[1]); err == nil {
			t.Errorf("%d bytes from offset %d are no error", r[1], r[0])
		}
	}
}

func TestReadTail(t *testing.T) {
	tests := []struct {
		title string
		key   string
		n     int64
		want  any
	}{
		{"the last bytes", "dir/digits", 3, "789"},
		{"as many as there are", "dir/digits", 10, "0123456789"},
		{"more than there are", "dir/digits", 11, "0123456789"},
		{"of an absent object", "dir/none", 1, storage.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			got, err := storage.ReadTail(t.Context(), digits(t), tt.key, tt.n)
			wantRead(t, got, err, tt.key, tt.want)
		})
	}
	for _, n := range []int64{0, -1} {
		if _, err := storage.ReadTail(t.Context(), digits(t), "dir/digits", n); err == nil {
			t.Errorf("a tail of %d bytes is no error", n)
		}
	}
}

func TestReadsReportEveryFaultOfTheStore(t *testing.T) {
	reads := map[string]func(storage.Store) ([]byte, error){
		"read all":   func(st storage.Store) ([]byte, error) { return storage.ReadAll(t.Context(), st, "dir/digits", 100) },
		"read range": func(st storage.Store) ([]byte, error) { return storage.ReadRange(t.Context(), st, "dir/digits", 2, 5) },
		"read tail":  func(st storage.Store) ([]byte, error) { return storage.ReadTail(t.Context(), st, "dir/digits", 5) },
	}
	for title, read := range reads {
		n := 1
		for ; ; n++ {
			st := faulty.FailNth(digits(t), n)
			_, err := read(st)
			if !st.Fired() {
				break
			}
			if !errors.Is(err, faulty.ErrInjected) || errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "dir/digits") {
				t.Errorf("%s with operation %d failing gave %v", title, n, err)
			}
		}
		if n < 3 {
			t.Errorf("%s does fewer operations than get and read", title)
		}
	}
}
