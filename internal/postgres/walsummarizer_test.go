package postgres

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"testing"
)

func TestASummaryWithoutTheSegmentBeforeHasAHole(t *testing.T) {
	w := newWALWriter(testSegment)
	w.fillSegment(64)
	w.change(2, 100)
	third := w.change(3, 0)
	files := w.files()
	const first, second = "000000010000000000000001", "000000010000000000000002"
	cases := []struct {
		title  string
		before []byte
		says   []string
	}{
		{"missing", nil, []string{"0/1FFFC0", "0/200000", fs.ErrNotExist.Error()}},
		{"zeros", make([]byte, testSegment), []string{"0/1FFFC0", "do not have it"}},
		{"too long", append(slices.Clone(files[first]), 0), []string{first, "want at most 8192"}},
		{"too short", files[first][:testSegment-testPage], []string{"do not have it"}},
		{"not to be continued", changed(files[first], testSegment-64, 200), []string{"does not go on at 0/200000"}},
		{"damaged", changed(files[first], testSegment-1, 0xFF), []string{"does not go on at 0/200000"}},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			f := WALFile{Timeline: 1, Segment: 2}
			sum, err := SummarizeSegment(17, testSegment, testPage, f, files[second], from(map[string][]byte{first: tc.before}))
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, sum.Hole, tc.says...)
			if sum.From != third || sum.To != w.pos() || !slices.Equal(slices.Collect(sum.Table.Blocks(testFork, 0, NoLimit)), []uint32{3}) {
				t.Errorf("summary %s, want block 3 from %s to %s", sum.describe(), third, w.pos())
			}
		})
	}
}

func TestTheChainGoesOnOnTheNextTimeline(t *testing.T) {
	w := newWALWriter(testSegment)
	w.fillSegment(64)
	w.change(2, 100)
	w.fillPageUpTo(0)
	old := w.files()
	w.tli = 2
	w.change(3, 0)
	files := w.files()
	delete(files, "000000020000000000000001")
	files["000000010000000000000001"] = old["000000010000000000000001"]
	wantChain(t, summarize(t, files), testSegment+WALHeaderSize, []uint32{1}, []uint32{2, 3})
}

func TestASummaryEndsWithTheWAL(t *testing.T) {
	w := newWALWriter(testSegment)
	w.change(1, 0)
	end := w.pos()
	broken := w.change(2, 100)
	w.change(3, 0)
	cases := map[string][]byte{
		"zeros":            append(slices.Clone(w.data[:end-testSegment]), make([]byte, testPage)...),
		"a damaged record": changed(w.data, int(broken-testSegment)+90, 0xFF),
	}
	for title, data := range cases {
		t.Run(title, func(t *testing.T) {
			data = append(slices.Clone(data), make([]byte, testSegment-len(data))...)
			f := WALFile{Kind: WALPartial, Timeline: 1, Segment: 1}
			sum, err := SummarizeSegment(17, testSegment, testPage, f, data, from(nil))
			if err != nil {
				t.Fatal(err)
			}
			wantChain(t, []WALSummary{sum}, testSegment+WALHeaderSize, []uint32{1})
			if sum.To != end {
				t.Errorf("it ends at %s, want %s", sum.To, end)
			}
		})
	}
	t.Run("not WAL at all", func(t *testing.T) {
		f := WALFile{Timeline: 1, Segment: 1}
		sum, err := SummarizeSegment(17, testSegment, testPage, f, make([]byte, testSegment), from(nil))
		if err != nil || sum.From != sum.To || sum.Table.Forks() != 0 {
			t.Errorf("error %v, summary %s", err, sum.describe())
		}
	})
}

