package postgres

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestSummaryFileNames(t *testing.T) {
	const name = "0000000A00000001B374D84800000002000000A8.summary"
	want := SummaryFile{10, 0x1B374D848, 0x2000000A8}
	if f, ok := ParseSummaryFileName(name); f != want || !ok || f.Name() != name {
		t.Errorf("%+v, %v, %s", f, ok, f.Name())
	}
	for _, name := range []string{
		"", ".summary", "temp.summary", "0000000A00000001B374D84800000002000000A8", "0000000A00000001B374D84800000002000000A8.summary.tmp",
		"0000000A00000001B374D84800000002000000a8.summary", "0000000A00000001B374D84800000002000000A.summary",
		"0000000A00000001B374D84800000002000000A80.summary", "0000000A00000001B374D84800000002000000G8.summary",
		"0000000000000001B374D84800000002000000A8.summary", "0000000A00000001B374D84800000001B374D848.summary",
		"0000000A00000002B374D84800000001B374D848.summary",
	} {
		if f, ok := ParseSummaryFileName(name); ok {
			t.Errorf("%q was read as %+v", name, f)
		}
	}
}

func TestCoverSummaries(t *testing.T) {
	one := History{Timeline: 1}
	three := History{Timeline: 3, Entries: []HistoryEntry{{Timeline: 1, Switch: 100}, {Timeline: 2, Switch: 200}}}
	// Timeline 2 was to be followed from 200 on, but the server stopped at 150.
	early := History{Timeline: 3, Entries: []HistoryEntry{{Timeline: 1, Switch: 200}, {Timeline: 2, Switch: 150}}}
	for _, c := range []struct {
		title    string
		history  History
		fromTLI  Timeline
		from, to LSN
		files    []SummaryFile
		want     []SummaryFile
		err      string
	}{
		{"one file", one, 1, 10, 20, []SummaryFile{{1, 10, 20}}, []SummaryFile{{1, 10, 20}}, ""},
		{"no WAL", one, 1, 10, 10, nil, nil, ""},
		{"files that go beyond", one, 1, 10, 20, []SummaryFile{{1, 5, 12}, {1, 12, 25}}, []SummaryFile{{1, 5, 12}, {1, 12, 25}}, ""},
		{"only what is needed, in order", one, 1, 10, 20, []SummaryFile{{1, 20, 30}, {1, 15, 20}, {1, 0, 10}, {1, 10, 15}},
			[]SummaryFile{{1, 10, 15}, {1, 15, 20}}, ""},
		{"overlapping", one, 1, 10, 40, []SummaryFile{{1, 10, 12}, {1, 10, 20}, {1, 11, 19}, {1, 18, 30}, {1, 20, 25}, {1, 29, 40}},
			[]SummaryFile{{1, 10, 20}, {1, 18, 30}, {1, 29, 40}}, ""},
		{"none", one, 1, 10, 20, nil, nil, "no WAL summary covers 0/A to 0/14 on timeline 1"},
		{"missing at the start", one, 1, 10, 20, []SummaryFile{{1, 11, 20}}, nil, "no WAL summary covers 0/A to 0/B on timeline 1"},
		{"missing at the end", one, 1, 10, 20, []SummaryFile{{1, 10, 19}}, nil, "no WAL summary covers 0/13 to 0/14 on timeline 1"},
		{"the first of two holes", one, 1, 10, 20, []SummaryFile{{1, 10, 12}, {1, 13, 16}, {1, 17, 20}}, nil,
			"no WAL summary covers 0/C to 0/D on timeline 1"},
		{"a hole up to the end", one, 1, 10, 20, []SummaryFile{{1, 10, 12}, {1, 20, 30}}, nil, "no WAL summary covers 0/C to 0/14 on timeline 1"},
		{"files that say nothing", one, 1, 10, 20, []SummaryFile{{1, 10, 15}, {1, 16, 16}, {1, 17, 12}}, nil,
			"no WAL summary covers 0/F to 0/14 on timeline 1"},
		{"another timeline", one, 1, 10, 20, []SummaryFile{{2, 10, 20}}, nil, "no WAL summary covers 0/A to 0/14 on timeline 1"},
		{"over all timelines", three, 1, 50, 250, []SummaryFile{{3, 200, 250}, {2, 100, 200}, {1, 50, 100}},
			[]SummaryFile{{1, 50, 100}, {2, 100, 200}, {3, 200, 250}}, ""},
		{"a file that goes on after the switch", three, 1, 50, 150, []SummaryFile{{1, 50, 130}, {2, 100, 150}},
			[]SummaryFile{{1, 50, 130}, {2, 100, 150}}, ""},
		{"no file of the next timeline", three, 1, 50, 150, []SummaryFile{{1, 50, 150}}, nil, "no WAL summary covers 0/64 to 0/96 on timeline 2"},
		{"the old timeline ends early", three, 1, 50, 250, []SummaryFile{{1, 50, 99}, {2, 99, 200}}, nil,
			"no WAL summary covers 0/63 to 0/64 on timeline 1"},
		{"from the switch point on", three, 2, 100, 110, []SummaryFile{{1, 50, 110}, {2, 90, 110}}, []SummaryFile{{2, 90, 110}}, ""},
		{"up to the switch point", three, 1, 90, 100, []SummaryFile{{1, 50, 100}}, []SummaryFile{{1, 50, 100}}, ""},
		{"a switch before it was reached", early, 1, 100, 180, []SummaryFile{{1, 100, 200}, {2, 100, 200}, {3, 150, 180}},
			[]SummaryFile{{1, 100, 200}, {3, 150, 180}}, ""},
		{"a start that was left behind", three, 1, 100, 250, []SummaryFile{{1, 50, 250}, {2, 100, 200}, {3, 200, 250}}, nil,
			"0/64 on timeline 1 is not in the history of timeline 3, where timeline 2 has it"},
		{"a foreign start", three, 4, 50, 250, nil, nil, "0/32 on timeline 4 is not in the history of timeline 3, where timeline 1 has it"},
		{"backwards", one, 1, 20, 10, nil, nil, "WAL from 0/14 to 0/A: the end is before the start"},
	} {
		got, err := CoverSummaries(c.files, c.history, c.fromTLI, c.from, c.to)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if !slices.Equal(got, c.want) || text != c.err {
			t.Errorf("%s: %v, %v; want %v, %s", c.title, got, err, c.want, c.err)
		}
	}
}

