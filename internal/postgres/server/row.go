package server

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// row reads the columns of a result in their order, as text, which is how the
// simple protocol sends them. The first column that is not what was expected
// sets err, and all reads after it give zero values: look at err once, at the
// end. Each read names its column, for the error.
type row struct {
	what  string // of the query, for the error
	cells [][]byte
	next  int
	err   error
}

// cell returns the next column, nil for NULL.
func (r *row) cell(name string) []byte {
	if r.err != nil {
		return nil
	}
	if r.next >= len(r.cells) {
		r.err = fmt.Errorf("%s: the server's answer has no column for %s", r.what, name)
		return nil
	}
	r.next++
	return r.cells[r.next-1]
}

// optional returns the next column, "" for NULL.
func (r *row) optional(name string) string { return string(r.cell(name)) }

// text returns the next column, which must not be NULL.
func (r *row) text(name string) string {
	cell := r.cell(name)
	if cell == nil && r.err == nil {
		r.err = fmt.Errorf("%s: %s is null", r.what, name)
	}
	return string(cell)
}

// integer reads a number that may be negative.
func (r *row) integer(name string) int64 {
	return parse(r, name, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

// systemID reads a system identifier. SQL has no unsigned numbers: PostgreSQL
// shows the 64 bits as a bigint, which may come out negative.
func (r *row) systemID(name string) uint64 { return uint64(r.integer(name)) }

// number reads a number of 32 bits without sign, such as an OID.
func (r *row) number(name string) uint32 {
	return parse(r, name, func(s string) (uint32, error) {
		v, err := strconv.ParseUint(s, 10, 32)
		return uint32(v), err
	})
}

// boolean reads a boolean ("t", "f") or a setting that is one ("on", "off").
func (r *row) boolean(name string) bool {
	return parse(r, name, func(s string) (bool, error) {
		switch s {
		case "t", "on":
			return true, nil
		case "f", "off":
			return false, nil
		}
		return false, fmt.Errorf("%q is not a boolean", s)
	})
}

// lsn reads a pg_lsn.
func (r *row) lsn(name string) postgres.LSN { return parse(r, name, postgres.ParseLSN) }

// micros reads a moment as microseconds since 1970 UTC; NULL is the zero time.
func (r *row) micros(name string) time.Time {
	cell := r.cell(name)
	if cell == nil {
		return time.Time{}
	}
	v, err := strconv.ParseInt(string(cell), 10, 64)
	if err != nil {
		r.err = fmt.Errorf("%s: %s: %w", r.what, name, err)
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}

// parse reads the next column with a function that knows its form.
func parse[T any](r *row, name string, read func(string) (T, error)) T {
	var zero T
	s := r.text(name)
	if r.err != nil {
		return zero
	}
	v, err := read(s)
	if err != nil {
		r.err = fmt.Errorf("%s: %s: %w", r.what, name, err)
		return zero
	}
	return v
}
