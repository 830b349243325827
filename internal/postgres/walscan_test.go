package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
)

// sampledMajors are the majors of which there is a sample.
func sampledMajors() []int {
	var majors []int
	for major := postgres.MinMajor; major <= postgres.MaxMajor; major++ {
		majors = append(majors, major)
	}
	return majors
}

func TestWALScannerOnSamples(t *testing.T) {
	for _, major := range sampledMajors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			compareWAL(t, loadWALSample(t, major))
		})
	}
}

// segments cuts the data of a sample at the bounds of segments; the last is short.
func (s walSample) segments() [][]byte {
	return slices.Collect(slices.Chunk(s.data, int(s.SegmentSize)))
}

// at returns the position of an LSN in the data of the sample.
func (s walSample) at(lsn postgres.LSN) int { return int(lsn - s.Start) }

// scan gives a new scanner the sample's segments from the n-th on and returns
// it with the events. No segment may be refused.
func (s walSample) scan(t testing.TB, n int) (*postgres.WALScanner, []postgres.WALEvent) {
	t.Helper()
	var events []postgres.WALEvent
	scanner := postgres.NewWALScanner(s.Major, s.SegmentSize, s.PageSize)
	for ; n < len(s.segments()) && !scanner.Ended(); n++ {
		start := s.Start + postgres.LSN(int64(n)*s.SegmentSize)
		err := scanner.Scan(start, s.Timeline, s.segments()[n], func(e postgres.WALEvent) error {
			events = append(events, e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return scanner, events
}

func TestWALScannerMayBeginWithAnySegment(t *testing.T) {
	for _, major := range sampledMajors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			s := loadWALSample(t, major)
			_, all := s.scan(t, 0)
			for n := range s.segments() {
				start := s.Start + postgres.LSN(int64(n)*s.SegmentSize)
				want := all[slices.IndexFunc(all, func(e postgres.WALEvent) bool { return e.LSN >= start }):]
				scanner, got := s.scan(t, n)
				if !slices.Equal(got, want) {
					t.Errorf("from segment %d on: %d events, want %d", n, len(got), len(want))
				}
				if scanner.End() != s.End {
					t.Errorf("from segment %d on: the WAL ends at %s, want %s", n, scanner.End(), s.End)
				}
			}
		})
	}
}

func TestWALScannerReadsAShortSegmentAsFarAsItGoes(t *testing.T) {
	s := loadWALSample(t, 17)
	_, all := s.scan(t, 0)
	first := s.segments()[0]
	for size := 0; size < len(first); size += 3000 { // in the middle of pages too
		cut := s
		cut.data = first[:size]
		scanner := postgres.NewWALScanner(s.Major, s.SegmentSize, s.PageSize)
		var got []postgres.WALEvent
		err := scanner.Scan(s.Start, 1, cut.data, func(e postgres.WALEvent) error {
			got = append(got, e)
			return nil
		})
		if err != nil || !scanner.Ended() || scanner.End() > s.Start+postgres.LSN(size) {
			t.Fatalf("%d bytes: error %v, ended %t at %s", size, err, scanner.Ended(), scanner.End())
		}
		if want := eventsUntil(all, scanner.End()); !slices.Equal(got, want) {
			t.Fatalf("%d bytes: %d events, want the %d that end by %s", size, len(got), len(want), scanner.End())
		}
	}
}

// eventsUntil returns the events that end by lsn.
func eventsUntil(events []postgres.WALEvent, lsn postgres.LSN) []postgres.WALEvent {
	n := slices.IndexFunc(events, func(e postgres.WALEvent) bool { return e.End > lsn })
	if n < 0 {
		return events
	}
	return events[:n]
}

// Whatever byte is damaged, no event is invented or changed, and none is
// reported that comes after the damage.
func TestWALScannerStopsAtDamage(t *testing.T) {
	s := loadWALSample(t, 18)
	_, all := s.scan(t, 0)
	whole := s.data
	stopped := 0
	for at := 0; at < s.at(s.End); at += 1777 {
		s.data = bytes.Clone(whole)
		s.data[at] ^= 0x10
		scanner, got := s.scan(t, 0)
		want := eventsUntil(all, scanner.End())
		if !slices.Equal(got, want) {
			t.Fatalf("byte %d damaged: %d events, want the %d that end by %s", at, len(got), len(want), scanner.End())
		}
		switch end := scanner.End(); {
		case end <= s.Start+postgres.LSN(at):
			stopped++
		case end != s.End:
			t.Fatalf("byte %d damaged: the WAL ends at %s, behind the damage", at, end)
		}
	}
	// What is not covered is padding, the unused rest of a segment and fields
	// of headers that say nothing about the records.
	if stopped < 500 {
		t.Errorf("only %d damages were noticed", stopped)
	}
}

func TestWALScannerTakesZerosAndRemainsForTheEnd(t *testing.T) {
	s := loadWALSample(t, 16)
	_, all := s.scan(t, 0)
	end := s.at(s.End)
	cases := []struct {
		title string
		fill  func(rest []byte)
	}{
		{"zeros", func(rest []byte) { clear(rest) }},
		{"ones", func(rest []byte) { copy(rest, bytes.Repeat([]byte{0xFF}, len(rest))) }},
		{"a copy of older records", func(rest []byte) { copy(rest, s.data[s.PageSize+end%s.PageSize:]) }},
		{"the very same records again", func(rest []byte) { copy(rest, s.data[end-200:]) }},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			s := s
			s.data = bytes.Clone(s.data)
			tc.fill(s.data[end:])
			scanner, got := s.scan(t, 0)
			if scanner.End() != s.End || !scanner.Ended() || !slices.Equal(got, all) {
				t.Errorf("%d events until %s (ended: %t), want %d until %s",
					len(got), scanner.End(), scanner.Ended(), len(all), s.End)
			}
		})
	}
}

