package postgres

import (
	"bytes"
	"strings"
	"testing"
)

func wholeHeader(t *testing.T, data []byte) WALHeader {
	t.Helper()
	h, err := ParseWALHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWALInSegment(t *testing.T) {
	f := WALFile{Timeline: 1, Segment: 3}
	full := newWALWriter(f.Start(testSegment))
	for len(full.data) < testSegment {
		full.filler(3000)
	}
	data := full.data[:testSegment]
	h := wholeHeader(t, data)
	if n, err := WALInSegment(h, f, data); n != testSegment || err != nil {
		t.Errorf("a full segment: %d, error %v", n, err)
	}
	for _, at := range []int{100, testPage + 10, testSegment / 2, testSegment - 10} {
		torn := bytes.Clone(data)
		copy(torn[at:], make([]byte, testSegment-at))
		if at < testSegment-testPage { // what ends in the next segment is not seen here
			if _, err := WALInSegment(h, f, torn); err == nil || !strings.Contains(err.Error(), "within segment "+f.Name(testSegment)) {
				t.Errorf("torn at %d: error %v", at, err)
			}
		}
	}
	if _, err := WALInSegment(h, f, data[:testSegment/2]); err == nil {
		t.Error("half a segment is whole")
	}
	if _, err := WALInSegment(h, WALFile{Timeline: 1, Segment: 4}, data); err == nil {
		t.Error("a segment is another one")
	}
}

// TestWALInSegmentEndsWithASwitch wherever on a page the record begins.
func TestWALInSegmentEndsWithASwitch(t *testing.T) {
	f := WALFile{Timeline: 1, Segment: 3}
	for _, left := range []int{4000, 32, 24, 16, 8} {
		w := newWALWriter(f.Start(testSegment))
		w.filler(100)
		w.fillPageUpTo(left)
		w.record(walManagerXLOG, walSwitch, 0, nil)
		want := int64(len(w.data))
		garbage := append(bytes.Clone(w.data), bytes.Repeat([]byte{0xAB}, testSegment-len(w.data))...)
		for _, data := range [][]byte{w.segment(), garbage} {
			if n, err := WALInSegment(wholeHeader(t, data), f, data); n != want || err != nil {
				t.Errorf("%d bytes before the page ends: %d, want %d, error %v", left, n, want, err)
			}
		}
	}
}

func FuzzWALInSegment(f *testing.F) {
	w := newWALWriter(0x300000)
	w.filler(100)
	w.record(walManagerXLOG, walSwitch, 0, nil)
	f.Add(w.segment())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseWALHeader(data)
		if err != nil {
			return
		}
		if n, err := WALInSegment(h, WALFile{Timeline: 1, Segment: 3}, data); err == nil && (n <= 0 || n > int64(len(data))) {
			t.Errorf("%d of %d bytes", n, len(data))
		}
	})
}
