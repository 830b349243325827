package postgres

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRecordsWhereTheyMeetTheBoundsOfPages(t *testing.T) {
	cases := []struct {
		title string
		write func(w *walWriter)
	}{
		{"a record that fills the page", func(w *walWriter) { w.fillPageUpTo(0) }},
		{"a head of which 8 bytes are on the page", func(w *walWriter) { w.fillPageUpTo(8) }},
		{"a head of which 16 bytes are on the page", func(w *walWriter) { w.fillPageUpTo(16) }},
		{"a head that ends with the page", func(w *walWriter) { w.fillPageUpTo(24) }},
		{"a body that is cut", func(w *walWriter) { w.fillPageUpTo(32) }},
		{"a record over many pages", func(w *walWriter) { w.filler(50_000) }},
		{"a record over a whole segment and more", func(w *walWriter) { w.filler(2_500_000) }},
		{"a record that fills the segment", func(w *walWriter) {
			w.commit(6)
			for len(w.data) < testSegment-testPage {
				w.fillPageUpTo(0)
			}
			w.fillPageUpTo(0)
		}},
		{"a head that is cut by the end of the segment", func(w *walWriter) {
			for len(w.data) < testSegment-testPage {
				w.fillPageUpTo(0)
			}
			w.fillPageUpTo(8)
		}},
		{"a switch to a new segment", func(w *walWriter) {
			w.record(walManagerXLOG, walSwitch, 0, nil)
			w.data = append(w.data, make([]byte, testSegment-len(w.data)%testSegment)...)
		}},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			w := newWALWriter(7 * testSegment)
			w.commit(100)
			tc.write(w)
			start := w.commit(101)
			end := w.pos()
			w.filler(100)
			s, events, err := w.scan(t, 1)
			if err != nil {
				t.Fatal(err)
			}
			if s.End() != w.pos() {
				t.Errorf("the WAL ends at %s, want %s", s.End(), w.pos())
			}
			want := WALEvent{LSN: start, End: end, Kind: WALCommit, XID: 101, Time: time.Unix(946684800, 101_000).UTC()}
			if len(events) < 2 || events[len(events)-1] != want {
				t.Errorf("events %+v, want the last to be %+v", events, want)
			}
		})
	}
}

func TestARecordThatACrashCutOffIsGivenUp(t *testing.T) {
	w := newWALWriter(testSegment)
	w.commit(100)
	w.fillPageUpTo(24)
	last := w.last
	w.record(walManagerXact, walXactCommit, 101, mainData(timestamp(0)))
	// Only the first page of it reached the disk. The server that came up
	// wrote the next page anew, with a mark, and linked to the record before.
	w.data = w.data[:testPage]
	w.last = last
	w.page(walOverwrote, 0)
	w.record(walManagerXLOG, 0xD0, 0, mainData(make([]byte, 16)))
	w.commit(102)
	s, events, err := w.scan(t, 1)
	if err != nil || s.End() != w.pos() {
		t.Errorf("error %v, end %s, want %s", err, s.End(), w.pos())
	}
	if len(events) != 2 || events[0].XID != 100 || events[1].XID != 102 {
		t.Errorf("events %+v, want those of 100 and 102", events)
	}
}

func TestWALGoesOnOnTheNextTimelineAndNotBack(t *testing.T) {
	w := newWALWriter(testSegment)
	w.commit(100)
	w.fillPageUpTo(0)
	w.tli = 3
	w.commit(101)
	if s, events, err := w.scan(t, 3); err != nil || len(events) != 2 || s.End() != w.pos() {
		t.Errorf("forward: error %v, %d events until %s, want 2 until %s", err, len(events), s.End(), w.pos())
	}
	if _, events, err := w.scan(t, 2); err != nil || len(events) != 1 {
		t.Errorf("beyond the segment's own timeline: error %v, %d events, want 1", err, len(events))
	}
	w.fillPageUpTo(0)
	w.tli = 2
	w.commit(102)
	if _, events, err := w.scan(t, 3); err != nil || len(events) != 2 {
		t.Errorf("back: error %v, %d events, want 2", err, len(events))
	}
}

func TestRecordsThatAreLinkedWrongEndTheWAL(t *testing.T) {
	w := newWALWriter(testSegment)
	w.commit(100)
	end := w.pos()
	w.last -= 8
	w.commit(101)
	s, events, err := w.scan(t, 1)
	if err != nil || len(events) != 1 || s.End() != end {
		t.Errorf("error %v, %d events until %s, want 1 until %s", err, len(events), s.End(), end)
	}
}

