package archive

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
)

// history is that of tli: the parents and the position, in segments, at which each was left.
func history(tli postgres.Timeline, left ...any) postgres.History {
	h := postgres.History{Timeline: tli}
	for i := 0; i < len(left); i += 2 {
		h.Entries = append(h.Entries, postgres.HistoryEntry{Timeline: postgres.Timeline(left[i].(int)),
			Switch: postgres.LSN(left[i+1].(float64) * segmentSize)})
	}
	return h
}

func TestWhatRecoveryMayAskForNext(t *testing.T) {
	two := history(2, 1, 7.5)
	three := history(3, 1, 7.5, 2, 8.5)
	for _, test := range []struct {
		title     string
		asked     postgres.WALFile
		histories []postgres.History
		ends      map[postgres.Timeline]uint64
		want      string
	}{
		{"one timeline", run(1, 5, 5)[0], nil, nil, "1/6 1/7 1/8 1/9 1/10"},
		{"its end was found", run(1, 5, 5)[0], nil, map[postgres.Timeline]uint64{1: 8}, "1/6 1/7"},
		{"a child begins within", run(1, 5, 5)[0], []postgres.History{two}, nil, "1/6 2/7 1/7 2/8 1/8"},
		{"and the parent ended there", run(1, 5, 5)[0], []postgres.History{two}, map[postgres.Timeline]uint64{1: 7}, "1/6 2/7 2/8 2/9 2/10"},
		{"a child begins beyond", run(1, 1, 1)[0], []postgres.History{two}, nil, "1/2 1/3 1/4 1/5 1/6"},
		{"a child has left before", run(1, 8, 8)[0], []postgres.History{two}, nil, "1/9 1/10 1/11 1/12 1/13"},
		{"a child begins exactly between", run(1, 5, 5)[0], []postgres.History{history(2, 1, 7.0)}, nil, "1/6 2/7 1/7 2/8 1/8"},
		{"a grandchild too", run(1, 6, 6)[0], []postgres.History{two, three}, nil, "2/7 1/7 3/8 2/8 1/8"},
		{"on the child", run(2, 7, 7)[0], []postgres.History{two, three}, nil, "3/8 2/8 3/9 2/9 3/10"},
		{"two children", run(1, 6, 6)[0], []postgres.History{two, history(4, 1, 6.5)}, nil, "4/7 2/7 1/7 4/8 2/8"},
		{"a stranger's child", run(3, 6, 6)[0], []postgres.History{two, history(5, 1, 7.0)}, nil, "3/7 3/8 3/9 3/10 3/11"},
		{"one whose history could not be read", run(1, 5, 5)[0], []postgres.History{{}}, nil, "1/6 1/7 1/8 1/9 1/10"},
	} {
		h := horizon{asked: test.asked, segmentSize: segmentSize, histories: test.histories, ends: test.ends}
		var got []string
		for _, f := range h.next(5) {
			got = append(got, fmt.Sprintf("%d/%d", f.Timeline, f.Segment))
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("%s: %s, want %s", test.title, s, test.want)
		}
	}
}

// TestThroughATimelineSwitch has recovery follow timeline 2, which begins in segment 5,
// and then not follow it.
func TestThroughATimelineSwitch(t *testing.T) {
	all := append(run(1, 1, 8), run(2, 5, 9)...)
	for _, follows := range []postgres.Timeline{2, 1} {
		r := newRecovery(t, all...)
		text := "1\t" + postgres.LSN(5*segmentSize+100).String() + "\tno recovery target specified\n"
		if _, err := pushContent(t, r.stanza, "00000002.history", []byte(text)); err != nil {
			t.Fatal(err)
		}
		r.mustGet(t, walFileOf(1))
		defer r.prefetch(t)()
		for n := uint64(2); n <= 8; n++ {
			f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n}
			if n >= 5 {
				f.Timeline = follows
			}
			eventually(t, func() error {
				if q, err := r.queue.find(f); q == nil || err != nil {
					return errors.Join(os.ErrNotExist, err)
				}
				return nil
			})
			if ahead, _ := r.mustGet(t, f); !ahead {
				t.Errorf("%v was not ahead", f)
			}
			if files, err := r.queue.files(); err != nil || len(files) > queueLength {
				t.Errorf("%d files are in the queue, %v", len(files), err)
			}
		}
	}
}
