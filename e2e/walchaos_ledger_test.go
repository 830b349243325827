package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/repo"
)

// readDropped learns from the repositories what was dropped. That it was, and that nothing
// else was, shows in the contents.
func (c *chaos) readDropped(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	c.dropped, c.shown = map[string]bool{}, map[string]map[string]bool{}
	for _, repository := range chaosRepositories {
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
			if !c.means.queueMax {
				t.Errorf("%s: %+v without queue-max", repository, e)
			}
			for n := segmentNumber(t, e.First); n <= segmentNumber(t, e.Last); n++ {
				name := segmentCalled(uint32(e.Timeline), n)
				c.dropped[name] = true
				if f := contents[name]; f == nil {
					t.Errorf("%s was dropped, which no server had", name)
				}
			}
		}
	}
	c.counts["segments dropped"] += len(c.dropped)
}

// checkLedger compares the ledger's gaps with those that follow from the segments
// that are shown (which were compared with the truth) and the servers' own histories.
func (c *chaos) checkLedger(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	for _, repository := range chaosRepositories {
		s := c.openStanza(t, repository)
		catalog, err := s.Catalog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ledger := archive.NewLedger(catalog, 0).Identities[0]
		got := map[string]archive.Standing{}
		for _, g := range ledger.Gaps {
			for n := g.First; n <= g.Last; n++ {
				got[segmentCalled(uint32(g.Timeline), n)] = g.Standing
			}
		}
		want := c.gaps(t, repository, contents)
		for name := range want {
			if got[name] == "" {
				t.Errorf("%s: the ledger does not tell that %s is missing", repository, name)
			}
		}
		for name, standing := range got {
			if !want[name] {
				t.Errorf("%s: the ledger tells of the gap %s (%s), the truth does not", repository, name, standing)
			}
			if c.dropped[name] != slices.ContainsFunc(ledger.Gaps, func(g archive.Gap) bool { return g.IsDropped && c.holds(g, name) }) {
				t.Errorf("%s: that %s was dropped is %v, the ledger says otherwise", repository, name, c.dropped[name])
			}
			c.counts["segments missing, "+string(standing)]++
		}
		if t.Failed() {
			t.Logf("%s: gaps %+v, want %v", repository, ledger.Gaps, slices.Sorted(maps.Keys(want)))
		}
		c.checkConflicts(t, repository, ledger)
	}
}

func (c *chaos) holds(g archive.Gap, name string) bool {
	for n := g.First; n <= g.Last; n++ {
		if segmentCalled(uint32(g.Timeline), n) == name {
			return true
		}
	}
	return false
}

// gaps are the segments that are missing between the first one and the last one of each
// timeline, and from there to where the next timelines began.
func (c *chaos) gaps(t *testing.T, repository string, contents map[string]*walContents) map[string]bool {
	t.Helper()
	const segment = 1 << 20
	first, last := map[uint32]uint64{}, map[uint32]uint64{}
	see := func(timeline uint32, n uint64) {
		if old, ok := first[timeline]; !ok || n < old {
			first[timeline] = n
		}
		last[timeline] = max(last[timeline], n)
	}
	for name := range c.shown[repository] {
		var timeline uint32
		if _, err := fmt.Sscanf(name[:8], "%X", &timeline); err != nil {
			t.Fatal(err)
		}
		see(timeline, segmentNumber(t, name))
	}
	// What leads over to a timeline: its parents up to where it begins, and its own first segment.
	for name, f := range contents {
		if !strings.HasSuffix(name, ".history") || len(f.acknowledged) == 0 {
			continue
		}
		var timeline uint32
		if _, err := fmt.Sscanf(name[:8], "%X", &timeline); err != nil {
			t.Fatal(err)
		}
		b, err := readBranch(timeline, slices.Collect(maps.Values(f.acknowledged))[0])
		if err != nil {
			t.Fatal(err)
		}
		way := b.way()
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
	for timeline := range first {
		for n := first[timeline]; n <= last[timeline]; n++ {
			if name := segmentCalled(timeline, n); !c.shown[repository][name] {
				missing[name] = true
			}
		}
	}
	return missing
}

// checkConflicts wants an event for each file that archive-push has refused.
func (c *chaos) checkConflicts(t *testing.T, repository string, ledger archive.IdentityLedger) {
	t.Helper()
	told := map[string]bool{}
	for _, e := range ledger.Conflicts {
		told[e.First] = true
	}
	for _, line := range c.truth.log(t, "pushed") {
		if line[1] == "10" && !told[line[0]] {
			t.Errorf("%s was refused, and the ledger of %s does not tell", line[0], repository)
		}
	}
}