func TestARecordWithARightChecksumAndWrongContentIsAnError(t *testing.T) {
	cases := []struct {
		title   string
		manager byte
		info    byte
		body    []byte
		want    string
	}{
		{"no main data", walManagerXact, walXactCommit, nil, "ends before"},
		{"time cut short", walManagerXact, walXactAbort, mainData([]byte{1, 2, 3}), "ends before"},
		{"prepared, and nothing said", walManagerXact, walXactCommitPrep, mainData(timestamp(0)), "does not say which"},
		{"list longer than the record", walManagerXact, walXactAbortPrep | walXactHasInfo,
			mainData(append(timestamp(0), 0x12, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF)), "ends before"},
		{"restore point cut short", walManagerXLOG, walRestorePoint, mainData(timestamp(0)), "ends before"},
		{"unknown part", walManagerXact, walXactCommit, []byte{200, 0, 0}, "unknown kind 200"},
		{"main data longer than the record", walManagerXact, walXactCommit, []byte{walBlockData, 9, 0}, "add up to 9"},
		{"main data shorter than the record", walManagerXact, walXactCommit, []byte{walBlockData, 1, 0, 0}, "add up to 1"},
		{"block reference cut short", walManagerXact, walXactCommit, []byte{0, walBlockHasImage, 0, 0, 1}, "ends before"},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			w := newWALWriter(testSegment)
			start := w.record(tc.manager, tc.info, 100, tc.body)
			_, _, err := w.scan(t, 1)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), start.String()) {
				t.Errorf("error %v, want one at %s that says %q", err, start, tc.want)
			}
		})
	}
}

func TestAPageThatDoesNotContinueTheRecordEndsTheWAL(t *testing.T) {
	le := binary.LittleEndian
	cases := []struct {
		title  string
		change func(header []byte)
	}{
		{"another length to come", func(h []byte) { le.PutUint32(h[16:], le.Uint32(h[16:])-8) }},
		{"nothing to come", func(h []byte) { h[2] &^= walContinuation }},
		{"an unknown flag", func(h []byte) { h[2] |= 0x80 }},
		{"a long header inside of a segment", func(h []byte) { h[2] |= walLongHeader }},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			w := newWALWriter(testSegment)
			w.commit(100)
			end := w.pos()
			w.filler(10_000)
			w.commit(101)
			tc.change(w.data[testPage:])
			s, events, err := w.scan(t, 1)
			if err != nil || s.End() != end || len(events) != 1 {
				t.Errorf("error %v, %d events until %s, want 1 until %s", err, len(events), s.End(), end)
			}
		})
	}
	t.Run("a continuation of nothing", func(t *testing.T) {
		w := newWALWriter(testSegment)
		w.commit(100)
		w.fillPageUpTo(0)
		end := w.pos()
		w.page(0, 16)
		w.data = append(w.data, make([]byte, 16)...)
		w.commit(101)
		s, events, err := w.scan(t, 1)
		if err != nil || s.End() != end || len(events) != 1 {
			t.Errorf("error %v, %d events until %s, want 1 until %s", err, len(events), s.End(), end)
		}
	})
}

func TestTheMemoryOfAGiantCommitIsGivenBack(t *testing.T) {
	w := newWALWriter(testSegment)
	w.record(walManagerXact, walXactCommit, 100, mainData(make([]byte, 3_000_000)))
	w.commit(101)
	s, events, err := w.scan(t, 1)
	if err != nil || len(events) != 2 {
		t.Fatalf("error %v, %d events, want 2", err, len(events))
	}
	if n := cap(s.record.body); n > 1<<20 {
		t.Errorf("%d bytes are kept for small records", n)
	}
}

func TestOnlyARecordOfInterestIsKeptInMemory(t *testing.T) {
	w := newWALWriter(testSegment)
	w.filler(900_000)
	w.commit(100)
	s, _, err := w.scan(t, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := cap(s.record.body); n > 1<<10 {
		t.Errorf("%d bytes are kept after a record of no interest", n)
	}
}

// realRecords returns the bodies and heads of the records in the sample of a
// major, by reading them as the one stream that they are without page headers.
func realRecords(t testing.TB, major int, each func(h walRecordHeader, body []byte)) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("../../testdata/postgres/wal/%d.wal.gz", major))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	for n, page := range slices.Collect(slices.Chunk(data, testPage)) {
		header := 24
		if n%(testSegment/testPage) == 0 {
			header = WALHeaderSize
		}
		stream.Write(page[header:])
	}
	for b := stream.Bytes(); len(b) >= walRecordHeaderSize; {
		h := parseWALRecordHeader(b)
		if h.length < walRecordHeaderSize || int(h.length) > len(b) || h.isSwitch() {
			return
		}
		each(h, b[walRecordHeaderSize:h.length])
		b = b[min((int(h.length)+7)&^7, len(b)):]
	}
}