func TestWALScannerRefuses(t *testing.T) {
	s := loadWALSample(t, 15)
	none := func(postgres.WALEvent) error { return nil }
	sized := func(major int, segment int64, page int) *postgres.WALScanner {
		return postgres.NewWALScanner(major, segment, page)
	}
	fresh := func() *postgres.WALScanner { return sized(15, 1<<20, 8<<10) }
	begun := func() *postgres.WALScanner {
		scanner := fresh()
		if err := scanner.Scan(s.Start, 1, s.segments()[0], none); err != nil {
			t.Fatal(err)
		}
		return scanner
	}
	cases := []struct {
		title   string
		scanner *postgres.WALScanner
		start   postgres.LSN
		data    []byte
	}{
		{"an unsupported major", sized(12, 1<<20, 8<<10), s.Start, s.segments()[0]},
		{"a segment size that is no power of two", sized(15, 3<<20, 8<<10), 0, nil},
		{"a segment size of zero", sized(15, 0, 8<<10), 0, nil},
		{"a page size of zero", sized(15, 1<<20, 0), 0, nil},
		{"a page size of seven", sized(15, 1<<20, 7), 0, nil},
		{"a start inside of a segment", fresh(), s.Start + 8192, s.segments()[0]},
		{"more than a segment", fresh(), s.Start, s.data},
		{"the same segment again", begun(), s.Start, s.segments()[0]},
		{"a gap", begun(), s.Start + 2<<20, s.segments()[1]},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			if err := tc.scanner.Scan(tc.start, 1, tc.data, none); err == nil || errors.Is(err, postgres.ErrWALEnded) {
				t.Errorf("error %v, want a refusal", err)
			}
		})
	}
}

func TestWALScannerGoesNoFurtherThanTheEnd(t *testing.T) {
	s := loadWALSample(t, 14)
	scanner, _ := s.scan(t, 0)
	next := s.Start + postgres.LSN(len(s.segments()))*postgres.LSN(s.SegmentSize)
	err := scanner.Scan(next, 1, s.segments()[0], func(postgres.WALEvent) error { return nil })
	if !errors.Is(err, postgres.ErrWALEnded) {
		t.Errorf("error %v, want ErrWALEnded", err)
	}
}

func TestWALOfAnotherKindEndsAtOnce(t *testing.T) {
	s := loadWALSample(t, 14)
	cases := []struct {
		title   string
		scanner *postgres.WALScanner
		start   postgres.LSN
		tli     postgres.Timeline
		data    []byte
	}{
		{"another major", postgres.NewWALScanner(15, 1<<20, 8<<10), s.Start, 1, s.segments()[0]},
		{"another segment size", postgres.NewWALScanner(14, 2<<20, 8<<10), 2 << 20, 1, s.segments()[0]},
		{"another page size", postgres.NewWALScanner(14, 1<<20, 16<<10), s.Start, 1, s.segments()[0]},
		{"another place", postgres.NewWALScanner(14, 1<<20, 8<<10), s.Start + 1<<20, 1, s.segments()[0]},
		{"a later timeline than its name", postgres.NewWALScanner(14, 1<<20, 8<<10), s.Start, 0, s.segments()[0]},
		{"nothing", postgres.NewWALScanner(14, 1<<20, 8<<10), s.Start, 1, nil},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			err := tc.scanner.Scan(tc.start, tc.tli, tc.data, func(e postgres.WALEvent) error {
				return fmt.Errorf("event %+v", e)
			})
			if err != nil || !tc.scanner.Ended() || tc.scanner.End() != tc.start {
				t.Errorf("error %v, ended %t at %s, want an end at %s", err, tc.scanner.Ended(), tc.scanner.End(), tc.start)
			}
		})
	}
}

func TestWALScannerReturnsTheErrorOfEmit(t *testing.T) {
	s := loadWALSample(t, 13)
	enough := errors.New("enough")
	scanner := postgres.NewWALScanner(s.Major, s.SegmentSize, s.PageSize)
	calls := 0
	err := scanner.Scan(s.Start, 1, s.segments()[0], func(postgres.WALEvent) error {
		calls++
		return enough
	})
	if err != enough || calls != 1 {
		t.Errorf("error %v after %d calls, want the callback's after 1", err, calls)
	}
	if err := scanner.Scan(s.Start+1<<20, 1, s.segments()[1], func(postgres.WALEvent) error { return nil }); err == nil {
		t.Error("a scan that was broken off goes on with the next segment")
	}
}

func BenchmarkWALScannerSample(b *testing.B) {
	s := loadWALSample(b, 18)
	b.SetBytes(int64(len(s.data)))
	for b.Loop() {
		s.scan(b, 0)
	}
}

func TestWALScannerKnowsWhereTheLastRecordStarts(t *testing.T) {
	for _, major := range sampledMajors() {
		s := loadWALSample(t, major)
		scanner, events := s.scan(t, 0)
		last := scanner.LastStart()
		if last >= scanner.End() || last < events[len(events)-1].LSN {
			t.Errorf("PostgreSQL %d: the last record starts at %s, want a place from the last event at %s to the end at %s",
				major, last, events[len(events)-1].LSN, scanner.End())
		}
		// A scan that begins with another segment finds the same.
		if again, _ := s.scan(t, len(s.segments())-1); again.LastStart() != last {
			t.Errorf("PostgreSQL %d: the last record starts at %s, or at %s", major, last, again.LastStart())
		}
	}
	if start := postgres.NewWALScanner(17, 1<<20, 8192).LastStart(); start != 0 {
		t.Errorf("before any record it starts at %s", start)
	}
}