// Byte by byte: the position is covered by a file of the timeline that the
// history names there.
func TestCoverSummariesCoversEveryByte(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	covered, holes := 0, 0
	for range 20000 {
		h := History{Timeline: 4}
		for tli := range Timeline(random.IntN(4)) {
			h.Entries = append(h.Entries, HistoryEntry{Timeline: tli + 1, Switch: LSN(random.IntN(30))})
		}
		var files []SummaryFile
		for range random.IntN(30) {
			start := LSN(random.IntN(30))
			files = append(files, SummaryFile{Timeline(1 + random.IntN(4)), start, start + LSN(random.IntN(20))})
		}
		from := LSN(random.IntN(20))
		to := from + LSN(random.IntN(15))
		chosen, err := CoverSummaries(files, h, h.TimelineAt(from), from, to)
		isIn := func(list []SummaryFile, at LSN) bool {
			return slices.ContainsFunc(list, func(f SummaryFile) bool { return f.Timeline == h.TimelineAt(at) && f.Start <= at && at < f.End })
		}
		var gap *SummaryGapError
		switch {
		case err == nil:
			covered++
			for at := from; at < to; at++ {
				if !isIn(chosen, at) {
					t.Fatalf("%v of %v do not cover %d in %d to %d of %+v", chosen, files, at, from, to, h)
				}
			}
			if !slices.IsSortedFunc(chosen, func(a, b SummaryFile) int {
				return slices.Compare([]uint64{uint64(a.Timeline), uint64(a.Start)}, []uint64{uint64(b.Timeline), uint64(b.Start)})
			}) {
				t.Fatalf("%v is not in order", chosen)
			}
		case errors.As(err, &gap):
			holes++
			for at := from; at < to; at++ {
				if inGap := gap.From <= at && at < gap.To; at < gap.To && isIn(files, at) == inGap || inGap && h.TimelineAt(at) != gap.Timeline {
					t.Fatalf("%v: wrong at %d: %v in %d to %d of %+v", err, at, files, from, to, h)
				}
			}
			if gap.From >= gap.To || gap.From < from || gap.To > to {
				t.Fatalf("%v in %d to %d", err, from, to)
			}
		default:
			t.Fatal(err)
		}
	}
	if covered < 1000 || holes < 1000 {
		t.Errorf("%d covered, %d not", covered, holes)
	}
}

func TestReadSummaries(t *testing.T) {
	f := RelationForkID{DefaultTablespace, 5, 16384, MainFork}
	var first, second BlockTable
	for block := range uint32(20) {
		first.Mark(f, block)
	}
	second.Truncate(f, 3)
	second.Mark(f, 12)
	files := []SummaryFile{{1, 10, 20}, {1, 20, 30}}
	dir := fstest.MapFS{
		files[0].Name(): {Data: first.Encode()},
		files[1].Name(): {Data: second.Encode()},
		"temp.summary":  {Data: []byte("half of")},
	}
	listed, err := ListSummaries(dir)
	if err != nil || !slices.Equal(listed, files) {
		t.Errorf("listed %v, %v", listed, err)
	}
	table, err := ReadSummaries(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	first.Add(&second)
	if want := []uint32{0, 1, 2, 12}; !slices.Equal(slices.Collect(table.Blocks(f, 0, NoLimit)), want) || !slices.Equal(table.Encode(), first.Encode()) {
		t.Errorf("blocks %v, want %v", slices.Collect(table.Blocks(f, 0, NoLimit)), want)
	}
	if table, err := ReadSummaries(dir, nil); err != nil || table.Forks() != 0 {
		t.Errorf("no files: %v", err)
	}

	if _, err := ReadSummaries(dir, []SummaryFile{files[0], {1, 30, 40}}); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "WAL summary 00000001000000000000001E0000000000000028.summary") {
		t.Errorf("a file that is gone: %v", err)
	}
	dir[files[1].Name()].Data[5]++
	if table, err := ReadSummaries(dir, files); table != nil || err == nil || !strings.HasPrefix(err.Error(), "WAL summary "+files[1].Name()+": block table: checksum ") {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestListSummariesWithoutDirectory(t *testing.T) {
	sub, err := fs.Sub(fstest.MapFS{"pg_wal/archive_status/x": {}}, SummariesDirectory)
	if err != nil {
		t.Fatal(err)
	}
	if files, err := ListSummaries(sub); files != nil || err != nil {
		t.Errorf("%v, %v", files, err)
	}
	if _, err := ListSummaries(unreadable{}); err == nil || !strings.Contains(err.Error(), "list WAL summaries: ") {
		t.Errorf("a directory that cannot be read: %v", err)
	}
}

// unreadable is a directory that the user may not read.
type unreadable struct{}

func (unreadable) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}
