package postgres

import (
	"reflect"
	"testing"
)

func TestParseHistoryReadsRealPromotions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		h, err := ParseHistory(2, sample(t, major, "00000002.history"))
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Entries) != 1 || h.Entries[0].Timeline != 1 || h.Entries[0].Reason != "no recovery target specified" {
			t.Fatalf("read %+v", h)
		}
		// Recovery ended where the shutdown checkpoint, its last record, ends.
		down, err := ParseControl(sample(t, major, "pg_control.shutdown.gz"))
		if err != nil {
			t.Fatal(err)
		}
		if h.Begin() <= down.Checkpoint || h.Begin() > down.Checkpoint+200 {
			t.Errorf("timeline 2 begins at %s, the last record before at %s", h.Begin(), down.Checkpoint)
		}
	})
}

func TestParseHistoryRules(t *testing.T) {
	for _, c := range []struct {
		name string
		tli  Timeline
		text string
		want []HistoryEntry
		err  string
	}{
		{"timeline 1 needs no lines", 1, "", nil, ""},
		{"comments, empty lines and leading space are skipped", 3, "# a\n\n  # b\r\n \t1\t0/A\tx y \n2  1/b\n",
			[]HistoryEntry{{1, 0xA, "x y"}, {2, 1<<32 | 0xB, ""}}, ""},
		{"the last line may lack its end", 2, "1\t0/A\treason", []HistoryEntry{{1, 0xA, "reason"}}, ""},
		{"switch points may decrease", 4, "1\t0/A\n3\t0/9\n", []HistoryEntry{{1, 0xA, ""}, {3, 9, ""}}, ""},
		{"a remark is any text", 2, "1\t0/A\tbefore 2000-01-01 00:00:00+00 # x", []HistoryEntry{{1, 0xA, "before 2000-01-01 00:00:00+00 # x"}}, ""},
		{"timelines must increase", 4, "2\t0/A\n2\t0/B\n", nil, "line 2: timeline 2 after 2"},
		{"parents must be lower", 2, "1\t0/A\n2\t0/B\n", nil, "names timeline 2 as a parent"},
		{"timeline 1 has no parent", 1, "1\t0/A\n", nil, "names timeline 1 as a parent"},
		{"a timeline must be a number", 2, "one\t0/A\n", nil, `"one" is not a timeline`},
		{"a timeline must not be 0", 2, "0\t0/A\n", nil, `"0" is not a timeline`},
		{"a timeline must fit 32 bits", 2, "4294967297\t0/A\n", nil, "is not a timeline"},
		{"a switch point must be there", 2, "1\n", nil, "switch point of timeline 1"},
		{"a switch point must be an LSN", 2, "1\t0A\n", nil, "is not an LSN"},
		{"an empty file is a torn one", 2, "", nil, "names no parent"},
		{"there is no timeline 0", 0, "", nil, "timeline 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := ParseHistory(c.tli, []byte(c.text))
			if c.err != "" {
				wantError(t, err, c.err)
				return
			}
			if want := (History{c.tli, c.want}); err != nil || !reflect.DeepEqual(h, want) {
				t.Errorf("read %+v, %v; want %+v", h, err, want)
			}
		})
	}
}

// ancestry: 1 until 100, 2 until 200, 5 until 300, then 7.
func ancestry() History {
	return History{7, []HistoryEntry{{1, 100, ""}, {2, 200, ""}, {5, 300, ""}}}
}

// detour: a server that followed timeline 2 was stopped at 80, before it got to
// where 2 left 1 at 100; its timeline 3 left "2" at 80.
func detour() History { return History{3, []HistoryEntry{{1, 100, ""}, {2, 80, ""}}} }

func TestTimelineAt(t *testing.T) {
	for _, c := range []struct {
		name string
		h    History
		lsn  LSN
		want Timeline
	}{
		{"timeline 1 holds everything of itself", History{Timeline: 1}, 12345, 1},
		{"position 0 is on the oldest", ancestry(), 0, 1},
		{"the byte before a switch point is the parent's", ancestry(), 99, 1},
		{"the byte at a switch point is the child's", ancestry(), 100, 2},
		{"in the middle", ancestry(), 250, 5},
		{"after the last switch point", ancestry(), 300, 7},
		{"far on", ancestry(), 1 << 60, 7},
		{"before a detour", detour(), 79, 1},
		{"a detour's timeline holds nothing", detour(), 80, 3},
		{"after a detour, where 2 would have begun", detour(), 100, 3},
	} {
		if got := c.h.TimelineAt(c.lsn); got != c.want {
			t.Errorf("%s: timeline %d, want %d", c.name, got, c.want)
		}
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		name string
		h    History
		tli  Timeline
		lsn  LSN
		want bool
	}{
		{"timeline 1 leads to itself", History{Timeline: 1}, 1, 5, true},
		{"a backup that ended before the switch", ancestry(), 2, 150, true},
		{"a backup that ended at the switch", ancestry(), 2, 200, true},
		{"a backup that ended after the switch", ancestry(), 2, 201, false},
		{"a backup on the timeline itself", ancestry(), 7, 1000, true},
		{"a backup on another branch", ancestry(), 3, 150, false},
		{"a backup on a later timeline", ancestry(), 8, 1000, false},
		{"no timeline", ancestry(), 0, 50, false},
		{"a backup said to have ended before its timeline began", ancestry(), 5, 150, false},
		{"a backup on 1 that ended after a detour left it", detour(), 1, 90, false},
		{"a backup on 1 that ended where a detour left it", detour(), 1, 80, true},
		{"a backup on the timeline that a detour never reached", detour(), 2, 90, false},
	} {
		if got := c.h.Contains(c.tli, c.lsn); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBegin(t *testing.T) {
	if got := ancestry().Begin(); got != 300 {
		t.Errorf("timeline 7 begins at %d, want 300", got)
	}
	if got := (History{Timeline: 1}).Begin(); got != 0 {
		t.Errorf("timeline 1 begins at %d, want 0", got)
	}
}

func FuzzParseHistory(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		f.Add(uint32(2), sample(f, major, "00000002.history"), uint64(1))
	}
	f.Add(uint32(9), []byte("#x\n1 0/A why\n 3\tFFFFFFFF/FFFFFFFF\n"), uint64(0xA))
	f.Fuzz(func(t *testing.T, tli uint32, data []byte, at uint64) {
		h, err := ParseHistory(Timeline(tli), data)
		if err != nil {
			return
		}
		on := h.TimelineAt(LSN(at))
		if on == 0 || on > h.Timeline {
			t.Errorf("byte %d is on timeline %d in %+v", at, on, h)
		}
		if at < 1<<64-1 && !h.Contains(on, LSN(at)+1) {
			t.Errorf("byte %d is on timeline %d, but a backup that ends with it is not", at, on)
		}
	})
}
