package postgres

import (
	"encoding/binary"
	"fmt"
)

// WALSummary is what one WAL segment adds to the knowledge of changed blocks: the
// records that end in it.
type WALSummary struct {
	// Timeline is that in the segment's name. Its records may be of that
	// timeline or, up to where it began, of those before it.
	Timeline Timeline
	// From and To bound the records in Table: every record that starts from From
	// up to, without, To. To is the From of the segment that follows (of a segment
	// in between, in which no record begins, both are the same and mean
	// nothing), so that a hole in the chain is a hole in the knowledge.
	From, To LSN
	Table    *BlockTable
	// Hole says why From is not the To of the segment before although a record
	// crosses from there, nil if it is.
	Hole error
}

// SummarizeSegment reads the segment f, of which data is all (or the beginning, of
// a partial one), of a server of a major (13 to 18) with segments of segmentSize
// bytes and WAL pages of pageSize bytes.
//
// A record that ends in the segment and began in an earlier one is read from its
// start on. For that before is asked for the bytes of that segment, and of those
// between, from an offset to the end; its name is that of a file in pg_wal or of an
// archived one. What it says or does not know is no error, but leaves a Hole.
//
// Errors are sizes that cannot be, and a record whose CRC is right and whose
// content is not understood. Where the WAL ends before the segment does, so does
// the summary.
func SummarizeSegment(major int, segmentSize int64, pageSize int, f WALFile, data []byte,
	before func(name string, offset int64) ([]byte, error)) (WALSummary, error) {
	start := f.Start(segmentSize)
	p := walProbe{reader: newWALReader(major, segmentSize, pageSize, func(walRecordHeader) int { return 0 })}
	if err := p.read(start, f.Timeline, data); err != nil {
		return WALSummary{}, err
	}
	if p.reader.first.start == 0 {
		return WALSummary{Timeline: f.Timeline, From: start, To: start, Table: new(BlockTable)}, nil
	}
	var hole error
	if from := p.reader.first.header.prev; p.needs(from, f.Segment) {
		s := NewWALSummarizer(major, segmentSize, pageSize, from, 0)
		if hole = s.scanBefore(start, p.timeline, before); hole == nil {
			if err := s.Scan(start, f.Timeline, data); err != nil {
				return WALSummary{}, err
			}
			if s.reader.last >= from {
				return s.summary(f, nil), nil
			}
			hole = fmt.Errorf("the record at %s does not go on at %s", from, start)
		}
	}
	s := NewWALSummarizer(major, segmentSize, pageSize, start.RecordStart(segmentSize, pageSize), 0)
	if err := s.Scan(start, f.Timeline, data); err != nil {
		return WALSummary{}, err
	}
	return s.summary(f, hole), nil
}

func (s *WALSummarizer) summary(f WALFile, hole error) WALSummary {
	return WALSummary{Timeline: f.Timeline, From: s.From(), To: s.To(), Table: s.Table(), Hole: hole}
}

// walProbe reads a segment no further than to the head of the first record that
// begins in it.
type walProbe struct {
	reader walReader
	// continued is whether the segment begins inside of a record, timeline that of
	// its first page.
	continued bool
	timeline  Timeline
}

func (p *walProbe) read(at LSN, tli Timeline, data []byte) error {
	r := &p.reader
	if err := r.checkSizes(at); err != nil {
		return err
	}
	if err := r.admit(at, data); err != nil {
		return err
	}
	for ; len(data) >= r.pageSize && r.first.start == 0 && !r.ended; data = data[r.pageSize:] {
		if err := r.readPage(at, tli, data[:r.pageSize], func(walRecord) error { return nil }); err != nil {
			return err
		}
		if p.timeline == 0 {
			p.timeline = r.timeline
			p.continued = binary.LittleEndian.Uint16(data[2:])&walContinuation != 0
		}
		at += LSN(r.pageSize)
	}
	return nil
}

// needs is whether the record at from, which is the one before the first of this
// segment, is to be counted here. It is if it ends here. If not, it ended in an
// earlier segment and was counted with that, unless it is one that fills whole
// segments: no record begins in these that would tell where it did.
func (p *walProbe) needs(from LSN, segment uint64) bool {
	if p.reader.first.header.tellsOverwritten() {
		return false // what crosses was given up, and the first record says where it began
	}
	return p.continued || from != 0 && from.Segment(p.reader.segmentSize)+1 < segment
}

// scanBefore reads the segments from that of s.from up to the one that starts at
// end, of the timeline tli, from the page of s.from on. The error says why the
// record there cannot be continued.
func (s *WALSummarizer) scanBefore(end LSN, tli Timeline, before func(name string, offset int64) ([]byte, error)) error {
	r := &s.reader
	size := LSN(r.segmentSize)
	for at := s.from - s.from%LSN(r.pageSize); at < end; at = at - at%size + size {
		f := WALFile{Timeline: tli, Segment: at.Segment(r.segmentSize)}
		name, offset := f.Name(r.segmentSize), int64(at%size)
		data, err := before(name, offset)
		if err != nil {
			return fmt.Errorf("the record at %s, which goes on at %s: %w", s.from, end, err)
		}
		if err := r.read(at, tli, data, s.count); err != nil {
			return fmt.Errorf("the record at %s, which goes on at %s: %s: %w", s.from, end, name, err)
		}
	}
	whole, begun := r.last == s.from, r.record.active && r.record.start == s.from
	if r.ended || !whole && !begun {
		return fmt.Errorf("the record at %s, which goes on at %s: the segments before do not have it", s.from, end)
	}
	return nil
}
