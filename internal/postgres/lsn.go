package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log in bytes, as XLogRecPtr is.
type LSN uint64

// ParseLSN reads the form "16/B374D848": two hexadecimal halves of 32 bits.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok || len(hi) == 0 || len(hi) > 8 || len(lo) == 0 || len(lo) > 8 {
		return 0, fmt.Errorf("%q is not an LSN (want two hexadecimal numbers like 16/B374D848)", s)
	}
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not an LSN (want two hexadecimal numbers like 16/B374D848)", s)
	}
	return LSN(h<<32 | l), nil
}

// String gives PostgreSQL's form, "16/B374D848".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText and UnmarshalText use the form of String, so that JSON shows
// what PostgreSQL shows.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err == nil {
		*l = v
	}
	return err
}

// Segment is the number of the WAL segment that holds the byte at l, for
// segments of size bytes.
func (l LSN) Segment(size int64) uint64 { return uint64(l) / uint64(size) }

// RecordStart is where the record starts that follows WAL which ends at l. That is
// l itself, but on the edge of a page of pageSize bytes, where the page's header
// comes first: the long one if a segment of segmentSize bytes begins there. Of two
// positions that mean the same record PostgreSQL sometimes says one, sometimes the
// other. This one is the same for both.
func (l LSN) RecordStart(segmentSize int64, pageSize int) LSN {
	switch {
	case uint64(l)%uint64(segmentSize) == 0:
		return l + WALHeaderSize
	case uint64(l)%uint64(pageSize) == 0:
		return l + walPageHeaderSize
	}
	return l
}

// Timeline identifies a line of history of a cluster; 0 is none.
type Timeline uint32

// ParseTimeline reads the eight hexadecimal digits that file names carry.
func ParseTimeline(s string) (Timeline, error) {
	if len(s) != 8 {
		return 0, fmt.Errorf("%q is not a timeline (want eight hexadecimal digits)", s)
	}
	v, err := strconv.ParseUint(s, 16, 32)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%q is not a timeline (want eight hexadecimal digits)", s)
	}
	return Timeline(v), nil
}

// String gives the eight upper-case hexadecimal digits of file names.
func (t Timeline) String() string { return fmt.Sprintf("%08X", uint32(t)) }
