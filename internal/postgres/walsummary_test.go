package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// testFork is a fork that tests mark blocks of.
var testFork = RelationForkID{Tablespace: DefaultTablespace, Database: 5, Node: 16384}

// change writes a record that changes one block and has main data that make it
// length bytes long, 0 for as short as can be.
func (w *walWriter) change(block uint32, length int) LSN {
	body := blockHeader(testFork, block)
	return w.record(10, 0, 5, append(body, mainData(make([]byte, max(0, length-walRecordHeaderSize-len(body)-5)))...))
}

// blockHeader is the reference to a block, without data.
func blockHeader(f RelationForkID, block uint32) []byte {
	b := []byte{0, byte(f.Fork), 0, 0}
	b = append(b, relation(f)...)
	return binary.LittleEndian.AppendUint32(b, block)
}

func relation(f RelationForkID) []byte {
	b := binary.LittleEndian.AppendUint32(nil, f.Tablespace)
	b = binary.LittleEndian.AppendUint32(b, f.Database)
	return binary.LittleEndian.AppendUint32(b, f.Node)
}

// left is how many bytes the segment has for records from here on.
func (w *walWriter) left() int {
	if len(w.data)%w.size == 0 {
		w.page(0, 0)
	}
	n := testSegment - len(w.data)%testSegment
	return n - (n-1)/w.size*walPageHeaderSize
}

// fillSegment leaves left bytes of the segment for records.
func (w *walWriter) fillSegment(left int) { w.change(1, w.left()-left) }

// files are the segments of what was written, by name; the last one is filled up.
func (w *walWriter) files() map[string][]byte {
	files := make(map[string][]byte)
	for n, segment := range slices.Collect(slices.Chunk(w.data, testSegment)) {
		f := WALFile{Timeline: w.tli, Segment: w.start.Segment(testSegment) + uint64(n)}
		files[f.Name(testSegment)] = append(bytes.Clone(segment), make([]byte, testSegment-len(segment))...)
	}
	return files
}

// summarize summarizes each segment of files in the order of their positions.
func summarize(t *testing.T, files map[string][]byte) []WALSummary {
	t.Helper()
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a[8:], b[8:]) })
	var sums []WALSummary
	for _, name := range names {
		f, err := ParseWALFile(name, testSegment)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := SummarizeSegment(17, testSegment, testPage, f, files[name], from(files))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	return sums
}

// from gives SummarizeSegment what is in files.
func from(files map[string][]byte) func(string, int64) ([]byte, error) {
	return func(name string, offset int64) ([]byte, error) {
		if files[name] == nil {
			return nil, fs.ErrNotExist
		}
		return files[name][offset:], nil
	}
}

// describe says what a summary holds of testFork.
func (s WALSummary) describe() string {
	return fmt.Sprintf("%s to %s: %d", s.From, s.To, slices.Collect(s.Table.Blocks(testFork, 0, NoLimit)))
}

// wantChain fails the test unless the summaries tell of these blocks each, without
// a hole from from on. One in which no record begins has none.
func wantChain(t *testing.T, sums []WALSummary, from LSN, blocks ...[]uint32) {
	t.Helper()
	if len(sums) != len(blocks) {
		t.Fatalf("%d summaries, want %d", len(sums), len(blocks))
	}
	for n, sum := range sums {
		got := slices.Collect(sum.Table.Blocks(testFork, 0, NoLimit))
		if !slices.Equal(got, blocks[n]) || sum.Hole != nil {
			t.Errorf("summary %d is %s, hole %v, want blocks %d", n, sum.describe(), sum.Hole, blocks[n])
		}
		if sum.From == sum.To && len(blocks[n]) == 0 {
			continue
		}
		if sum.From != from || sum.To <= sum.From {
			t.Errorf("summary %d is %s, want it from %s", n, sum.describe(), from)
		}
		from = sum.To
	}
}

func TestSummariesOfSegmentsMeet(t *testing.T) {
	const begin = testSegment + WALHeaderSize
	cases := []struct {
		title  string
		write  func(w *walWriter)
		blocks [][]uint32
	}{
		{"a record that crosses", func(w *walWriter) {
			w.fillSegment(64)
			w.change(2, 100)
			w.change(3, 0)
		}, [][]uint32{{1}, {2, 3}}},
		{"a head that crosses", func(w *walWriter) {
			w.fillSegment(8)
			w.change(2, 100)
			w.change(3, 0)
		}, [][]uint32{{1}, {2, 3}}},
		{"a record that ends with the segment", func(w *walWriter) {
			w.fillSegment(104)
			w.change(2, 104)
			w.change(3, 0)
		}, [][]uint32{{1, 2}, {3}}},
		{"a record over three segments", func(w *walWriter) {
			w.change(1, 0)
			w.change(2, 5*testSegment/2)
			w.change(3, 0)
		}, [][]uint32{{1}, nil, {2, 3}}},
		{"a record over three segments that ends with the last", func(w *walWriter) {
			w.fillSegment(64)
			w.change(2, 64+w.bytesIn(2))
			w.change(3, 0)
		}, [][]uint32{{1}, nil, nil, {2, 3}}},
		{"a switch", func(w *walWriter) {
			w.change(1, 0)
			w.switchSegment()
			w.change(2, 0)
		}, [][]uint32{{1}, {2}}},
		{"a switch that crosses", func(w *walWriter) {
			w.fillSegment(8)
			w.switchSegment()
			w.change(2, 0)
		}, [][]uint32{{1}, nil, {2}}},
		{"a record that a crash cut off at the edge", func(w *walWriter) {
			w.fillSegment(64)
			w.cutOff(2, 5000, testSegment)
			w.change(3, 0)
		}, [][]uint32{{1}, {3}}},
		{"a record that a crash cut off in the next segment", func(w *walWriter) {
			w.fillSegment(64)
			w.cutOff(2, 5*testPage, testSegment+2*testPage)
			w.change(3, 0)
		}, [][]uint32{{1}, {3}}},
		{"a record that a crash cut off after a segment", func(w *walWriter) {
			w.fillSegment(64)
			w.cutOff(2, 3*testSegment, 2*testSegment)
			w.change(3, 0)
		}, [][]uint32{{1}, nil, {3}}},
		{"a record that a crash cut off, and one that crosses", func(w *walWriter) {
			w.fillSegment(testPage)
			w.cutOff(2, 9000, testSegment-testPage)
			w.fillSegment(64)
			w.change(3, 100)
			w.change(4, 0)
		}, [][]uint32{{1}, {3, 4}}},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			w := newWALWriter(testSegment)
			tc.write(w)
			wantChain(t, summarize(t, w.files()), begin, tc.blocks...)
		})
	}
}

// bytesIn is how many bytes of records n segments hold.
func (w *walWriter) bytesIn(n int) int {
	return n * (testSegment - WALHeaderSize - (testSegment/w.size-1)*walPageHeaderSize)
}

// switchSegment writes what pg_switch_wal does, and begins the next segment.
func (w *walWriter) switchSegment() {
	w.record(walManagerXLOG, walSwitch, 0, nil)
	w.data = append(w.data, make([]byte, testSegment-len(w.data)%testSegment)...)
}

// cutOff writes a record that changes a block, of which a crash left what stands
// before the offset at. There the server went on.
func (w *walWriter) cutOff(block uint32, length, at int) {
	last := w.last
	start := w.change(block, length)
	w.data, w.last = w.data[:at], last
	w.page(walOverwrote, 0)
	w.record(walManagerXLOG, walOverwroteContinued, 0, mainData(append(timestamp(int64(start)), timestamp(0)...)))
}
