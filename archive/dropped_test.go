package archive

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func dropOf(first, last string, places ...string) droppedRange {
	return droppedRange{First: first, Last: last, SegmentSize: segmentSize, SystemID: 7, Time: clock().Unix(), Places: places}
}

// An event says of a range what is lost: not one segment more, and of no other cluster.
func TestARangeOfDroppedSegmentsGrowsByTheNextOneOnly(t *testing.T) {
	for title, c := range map[string]struct {
		segment int
		change  func(d, next *droppedRange)
		taken   bool
		last    int
	}{
		"the next":                      {5, nil, true, 5},
		"the one behind that":           {6, nil, false, 4},
		"the one before":                {1, nil, false, 4},
		"the first again":               {2, nil, true, 4},
		"one amid them again":           {3, nil, true, 4},
		"the last again":                {4, nil, true, 4},
		"of another timeline":           {5, func(_, next *droppedRange) { next.First = "00000002" + next.First[8:] }, false, 4},
		"amid them on another timeline": {3, func(_, next *droppedRange) { next.First = "00000002" + next.First[8:] }, false, 4},
		"of another cluster":            {5, func(_, next *droppedRange) { next.SystemID = 8 }, false, 4},
		"amid them of another cluster":  {3, func(_, next *droppedRange) { next.SystemID = 8 }, false, 4},
		"of another segment size":       {5, func(_, next *droppedRange) { next.SegmentSize *= 2 }, false, 4},
		"that others lack":              {5, func(_, next *droppedRange) { next.Places = []string{"a"} }, false, 4},
		"behind an event":               {5, func(d, _ *droppedRange) { d.Begun = true }, false, 4},
		"in an event already":           {3, func(d, _ *droppedRange) { d.Begun = true }, true, 4},
		"that is no segment":            {5, func(_, next *droppedRange) { next.First = "x" }, false, 4},
		"behind what is no segment":     {5, func(d, _ *droppedRange) { d.First = "x" }, false, 4},
	} {
		t.Run(title, func(t *testing.T) {
			d, next := dropOf(segmentNumber(2), segmentNumber(4), "a", "b"), dropOf(segmentNumber(c.segment), segmentNumber(c.segment), "a", "b")
			if c.change != nil {
				c.change(&d, &next)
			}
			if taken := d.extend(next); taken != c.taken || d.Last != segmentNumber(c.last) {
				t.Errorf("taken: %t, and the range ends with %s", taken, d.Last)
			}
		})
	}
}

func TestTheJournalForgetsWhatEveryRepositoryKnows(t *testing.T) {
	begun := func(d droppedRange) droppedRange { d.Begun = true; return d }
	since := func(d droppedRange, age time.Duration) droppedRange { d.Time = clock().Add(-age).Unix(); return d }
	j := droppedRanges{Ranges: []droppedRange{
		begun(dropOf(segmentNumber(1), segmentNumber(2), "a", "b")), // one knows it now
		begun(dropOf(segmentNumber(3), segmentNumber(4), "a")),      // the only one that lacked it
		dropOf(segmentNumber(5), segmentNumber(6), "a"),             // it has grown since
		begun(dropOf(segmentNumber(7), segmentNumber(8), "unknown")),
		since(dropOf(segmentNumber(9), segmentNumber(9), "a", "unknown"), unknownAge+time.Second),
		since(dropOf(segmentNumber(10), segmentNumber(10), "a", "unknown"), unknownAge),
		since(dropOf(segmentNumber(12), segmentNumber(12), "unknown"), unknownAge+time.Second),
	}}
	done := map[string][]string{}
	for _, n := range []int{1, 3, 5} {
		done[segmentNumber(n)] = []string{"a"}
	}
	j.forget(done, []string{"a", "b"}, clock())
	var left []string
	for _, d := range j.Ranges {
		left = append(left, d.First[23:]+" "+strings.Join(d.Places, "+"))
	}
	if want := []string{"1 b", "5 a", "7 unknown", "9 a", "A a+unknown"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}