func TestWALSummarizerTakesWhatStartsInTheRange(t *testing.T) {
	w := newWALWriter(testSegment)
	var starts []LSN
	for n := range uint32(6) {
		starts = append(starts, w.change(n, 3000))
	}
	end := w.pos()
	const page = testSegment + testPage
	cases := []struct {
		title            string
		from, to         LSN
		wantFrom, wantTo LSN
		blocks           []uint32
	}{
		{"everything", 0, 0, starts[0], end, []uint32{0, 1, 2, 3, 4, 5}},
		{"exact bounds", starts[2], starts[4], starts[2], starts[4], []uint32{2, 3}},
		{"the start of a segment", testSegment, starts[1], testSegment, starts[1], []uint32{0}},
		{"inside of records", starts[2] + 8, starts[4] + 8, starts[3], starts[5], []uint32{3, 4}},
		{"a page in the midst of a record", page, starts[4], starts[3], starts[4], []uint32{3}},
		{"nothing", starts[2], starts[2], starts[2], starts[2], nil},
		{"beyond the end", starts[5], end + 1<<30, starts[5], end, []uint32{5}},
		{"all beyond the end", end + 8, 0, end, end, nil},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			s := NewWALSummarizer(17, testSegment, testPage, tc.from, tc.to)
			if err := s.Scan(testSegment, 1, w.segment()); err != nil {
				t.Fatal(err)
			}
			got := slices.Collect(s.Table().Blocks(testFork, 0, NoLimit))
			if s.From() != tc.wantFrom || s.To() != tc.wantTo || !slices.Equal(got, tc.blocks) {
				t.Errorf("%s to %s: %d, want %s to %s: %d", s.From(), s.To(), got, tc.wantFrom, tc.wantTo, tc.blocks)
			}
			if !s.Ended() {
				t.Error("it does not say that the WAL ended")
			}
		})
	}
}

// Where a page ends with a record, servers name the start of the next record in two ways.
func TestARecordStartHasOneName(t *testing.T) {
	w := newWALWriter(testSegment)
	w.fillPageUpTo(0)
	edge := w.pos()
	start := w.change(2, 0)
	w.change(3, 0)
	if edge == start || edge.RecordStart(testSegment, testPage) != start || start.RecordStart(testSegment, testPage) != start {
		t.Errorf("%s is named %s, and %s is %s", edge, edge.RecordStart(testSegment, testPage), start, start.RecordStart(testSegment, testPage))
	}
	if LSN(testSegment).RecordStart(testSegment, testPage) != testSegment+WALHeaderSize {
		t.Error("the start of a segment has the long header")
	}
	for _, from := range []LSN{edge, start} {
		s := NewWALSummarizer(17, testSegment, testPage, from, 0)
		if err := s.Scan(testSegment, 1, w.segment()); err != nil {
			t.Fatal(err)
		}
		if s.From() != from || s.Table().Count(testFork, 0, NoLimit) != 2 {
			t.Errorf("from %s: %d blocks from %s on", from, s.Table().Count(testFork, 0, NoLimit), s.From())
		}
	}
}

// level writes the record by which a server tells its wal_level: that of a changed
// parameter, a shutdown, the end of a recovery, or the begin of a checkpoint.
func (w *walWriter) level(operation byte, level uint32) LSN {
	before := map[byte]int{walParameterChange: 20, walCheckpointShutdown: 20, walEndOfRecovery: 16, walCheckpointRedo: 0}[operation]
	main := binary.LittleEndian.AppendUint32(make([]byte, before), level)
	return w.record(walManagerXLOG, operation, 0, mainData(append(main, make([]byte, 8)...)))
}

func TestWALOfLevelMinimalIsNeverCovered(t *testing.T) {
	for _, operation := range []byte{walParameterChange, walCheckpointShutdown, walEndOfRecovery, walCheckpointRedo} {
		w := newWALWriter(testSegment)
		begin := w.level(operation, 1)
		w.change(1, 0)
		low := w.level(operation, 0)
		w.change(2, 0)
		lowEnd := w.pos()
		high := w.level(operation, 2)
		w.change(3, 0)
		cases := []struct {
			title   string
			to      LSN
			from    LSN
			wantTo  LSN
			minimal bool
			blocks  []uint32
		}{
			{"before", low, begin, low, false, []uint32{1}},
			{"in it", lowEnd, high, high, true, nil},
			{"over it", 0, high, w.pos(), true, []uint32{3}},
		}
		for _, tc := range cases {
			s := NewWALSummarizer(17, testSegment, testPage, begin, tc.to)
			if err := s.Scan(testSegment, 1, w.segment()); err != nil {
				t.Fatal(err)
			}
			got := slices.Collect(s.Table().Blocks(testFork, 0, NoLimit))
			if s.From() != tc.from || s.To() != tc.wantTo || s.Minimal() != tc.minimal || !slices.Equal(got, tc.blocks) {
				t.Errorf("operation %#x, %s: %s to %s, %d, minimal %t; want %s to %s, %d, %t", operation, tc.title,
					s.From(), s.To(), got, s.Minimal(), tc.from, tc.wantTo, tc.blocks, tc.minimal)
			}
		}
	}
}

