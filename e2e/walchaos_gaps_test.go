package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo"
)

// readDropped learns from the repositories, and from the journals of servers that cannot tell them any more,
// what was dropped. That it was, and that nothing else was, shows in the contents.
func (c *chaos) readDropped(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	c.dropped, c.told, c.shown = map[string]bool{}, map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, repository := range chaosRepositories {
		c.told[repository] = map[string]bool{}
		s := c.openStanza(t, repository)
		events, err := s.WALEvents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			c.counts["events "+string(e.Kind)+" in "+repository]++
			if e.Kind != repo.WALDropped {
				continue
			}
			for _, name := range segmentsFrom(t, e.First, e.Last) {
				c.told[repository][name], c.dropped[name] = true, true
			}
		}
	}
	c.counts["segments dropped"] += len(c.dropped)
	c.untold = c.droppedUntold(t)
	for name := range c.untold {
		c.dropped[name] = true
	}
	c.counts["segments dropped by servers that could not tell"] += len(c.untold)
	for name := range c.dropped {
		switch f := contents[name]; {
		case !c.means.queueMax:
			t.Errorf("%s was dropped without queue-max", name)
		case f == nil:
			t.Errorf("%s was dropped, which no server had", name)
		}
	}
}

// droppedUntold is what servers other than the primary have dropped, and no run of theirs has recorded in all
// repositories.
func (c *chaos) droppedUntold(t *testing.T) map[string]bool {
	t.Helper()
	untold := map[string]bool{}
	for _, n := range c.nodes {
		if n == c.primary {
			continue
		}
		err := filepath.WalkDir(filepath.Join(n.dir, "spool"), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.Name() != "dropped" {
				return err
			}
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			var journal struct {
				Ranges []struct{ First, Last string }
			}
			err = json.NewDecoder(file).Decode(&journal) // behind it is a checksum
			for _, r := range journal.Ranges {
				for _, name := range segmentsFrom(t, r.First, r.Last) {
					untold[name] = true
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return untold
}

// segmentsFrom are the names of segments of one timeline.
func segmentsFrom(t *testing.T, first, last string) []string {
	t.Helper()
	var names []string
	for n := segmentNumber(t, first); n <= segmentNumber(t, last); n++ {
		names = append(names, segmentCalled(timelineOf(t, first), n))
	}
	return names
}

func timelineOf(t *testing.T, name string) (timeline uint32) {
	t.Helper()
	if _, err := fmt.Sscanf(name[:8], "%X", &timeline); err != nil {
		t.Fatal(err)
	}
	return timeline
}

// gaps are the missing segments with what they mean to the primary: "closed" if a backup lies behind them, "aside" if
// the way to it does not lead over them, "open" else.
func (c *chaos) gaps(t *testing.T, repository string, contents map[string]*walContents) map[string]string {
	t.Helper()
	const segment = 1 << 20
	way, closer := c.primary.branch.way(), uint64(0)
	for _, b := range c.backups {
		onWay := slices.ContainsFunc(way, func(s stretch) bool { return s.branch == b.branch && uint64(b.Stop.LSN) <= s.end })
		if b.repository == repository && onWay && c.walOn(b.branch.way(), uint64(b.Start.LSN), uint64(b.Stop.LSN)-1, c.shown[repository], contents) != "no" {
			closer = max(closer, uint64(b.Start.LSN)/segment)
		}
	}
	gaps := map[string]string{}
	for name := range c.missing(t, repository, contents) {
		switch n := segmentNumber(t, name); {
		case timelineAt(way, n) != timelineOf(t, name):
			gaps[name] = "aside"
		case closer > n:
			gaps[name] = "closed"
		default:
			gaps[name] = "open"
		}
	}
	return gaps
}

// missing are the segments that are not there between the first one and the last one of each timeline, and from
// there to where the next timelines began, and those that archive-push gave up: it is for a repository that they
// were dropped, whether anything came behind them or not.
func (c *chaos) missing(t *testing.T, repository string, contents map[string]*walContents) map[string]bool {
	t.Helper()
	const segment = 1 << 20
	begin, first, last := map[uint32]uint64{}, map[uint32]uint64{}, map[uint32]uint64{}
	see := func(timeline uint32, n uint64) {
		if old, ok := first[timeline]; !ok || n < old {
			first[timeline] = n
		}
		last[timeline] = max(last[timeline], n)
	}
	for name := range c.shown[repository] {
		see(timelineOf(t, name), segmentNumber(t, name))
	}
	// What leads over to a timeline: its parents up to where it begins, and its own from there on.
	for name, f := range contents {
		if !strings.HasSuffix(name, ".history") || len(f.acknowledged) == 0 {
			continue
		}
		timeline := timelineOf(t, name)
		b, err := readBranch(timeline, slices.Collect(maps.Values(f.acknowledged))[0])
		if err != nil {
			t.Fatal(err)
		}
		way := b.way()
		begin[timeline] = way[len(way)-1].begin / segment
		for i, s := range way[:len(way)-1] {
			from, to := s.begin/segment, s.end/segment
			if s.end <= s.begin || to == from {
				continue
			}
			if i > 0 { // of timeline 1 nobody knows where archiving began
				see(s.timeline, from)
			}
			if _, ok := first[s.timeline]; ok {
				see(s.timeline, to-1)
			}
		}
	}
	missing := map[string]bool{}
	for timeline := range begin {
		if _, ok := first[timeline]; ok {
			see(timeline, begin[timeline])
		}
	}
	for timeline := range first {
		for n := first[timeline]; n <= last[timeline]; n++ {
			if name := segmentCalled(timeline, n); !c.shown[repository][name] {
				missing[name] = true
			}
		}
	}
	for name := range c.told[repository] {
		if !c.shown[repository][name] {
			missing[name] = true
		}
	}
	return missing
}
