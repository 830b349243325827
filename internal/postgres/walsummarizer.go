package postgres

import "fmt"

// WALSummarizer reads a run of WAL segments, given to it in order, and collects
// which blocks their records changed: the same as the WAL summarizer of
// PostgreSQL 17 and later does, from the WAL of every major. It checks each
// record's CRC-32C and its link to the record before.
//
// From and To bound what the table tells of: of every record that starts from
// From up to, without, To, and of no other. Both are positions where a record
// starts (see [LSN.RecordStart]). Runs that meet, or overlap, are one.
//
// While wal_level is minimal, not every change is in WAL. If that is met, what was
// collected is thrown away, and From moves to where the level rose. So a
// range that is covered never was in part at that level. (No base backup can be
// taken and no segment be archived at that level, so that a range which begins
// where a backup did begins above it.)
//
// A WALSummarizer is for one goroutine.
type WALSummarizer struct {
	reader walReader
	table  BlockTable
	// from and to bound the records that are wanted; to is 0 for no end.
	from, to LSN
	first    LSN // where the table begins, 0 before the first record
	reached  LSN // start of the first record from to on, 0 before it
	minimal  bool
	stopped  bool // wal_level is minimal, as far as is known
	marked   [256]markedBlock
}

// markedBlock is a block that was marked before. Records come back to the same few
// blocks, and to know that is cheaper than to mark one.
type markedBlock struct {
	known bool
	fork  RelationForkID
	block uint32
}

// NewWALSummarizer returns a summarizer for the WAL of a major (13 to 18) with
// segments of segmentSize bytes and pages of pageSize bytes. It takes the records
// that start from from up to, without, to; to 0 is no end.
// [WALSummarizer.Scan] reports sizes that cannot be.
func NewWALSummarizer(major int, segmentSize int64, pageSize int, from, to LSN) *WALSummarizer {
	return &WALSummarizer{reader: newWALReader(major, segmentSize, pageSize, walRecordHeader.summaryNeeds), from: from, to: to}
}

// Scan reads the segment that starts at segmentStart, of which data is all, or as
// much as there is. tli is the timeline in the segment's name; its pages may be of
// that timeline or of those before it. The end of the WAL is no error, see
// [WALSummarizer.Ended]. Errors are a segment out of order, [ErrWALEnded], and a
// record whose CRC is right and whose content is not understood. After an error
// nothing collected is to be used.
func (s *WALSummarizer) Scan(segmentStart LSN, tli Timeline, data []byte) error {
	return s.reader.readSegment(segmentStart, tli, data, s.count)
}

// Table is what was collected. It changes with the next Scan.
func (s *WALSummarizer) Table() *BlockTable { return &s.table }

// From is where the first record that was counted starts. It is the from that was
// asked for, if that names the same record, and [WALSummarizer.To] before there is
// one. If it is behind that from, the records between were not seen, or cannot be relied on.
func (s *WALSummarizer) From() LSN {
	if s.first == 0 {
		return s.To()
	}
	if s.first == s.from.RecordStart(s.reader.segmentSize, s.reader.pageSize) {
		return s.from
	}
	return s.first
}

// To is the start of the first record that was not counted, because it is not
// there, not complete yet, or at or behind the to that was asked for.
func (s *WALSummarizer) To() LSN {
	r := &s.reader
	switch {
	case s.reached != 0:
		return s.reached
	case r.record.active && !r.record.headless:
		return r.record.start
	}
	return r.end.RecordStart(r.segmentSize, r.pageSize)
}

// Ended is whether the WAL ended in the last segment given: after To come zeros,
// remains of an older segment, or damage. Otherwise the WAL goes on in the next one.
func (s *WALSummarizer) Ended() bool { return s.reader.ended }

// Minimal is whether WAL of wal_level minimal was met.
func (s *WALSummarizer) Minimal() bool { return s.minimal }

// count puts a record into the table.
func (s *WALSummarizer) count(r walRecord) error {
	if s.reached != 0 || r.start < s.from {
		return nil
	}
	if s.to != 0 && r.start >= s.to {
		s.reached = r.start
		return nil
	}
	if err := s.countRecord(r); err != nil {
		return fmt.Errorf("WAL record at %s: %w", r.start, err)
	}
	return nil
}

func (s *WALSummarizer) countRecord(r walRecord) error {
	p := newWALParts(s.reader.major, r.header.length, r.body)
	if r.header.summaryNeeds() > walHeadersSize {
		if err := s.countSpecial(r, p); err != nil {
			return err
		}
	}
	if s.stopped {
		return nil
	}
	if s.first == 0 {
		s.first = r.start
	}
	for p.next() {
		if p.fork.Fork != FSMFork {
			s.mark(p.fork, p.block)
		}
	}
	return p.check()
}

func (s *WALSummarizer) mark(f RelationForkID, block uint32) {
	m := markedBlock{known: true, fork: f, block: block}
	known := &s.marked[(f.Node*31+block+uint32(f.Fork))%uint32(len(s.marked))]
	if *known != m {
		s.table.Mark(f, block)
		*known = m
	}
}

// countSpecial counts a record that says more than which blocks it changes.
func (s *WALSummarizer) countSpecial(r walRecord, p walParts) error {
	for p.next() {
	}
	main, err := p.mainData()
	if err != nil {
		return err
	}
	level, ok, err := r.header.walLevel(s.reader.major, main)
	if err != nil {
		return err
	}
	if ok {
		s.setLevel(level)
	}
	if s.stopped {
		return nil
	}
	start, ok, err := r.header.overwritten(main)
	if err != nil {
		return err
	}
	if ok && s.first == 0 && start < r.start {
		// No record is complete between the one that was cut off and this one, so
		// this is where what comes before ends.
		s.first = start
	}
	clear(s.marked[:]) // what is truncated may lose its marks
	return r.header.truncations(s.reader.major, main, &s.table)
}

// setLevel notes the wal_level from here on.
func (s *WALSummarizer) setLevel(level uint32) {
	s.stopped = level == walLevelMinimal
	if s.stopped {
		s.minimal = true
		s.table, s.first = BlockTable{}, 0
		clear(s.marked[:])
	}
}
