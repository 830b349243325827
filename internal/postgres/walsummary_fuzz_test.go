package postgres

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// FuzzWALSummarizer gives the summarizer records that are hostile in themselves and
// in order otherwise.
func FuzzWALSummarizer(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		seen := make(map[[2]byte]bool)
		realRecords(f, major, func(h walRecordHeader, body []byte) {
			if kind := [2]byte{h.manager, h.info}; len(body) < 500 && !seen[kind] {
				seen[kind] = true
				f.Add(major, h.manager, h.info, body)
			}
		})
	}
	f.Fuzz(func(t *testing.T, major int, manager, info byte, body []byte) {
		h := walRecordHeader{length: uint32(walRecordHeaderSize + len(body)), manager: manager, info: info}
		s := WALSummarizer{reader: newWALReader(major, testSegment, testPage, walRecordHeader.summaryNeeds)}
		err := s.count(walRecord{start: 1000, end: 2000, header: h, body: body})
		if err == nil && s.first != 1000 && !s.minimal && !h.tellsOverwritten() {
			t.Errorf("the record is not counted")
		}
		// No more than one record of its size can mark.
		if n := s.table.Forks(); n > len(body) {
			t.Errorf("%d forks by %d bytes", n, len(body))
		}
		for _, id := range s.table.ForkIDs() {
			if id.Fork < MainFork || id.Fork > InitFork || id.Fork == FSMFork {
				t.Errorf("%+v is in the table", id)
			}
		}
		// Of a record that needs no more, its first bytes give the same.
		if h.summaryNeeds() == walHeadersSize && len(body) > walHeadersSize {
			short := WALSummarizer{reader: s.reader}
			again := short.count(walRecord{start: 1000, end: 2000, header: h, body: body[:walHeadersSize]})
			if err == nil && again == nil && !bytes.Equal(short.table.Encode(), s.table.Encode()) {
				t.Error("the first bytes give another table")
			}
		}
	})
}

// FuzzSummarizeSegment gives it two segments of hostile bytes.
func FuzzSummarizeSegment(f *testing.F) {
	w := newWALWriter(testSegment)
	w.fillSegment(64)
	w.change(2, 100)
	w.change(3, 0)
	f.Add(w.data[testSegment-testPage:testSegment], w.data[testSegment:])
	f.Fuzz(func(t *testing.T, before, data []byte) {
		segment := make([]byte, testSegment)
		copy(segment, data)
		sum, err := SummarizeSegment(17, testSegment, testPage, WALFile{Timeline: 1, Segment: 2}, segment, func(_ string, offset int64) ([]byte, error) {
			if offset > testSegment {
				return nil, fmt.Errorf("offset %d", offset)
			}
			return before, nil
		})
		if err == nil && (sum.From > sum.To || sum.To > 3*testSegment+WALHeaderSize || sum.Table == nil) {
			t.Errorf("summary from %s to %s", sum.From, sum.To)
		}
	})
}

// BenchmarkWALSummarizer reads 16 MiB of small records that change blocks of eight
// relations, by turns: about the most that there is to do.
func BenchmarkWALSummarizer(b *testing.B) {
	w := newWALWriter(testSegment)
	for n := 0; len(w.data) < 16<<20; n++ {
		fork := testFork
		fork.Node += uint32(n % 8)
		w.record(10, 0, 5, append(blockHeader(fork, uint32(n/50)), mainData(make([]byte, 30))...))
	}
	segments := slices.Collect(slices.Chunk(w.data[:16<<20], testSegment))
	b.SetBytes(16 << 20)
	b.ReportAllocs()
	for b.Loop() {
		s := NewWALSummarizer(17, testSegment, testPage, 0, 0)
		for n, segment := range segments {
			if err := s.Scan(w.start+LSN(n*testSegment), 1, segment); err != nil {
				b.Fatal(err)
			}
		}
		if s.Ended() || s.Table().Forks() != 8 {
			b.Fatalf("%d forks, to %s", s.Table().Forks(), s.To())
		}
	}
}