// Every kind of record of the sample is taken apart without a byte left over,
// those with block references and page images included.
func TestMainDataOfRealRecords(t *testing.T) {
	for major := MinMajor; major <= MaxMajor; major++ {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			kinds, blocks, compressed, n := make(map[byte]bool), 0, 0, 0
			realRecords(t, major, func(h walRecordHeader, body []byte) {
				if _, err := walMainData(major, body); err != nil {
					t.Fatalf("record %d, manager %d, info %#x: %v", n, h.manager, h.info, err)
				}
				if len(body) > 0 && body[0] <= walMaxBlockID {
					blocks++
					image := body[1]&walBlockHasImage != 0
					if image && body[8]&walImageHasHole != 0 && body[8]&compressedImage(major) != 0 {
						compressed++
					}
				}
				kinds[h.manager] = true
				n++
			})
			if n < 1000 || blocks < 500 || compressed < 10 || len(kinds) < 5 {
				t.Errorf("%d records, %d with blocks, %d with compressed images, of %d managers: too few to say anything",
					n, blocks, compressed, len(kinds))
			}
		})
	}
}

// FuzzWALScanner gives the scanner pages of 1 KiB: raw ones, or records that
// are hostile in themselves and in order otherwise, with headers of pages around
// them and right checksums.
func FuzzWALScanner(f *testing.F) {
	w := newWALWriter(testSegment)
	w.size = 1 << 10
	w.commit(100)
	w.filler(1500)
	w.commit(101)
	f.Add(false, w.data)
	realRecords(f, 17, func(h walRecordHeader, body []byte) {
		if h.ofInterest() && len(body) < 300 {
			f.Add(true, append([]byte{h.info, h.manager}, body...))
		}
	})
	f.Fuzz(func(t *testing.T, wrap bool, data []byte) {
		w := newWALWriter(testSegment)
		w.size = 1 << 10
		w.data = data
		if wrap {
			w.data = nil
			// Each 0xFE ends a record, which has a manager, an info and a body.
			for len(data) >= 3 {
				n := 3 + max(0, bytes.IndexByte(data[3:], 0xFE))
				w.record(data[1], data[0], 9, data[2:n])
				data = data[n:]
			}
		}
		s := NewWALScanner(17, testSegment, w.size)
		last := w.start
		data = w.data[:min(len(w.data), testSegment)]
		err := s.Scan(w.start, 1, data, func(e WALEvent) error {
			if e.LSN < last || e.End <= e.LSN || len(e.Name) > 64 {
				t.Errorf("event %+v after %s", e, last)
			}
			last = e.End
			return nil
		})
		if err == nil && (s.End() < last || s.End() > w.start+testSegment) {
			t.Errorf("the WAL ends at %s, and the last event at %s", s.End(), last)
		}
	})
}

func FuzzWALRecord(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		realRecords(f, major, func(h walRecordHeader, body []byte) {
			if h.ofInterest() && len(body) < 500 {
				f.Add(major, h.manager, h.info, body)
			}
		})
	}
	f.Fuzz(func(t *testing.T, major int, manager, info byte, body []byte) {
		h := walRecordHeader{manager: manager, info: info}
		event, err := h.walEvent(major, body)
		if err != nil && !errors.Is(err, errWALRecordShort) && err.Error() == "" {
			t.Error("an error without words")
		}
		if len(event.Name) > 64 {
			t.Errorf("name of %d bytes", len(event.Name))
		}
	})
}

func BenchmarkWALScannerSmallRecords(b *testing.B) {
	w := newWALWriter(testSegment)
	for n := uint32(1); len(w.data) < testSegment-testPage; n++ {
		w.filler(120)
		if n%10 == 0 {
			w.commit(n)
		}
	}
	b.SetBytes(int64(len(w.data)))
	for b.Loop() {
		s := NewWALScanner(17, testSegment, testPage)
		if err := s.Scan(testSegment, 1, w.data, func(WALEvent) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
