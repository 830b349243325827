package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
)

// TestTheTruthAboutGaps is the judge of TestWALChaos before the court: timeline 2 left
// timeline 1 in the middle of segment 8, and is the primary's.
func TestTheTruthAboutGaps(t *testing.T) {
	dir := t.TempDir()
	history := filepath.Join(dir, "history")
	if err := os.WriteFile(history, []byte("1\t0/880000\tno recovery target specified\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	primary, err := readBranch(2, history)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		title, shown, told, backups, want string
	}{
		{"nothing is missing", "1:3-8 2:8-12", "", "", ""},
		{"amid a timeline", "1:3-8 2:8-9 2:11-12", "", "", "2:10 open"},
		{"a backup lies behind it", "1:3-8 2:8-9 2:11-12", "", "2:11", "2:10 closed"},
		{"a backup without its own WAL", "1:3-8 2:8-9 2:11-12 2:14-14", "", "2:13", "2:10 open; 2:13 open"},
		{"what the old primary took with it", "1:3-5 2:8-12", "", "", "1:6 open; 1:7 open"},
		{"what the new one has not archived", "1:3-8 2:10-12", "", "", "2:8 open; 2:9 open"},
		{"the old one went on, with a gap", "1:3-8 1:10-10 2:8-12", "", "", "1:9 aside"},
		{"the newest WAL was dropped", "1:3-8 2:8-12", "2:13-14", "", "2:13 open; 2:14 open"},
		{"an old primary dropped the last that it wrote", "1:3-8 2:8-12", "1:9-11", "", "1:10 aside; 1:11 aside; 1:9 aside"},
		{"a dropped segment came from elsewhere", "1:3-8 2:8-12", "1:7-8", "", ""},
		{"all of a timeline was dropped", "1:3-8", "2:8-9", "", "2:8 open; 2:9 open"},
	} {
		in := &chaos{primary: &chaosNode{branch: primary}, shown: map[string]map[string]bool{"local": spelled(t, c.shown)}, told: map[string]map[string]bool{"local": spelled(t, c.told)}}
		contents := map[string]*walContents{"00000002.history": {acknowledged: map[[32]byte]string{{}: history}}}
		for name := range in.shown["local"] {
			contents[name] = &walContents{acknowledged: map[[32]byte]string{{}: ""}}
		}
		for name := range spelled(t, c.backups) {
			b := chaosBackup{repository: "local", branch: primary}
			b.Start.LSN, b.Stop.LSN = postgres.LSN(segmentNumber(t, name)<<20+40), postgres.LSN(segmentNumber(t, name)<<20+400)
			in.backups = append(in.backups, b)
		}
		var got []string
		for name, status := range in.gaps(t, "local", contents) {
			got = append(got, fmt.Sprintf("%d:%d %s", timelineOf(t, name), segmentNumber(t, name), status))
		}
		slices.Sort(got)
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %q, want %q", c.title, text, c.want)
		}
	}
}

// spelled gives the segments of a text such as "1:3-8 2:8-12".
func spelled(t *testing.T, text string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, word := range strings.Fields(text) {
		var timeline uint32
		var first, last uint64
		if n, _ := fmt.Sscanf(word, "%d:%d-%d", &timeline, &first, &last); n == 2 {
			last = first
		}
		for n := first; n <= last; n++ {
			names[segmentCalled(timeline, n)] = true
		}
	}
	return names
}