func TestWALSummarizerRefusesWhatItDoesNotUnderstand(t *testing.T) {
	cases := []struct {
		title   string
		manager byte
		info    byte
		body    []byte
		says    []string
	}{
		{"an unknown part", 10, 0, []byte{200, 1, 2}, []string{"WAL record at 0/100028", "unknown kind 200"}},
		{"a block of no relation", 10, 0, []byte{0, walBlockSameRelation, 0, 0, 1, 0, 0, 0}, []string{"the relation before it, and there is none"}},
		{"an unknown fork", 10, 0, blockHeader(RelationForkID{1663, 5, 16384, 4}, 1), []string{"refers to fork 4"}},
		{"no block", 10, 0, blockHeader(testFork, noBlock), []string{"block 4294967295"}},
		{"too many headers", 10, 0, append(slices.Repeat(blockHeader(testFork, 1), 100), mainData(make([]byte, 9000))...), []string{"ends before its last part"}},
		{"lengths that do not add up", 10, 0, append(mainData(nil), 0), []string{"add up to 0 bytes, and it has 1"}},
		{"a short truncation", walManagerSMGR, walSMGRTruncate, mainData(make([]byte, 19)), []string{"ends before its last part"}},
		{"an unknown fork made", walManagerSMGR, walSMGRCreate, mainData(append(relation(testFork), 9, 0, 0, 0)), []string{"makes fork 9"}},
		{"a short list of tablespaces", walManagerDatabase, walDatabaseDrop, mainData([]byte{5, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0}), []string{"ends before"}},
		{"a short level", walManagerXLOG, walParameterChange, mainData(make([]byte, 22)), []string{"ends before"}},
		{"a short commit", walManagerXact, walXactCommit | walXactHasInfo, mainData(make([]byte, 8)), []string{"ends before"}},
		{"nothing overwritten", walManagerXLOG, walOverwroteContinued, mainData(make([]byte, 4)), []string{"ends before"}},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			w := newWALWriter(testSegment)
			w.record(tc.manager, tc.info, 5, tc.body)
			s := NewWALSummarizer(17, testSegment, testPage, 0, 0)
			wantError(t, s.Scan(testSegment, 1, w.segment()), tc.says...)
			if err := s.Scan(2*testSegment, 1, w.data); !errors.Is(err, ErrWALEnded) {
				t.Errorf("after an error: %v, want %v", err, ErrWALEnded)
			}
		})
	}
}

// What servers of 13 and 14 write about databases, which no judge of theirs reads.
func TestDatabasesBefore15(t *testing.T) {
	words := func(v ...uint32) (b []byte) {
		for _, n := range v {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return b
	}
	cases := []struct {
		title       string
		major       int
		operation   byte
		main        []byte
		tablespaces []uint32
	}{
		{"created", 14, 0x00, words(7, 1663, 1, 1663), []uint32{1663}},
		{"dropped", 14, 0x10, words(7, 2, 1663, 16390), []uint32{1663, 16390}},
		{"unknown", 14, 0x20, words(7, 1, 1663), nil},
		{"created by copy", 15, 0x00, words(7, 1663, 1, 1663), []uint32{1663}},
		{"created by WAL", 15, 0x10, words(7, 16390), []uint32{16390}},
		{"dropped since 15", 15, 0x20, words(7, 2, 1663, 16390), []uint32{1663, 16390}},
		{"unknown since 15", 15, 0x30, words(7, 1, 1663), nil},
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			var table BlockTable
			if err := (walRecordHeader{manager: walManagerDatabase, info: tc.operation}).truncations(tc.major, tc.main, &table); err != nil {
				t.Fatal(err)
			}
			var got []uint32
			for _, f := range table.ForkIDs() {
				if limit, _ := table.Limit(f); limit != 0 || f.Database != 7 || f.Node != 0 || f.Fork != MainFork {
					t.Errorf("%+v has limit %d", f, limit)
				}
				got = append(got, f.Tablespace)
			}
			if !slices.Equal(got, tc.tablespaces) {
				t.Errorf("tablespaces %d, want %d", got, tc.tablespaces)
			}
		})
	}
}
