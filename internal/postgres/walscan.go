package postgres

import (
	"fmt"
	"time"
)

// WALEventKind tells the events of a WAL that a recovery can stop at.
type WALEventKind int

const (
	// WALCommit is the commit of a transaction, prepared ones included.
	WALCommit WALEventKind = iota + 1
	// WALAbort is the rollback of a transaction, prepared ones included.
	WALAbort
	// WALRestorePoint is what pg_create_restore_point leaves.
	WALRestorePoint
)

// String names the kind in words.
func (k WALEventKind) String() string {
	switch k {
	case WALCommit:
		return "commit"
	case WALAbort:
		return "abort"
	case WALRestorePoint:
		return "restore point"
	}
	return fmt.Sprintf("WALEventKind(%d)", int(k))
}

// WALEvent is a place in the WAL that a recovery target can mean.
type WALEvent struct {
	// LSN is the start of the record, and End the position after it, where a
	// record that follows would start.
	LSN, End LSN
	Kind     WALEventKind
	// XID is the transaction that ended; 0 for a restore point.
	XID uint32
	// Time is the server's clock, in microseconds and UTC, as it wrote the record.
	Time time.Time
	// Name is the restore point's; "" for a transaction.
	Name string
}

// WALScanner finds the events in a run of WAL segments, given to it in order.
// It reads every record, follows it across pages and segments, and checks its
// CRC-32C and its link to the record before it, so that its End is where
// PostgreSQL's recovery would stop. It keeps no more than one record in memory,
// and that only if it is an event's.
//
// A scanner may begin anywhere. A record whose start is in an earlier segment
// is passed over, and its event missed: who reads single segments backwards has
// to read each together with the one that follows.
//
// A WALScanner is for one goroutine.
type WALScanner struct {
	walReader
}

// NewWALScanner returns a scanner for the WAL of a major (13 to 18) with
// segments of segmentSize bytes and pages of pageSize bytes (XLOG_BLCKSZ, 8192
// unless the server was built otherwise). [WALScanner.Scan] reports values that cannot be.
func NewWALScanner(major int, segmentSize int64, pageSize int) *WALScanner {
	return &WALScanner{newWALReader(major, segmentSize, pageSize, func(h walRecordHeader) int {
		if h.ofInterest() {
			return walRecordMaxSize
		}
		return 0
	})}
}

// End is the position after the last valid record, padding included, or the
// end of the segment after a record that switches to a new one. Before any
// record was found it is the start of the first segment.
func (s *WALScanner) End() LSN { return s.end }

// Switched is where the record ends that switches to a new segment, if the segment
// given last holds all of one. What follows it in the segment means nothing, and
// need not be the same on a standby as on its primary.
func (s *WALScanner) Switched() (end LSN, ok bool) { return s.switched, s.switched != 0 }

// LastStart is where the last valid record starts, 0 before one was found. A
// recovery_target_lsn behind it is never reached.
func (s *WALScanner) LastStart() LSN { return s.last }

// Ended is whether the last segment given holds the end of the WAL, which is
// then [WALScanner.End]. Otherwise the WAL goes on in the next segment, and a
// record may have begun that ends there.
func (s *WALScanner) Ended() bool { return s.ended }

// Scan reads the segment that starts at segmentStart and calls emit for each
// event that ends in it, in the order of the WAL. tli is the timeline in the
// segment's name; its pages may be of that timeline or of those before it.
// data is the whole segment; a shorter one is read as far as it goes, and the
// WAL ends there.
//
// The end of the WAL, be it zeros, remains of an older segment or damage, is
// no error: see [WALScanner.Ended]. Errors are a segment out of order,
// [ErrWALEnded], a record whose CRC is right and whose content is not, and what
// emit returns, as it is. After an error the scanner only gives errors.
func (s *WALScanner) Scan(segmentStart LSN, tli Timeline, data []byte, emit func(WALEvent) error) error {
	return s.readSegment(segmentStart, tli, data, func(r walRecord) error {
		if !r.header.ofInterest() {
			return nil
		}
		event, err := r.header.walEvent(s.major, r.body)
		if err != nil {
			return fmt.Errorf("WAL record at %s: %w", r.start, err)
		}
		event.LSN, event.End = r.start, r.end
		return emit(event)
	})
}
