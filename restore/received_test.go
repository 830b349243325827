package restore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/internal/waltest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// receivedCase is a backup whose WAL, segments 2 and 3, is archived, and a directory
// of received WAL.
type receivedCase struct {
	*testing.T
	store   *mem.Store
	stanza  *repo.Stanza
	wal     *waltest.WAL
	dir     string
	entries []entry
}

func newReceivedCase(t *testing.T) *receivedCase {
	t.Helper()
	st := mem.New()
	c := &receivedCase{T: t, store: st, stanza: testStanza(t, st), wal: waltest.New(7_400_000_000_000_000_001, 0x200000).To(0x800000), dir: t.TempDir(), entries: cluster()}
	c.archive(1, 2, c.wal.Whole(2))
	c.archive(1, 3, c.wal.Whole(3))
	storeBackup(t, c.stanza, c.entries, repo.BackupHeader{Timeline: 1, Start: repo.BackupPoint{Time: clock(1), LSN: 0x200028},
		Stop: repo.BackupPoint{Time: clock(2), LSN: 0x300100}})
	c.claim(received.Identity{Stanza: "main", SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: smallWAL})
	return c
}

func (c *receivedCase) claim(id received.Identity) {
	c.Helper()
	d, err := received.Open(c.dir, received.OS{})
	if err == nil {
		err = errors.Join(d.Claim(id), d.Close())
	}
	if err != nil {
		c.Fatal(err)
	}
}

func (c *receivedCase) archive(tli postgres.Timeline, n uint64, content []byte) {
	c.Helper()
	f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n}
	if _, err := c.stanza.PutWAL(c.Context(), c.stanza.Current(), f, repo.NewWALContent(storage.Bytes(content))); err != nil {
		c.Fatal(err)
	}
}

func (c *receivedCase) archiveHistory(tli postgres.Timeline, content string) {
	c.Helper()
	f := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}
	if _, err := c.stanza.PutWAL(c.Context(), c.stanza.Current(), f, repo.NewWALContent(storage.Bytes([]byte(content)))); err != nil {
		c.Fatal(err)
	}
}

// receive puts a file into the directory of received WAL.
func (c *receivedCase) receive(name string, content []byte) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
		c.Fatal(err)
	}
}

func (c *receivedCase) options(target Target) Options {
	c.Helper()
	d, err := received.OpenToRead(c.dir)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { d.Close() })
	o := options(c.stanza, filepath.Join(c.TempDir(), "data"))
	o.Target, o.Received = target, d
	return o
}

func (c *receivedCase) planTo(target Target) *Plan {
	c.Helper()
	p, err := MakePlan(c.Context(), c.options(target))
	if err != nil {
		c.Fatalf("%v, hint %q", err, hint.Of(err))
	}
	return p
}

func (c *receivedCase) plan() *Plan {
	c.Helper()
	return c.planTo(Target{Type: TargetLatest})
}

// restored restores the end of the WAL and gives the directory.
func (c *receivedCase) restored() (*Plan, string) {
	c.Helper()
	o := c.options(Target{Type: TargetLatest})
	p, err := MakePlan(c.Context(), o)
	if err != nil {
		c.Fatalf("%v, hint %q", err, hint.Of(err))
	}
	if _, err := Run(c.Context(), o); err != nil {
		c.Fatal(err)
	}
	checkTree(c.T, o.TargetDir, c.entries)
	return p, o.TargetDir
}

// refused wants a plan to be refused, with these words in the error and its hint.
func (c *receivedCase) refused(words ...string) {
	c.Helper()
	_, err := MakePlan(c.Context(), c.options(Target{Type: TargetLatest}))
	if !errors.Is(err, ErrUnreachable) {
		c.Fatalf("error %v, want one that is: %v", err, ErrUnreachable)
	}
	for _, w := range append(words, "the received WAL cannot be used") {
		if said := err.Error() + " hint: " + hint.Of(err); !strings.Contains(said, w) {
			c.Errorf("%q does not say %q", said, w)
		}
	}
}

// takes compares what a plan takes from the directory.
func (c *receivedCase) takes(p *Plan, first, last string, files int, end postgres.LSN) {
	c.Helper()
	r := p.Received
	if r == nil || r.First != first || r.Last != last || r.Files != files || r.End != end || r.Directory != c.dir {
		c.Errorf("received %+v, want %s to %s, %d files, up to %s", r, first, last, files, end)
	}
}

// warns wants these words in one warning, not in two; "" for no warning at all.
func (c *receivedCase) warns(p *Plan, words string) {
	c.Helper()
	n := 0
	for _, w := range p.Warnings {
		if strings.Contains(w, words) {
			n++
		}
	}
	if words == "" && n > 0 || words != "" && n != 1 {
		c.Errorf("warnings %q, want one: %q", p.Warnings, words)
	}
}

// inPgWAL compares a file of the restored pg_wal; nil: it is not there.
func (c *receivedCase) inPgWAL(dir, name string, want []byte) {
	c.Helper()
	path := filepath.Join(dir, "pg_wal", name)
	got, err := os.ReadFile(path)
	if want == nil {
		if !errors.Is(err, os.ErrNotExist) {
			c.Errorf("%s is in pg_wal, or it is not known: %v", name, err)
		}
		return
	}
	if err != nil || !bytes.Equal(got, want) {
		c.Errorf("%s has %d bytes, want %d, or others (%v)", name, len(got), len(want), err)
		return
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		c.Errorf("%s: mode %v (%v)", name, info.Mode(), err)
	}
}

// padded is a segment whose rest is zeros.
func padded(content []byte) []byte {
	return append(slices.Clone(content), make([]byte, smallWAL-len(content))...)
}

const (
	segment3, segment4, segment5 = "000000010000000000000003", "000000010000000000000004", "000000010000000000000005"
)

func TestReceivedWALIsPutBehindTheArchive(t *testing.T) {
	c := newReceivedCase(t)
	part := c.wal.Segment(5, 0x580010)
	c.receive(segment3, c.wal.Whole(3))
	c.receive(segment4, c.wal.Whole(4))
	c.receive(segment5+".partial", part)
	p, dir := c.restored()
	end := c.wal.ValidTo(0x580010)
	c.takes(p, segment4, segment5+".partial", 2, end)
	c.warns(p, "")
	if p.Reachable.To.LSN != end || p.WAL.Last != segment5 {
		t.Errorf("reachable to %s by %s, want %s", p.Reachable.To.LSN, p.WAL.Last, end)
	}
	if want := segment4 + " to " + segment5 + ".partial from " + c.dir + ", up to " + end.String() + ", into pg_wal"; p.Received.String() != want {
		t.Errorf("it says %q, want %q", p.Received, want)
	}
	c.inPgWAL(dir, segment3, nil)
	c.inPgWAL(dir, segment4, c.wal.Whole(4))
	c.inPgWAL(dir, segment5, padded(part))
	c.inPgWAL(dir, segment5+".partial", nil)
}

func TestOnlyTheReceivedWALThatIsNeededIsTaken(t *testing.T) {
	c := newReceivedCase(t)
	c.receive(segment4, c.wal.Whole(4))
	c.receive(segment5+".partial", c.wal.Segment(5, 0x580010))
	p := c.planTo(Target{Type: TargetLSN, LSN: 0x480000})
	c.takes(p, segment4, segment4, 1, 0x500000) // not further, though the record at its end goes on in the next
	if want := postgres.LSN(0x600000); p.Reachable.To.LSN != want {
		t.Errorf("reachable to %s, want %s", p.Reachable.To.LSN, want)
	}
	p = c.planTo(Target{Type: TargetLSN, LSN: 0x380000})
	c.takes(p, "", "", 0, 0)
	if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "the archive has all the WAL that is needed") }) {
		t.Errorf("notes %q", p.Notes)
	}
}

func TestReceivedWALBehindAHoleIsNotReached(t *testing.T) {
	c := newReceivedCase(t)
	c.receive(segment5, c.wal.Whole(5))
	p := c.plan()
	c.takes(p, "", "", 0, 0)
	if p.WAL.Last != segment3 {
		t.Errorf("the plan goes to %s", p.WAL.Last)
	}
	// With segment 4 in the archive the row is whole.
	c.archive(1, 4, c.wal.Whole(4))
	c.takes(c.plan(), segment5, segment5, 1, c.wal.ValidTo(0x600000))
}

func TestAPartialSegmentDoesNotStandForAWholeOne(t *testing.T) {
	c := newReceivedCase(t)
	c.receive(segment4, c.wal.Whole(4))
	c.receive(segment4+".partial", c.wal.Segment(4, 0x480000))
	c.takes(c.plan(), segment4, segment4, 1, c.wal.ValidTo(0x500000))
}

func TestReceivedWALOfAnotherClusterIsRefused(t *testing.T) {
	for title, id := range map[string]received.Identity{
		"system identifier": {Stanza: "main", SystemID: 7, Major: 18, SegmentSize: smallWAL},
		"major":             {Stanza: "main", SystemID: 7_400_000_000_000_000_001, Major: 17, SegmentSize: smallWAL},
		"segment size":      {Stanza: "main", SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: 2 * smallWAL},
	} {
		t.Run(title, func(t *testing.T) {
			c := newReceivedCase(t)
			c.dir = t.TempDir()
			c.claim(id)
			c.refused("holds WAL of another cluster", "name the directory in which this cluster's WAL was received")
		})
	}
	c := newReceivedCase(t)
	if err := os.Remove(filepath.Join(c.dir, "receiver.json")); err != nil {
		t.Fatal(err)
	}
	c.refused("receiver.json", "name the directory of archive-receive")
}

func TestDamagedReceivedWAL(t *testing.T) {
	wrong := func(c *receivedCase) []byte {
		b := c.wal.Whole(4)
		b[24]++ // of the system identifier
		return b
	}
	t.Run("a whole segment is refused", func(t *testing.T) {
		c := newReceivedCase(t)
		c.receive(segment4, wrong(c))
		c.refused(segment4, "it is of system identifier", "the file is damaged: leave --received out")
	})
	t.Run("a partial one is what a crash left", func(t *testing.T) {
		c := newReceivedCase(t)
		c.receive(segment4+".partial", wrong(c))
		c.takes(c.plan(), "", "", 0, 0)
		c.receive(segment4+".partial", c.wal.Segment(4, 0x400010))
		c.takes(c.plan(), "", "", 0, 0)
		c.receive(segment4+".partial", nil)
		c.takes(c.plan(), "", "", 0, 0)
	})
	t.Run("a whole segment is not short", func(t *testing.T) {
		c := newReceivedCase(t)
		for size, words := range map[int]string{10: "unexpected EOF", 8192: segment4 + " has 8192 bytes"} {
			c.receive(segment4, c.wal.Whole(4)[:size])
			if _, err := MakePlan(t.Context(), c.options(Target{Type: TargetLatest})); err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%d bytes: %v, want %q", size, err, words)
			}
		}
	})
	t.Run("the WAL ends before the last segment", func(t *testing.T) {
		c := newReceivedCase(t)
		torn := c.wal.Whole(4)
		clear(torn[0x80000:])
		c.receive(segment4, torn)
		c.receive(segment5, c.wal.Whole(5))
		p := c.plan()
		end := c.wal.ValidTo(0x480000)
		c.takes(p, segment4, segment5, 2, end)
		c.warns(p, "the valid WAL ends at "+end.String()+", though "+segment5+" was received too")
		if p.Reachable.To.LSN != end {
			t.Errorf("reachable to %s, want %s", p.Reachable.To.LSN, end)
		}
	})
}

// What both have must be the same, as far as it is valid WAL.
func TestReceivedWALThatContradictsTheArchiveIsRefused(t *testing.T) {
	c := newReceivedCase(t)
	part := c.wal.Segment(3, 0x380000)
	valid := int(c.wal.ValidTo(0x380000) - 0x300000)
	copy(part[valid:], "remains of a crash")
	for _, name := range []string{segment3 + ".partial", segment3} {
		c.receive(name, part)
		c.warns(c.plan(), "")
	}
	other := c.wal.Branch(1, c.wal.ValidTo(0x340000))
	other.Diverge().To(0x400000)
	c.receive(segment3, other.Whole(3))
	c.warns(c.plan(), "") // a partial segment is behind it
	if err := os.Remove(filepath.Join(c.dir, segment3+".partial")); err != nil {
		t.Fatal(err)
	}
	c.refused(segment3+" holds other WAL than the archive has under that name", "two servers have written the same segment")
	c.receive(segment3+".partial", other.Segment(3, 0x380000))
	c.refused(segment3 + ".partial holds other WAL than the archive has under that name")

	for key, err := range c.store.List(t.Context(), "wal/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(key.Key, segment3) {
			if err := errors.Join(c.store.Delete(t.Context(), key.Key), c.store.Put(t.Context(), key.Key, storage.Bytes([]byte("torn")), storage.PutOptions{})); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.warns(c.plan(), "whether "+filepath.Join(c.dir, segment3+".partial")+" is the same as the archived one is not known")
}

// fork is a timeline 2 that begins within segment 5, and its history file.
func (c *receivedCase) fork() (w *waltest.WAL, at postgres.LSN, history string) {
	at = c.wal.ValidTo(0x540000)
	return c.wal.Branch(2, at).To(0x800000), at, fmt.Sprintf("1\t%s\tno recovery target specified\n", at)
}

const (
	history2    = "00000002.history"
	on2segment5 = "000000020000000000000005"
	on2segment6 = "000000020000000000000006"
)

func TestATimelineThatWasReceivedIsFollowed(t *testing.T) {
	c := newReceivedCase(t)
	w, at, history := c.fork()
	c.receive(segment4, c.wal.Whole(4))
	c.receive(segment5+".partial", c.wal.Segment(5, 0x580000))
	c.receive(history2, []byte(history))
	c.receive(on2segment5, w.Whole(5))
	c.receive(on2segment6+".partial", w.Segment(6, 0x650000))
	p, dir := c.restored()
	c.takes(p, segment4, on2segment6+".partial", 4, w.ValidTo(0x650000))
	c.warns(p, "")
	if len(p.Timelines) != 2 || p.Timelines[1].Begin != at {
		t.Errorf("timelines %+v", p.Timelines)
	}
	c.inPgWAL(dir, history2, []byte(history))
	c.inPgWAL(dir, segment4, c.wal.Whole(4))
	c.inPgWAL(dir, segment5, nil)
	c.inPgWAL(dir, on2segment5, w.Whole(5))
	c.inPgWAL(dir, on2segment6, padded(w.Segment(6, 0x650000)))
}

// Behind a promotion the segment of the switch point is received again, from its
// first byte. Until that is done what was acknowledged is under the old name only.
func TestASegmentThatIsReceivedAgainLosesNothing(t *testing.T) {
	for title, further := range map[string]postgres.LSN{"not yet as far as before": 0x520000, "only its beginning": 0x500010, "as far as the switch point": 0, "further": 0x560000} {
		t.Run(title, func(t *testing.T) {
			c := newReceivedCase(t)
			w, at, history := c.fork()
			if further == 0 {
				further = at
			}
			c.receive(segment4, c.wal.Whole(4))
			c.receive(segment5+".partial", c.wal.Segment(5, 0x580000)) // beyond the switch point
			c.receive(history2, []byte(history))
			c.receive(on2segment5+".partial", w.Segment(5, further))
			want := w.Segment(5, max(at, further))
			p, dir := c.restored()
			last := segment5
			if further >= at {
				last = on2segment5
			}
			c.takes(p, segment4, last+".partial", 3, w.ValidTo(max(at, further)))
			c.inPgWAL(dir, on2segment5, padded(want))
			c.inPgWAL(dir, segment5, nil)
		})
	}
	t.Run("and is archived under the old name", func(t *testing.T) {
		c := newReceivedCase(t)
		w, at, history := c.fork()
		c.archive(1, 4, c.wal.Whole(4))
		c.archive(1, 5, c.wal.Whole(5))
		c.receive(history2, []byte(history))
		c.receive(on2segment5+".partial", w.Segment(5, 0x520000))
		_, dir := c.restored()
		c.inPgWAL(dir, on2segment5, nil) // recovery prefers it to the archived one
		c.receive(on2segment5+".partial", w.Segment(5, at))
		_, dir = c.restored()
		c.inPgWAL(dir, on2segment5, padded(w.Segment(5, at)))
	})
	t.Run("and is archived under the new name", func(t *testing.T) {
		c := newReceivedCase(t)
		w, _, history := c.fork()
		c.archive(1, 4, c.wal.Whole(4))
		c.archiveHistory(2, history)
		c.archive(2, 5, w.Whole(5))
		c.receive(segment5+".partial", c.wal.Segment(5, 0x520000))
		p, dir := c.restored()
		c.takes(p, "", "", 0, 0)
		c.inPgWAL(dir, on2segment5, nil)
		c.inPgWAL(dir, segment5, nil)
	})
}

func TestAReceivedHistoryThatContradictsTheArchiveIsRefused(t *testing.T) {
	c := newReceivedCase(t)
	w, at, history := c.fork()
	c.archive(1, 4, c.wal.Whole(4))
	c.archiveHistory(2, history)
	c.receive(history2, []byte(fmt.Sprintf("1\t%s\tanother reason\n", at)))
	c.receive(on2segment5, w.Whole(5))
	p := c.plan()
	c.takes(p, on2segment5, on2segment5, 1, w.ValidTo(0x600000))
	c.receive(history2, []byte(fmt.Sprintf("1\t%s\tno recovery target specified\n", at+8)))
	c.refused(history2+" says another thing than the one in the archive", "two servers have begun the same timeline")
	c.receive(history2, []byte("x"))
	c.refused(history2, "remove the damaged file if the archive has it")
}

// After a failover to a standby that had less.
func TestReceivedWALThatIsNotOnTheWayIsSaid(t *testing.T) {
	c := newReceivedCase(t)
	_, at, history := c.fork()
	c.archive(1, 4, c.wal.Whole(4))
	c.archive(1, 5, c.wal.Whole(5))
	c.archiveHistory(2, history)
	c.receive("000000010000000000000006.partial", c.wal.Segment(6, 0x650000))
	const words = "is not on the way to timeline 2: what was done there is not restored; --target-timeline 1 follows it"
	warning := "what was received goes to " + c.wal.ValidTo(0x650000).String() + " on timeline 1, which " + words
	c.warns(c.plan(), warning)
	c.warns(c.planTo(Target{Type: TargetLSN, LSN: 0x480000}), warning)
	p := c.planTo(Target{Type: TargetLatest, Timeline: "1"})
	c.warns(p, "")
	c.takes(p, "000000010000000000000006.partial", "000000010000000000000006.partial", 1, c.wal.ValidTo(0x650000))

	// What ends before the switch point is on the way.
	c = newReceivedCase(t)
	c.archiveHistory(2, history)
	c.receive(segment4, c.wal.Whole(4))
	c.receive(segment5+".partial", c.wal.Segment(5, at))
	c.warns(c.plan(), "")
}

func TestReceivedWALReplacesNothingOfTheBackup(t *testing.T) {
	c := newReceivedCase(t)
	c.receive(segment4, c.wal.Whole(4))
	entries := slices.Clone(c.entries)
	at := slices.IndexFunc(entries, func(e entry) bool { return e.path == "pg_wal" })
	entries = slices.Insert(entries, at+1, entry{path: "pg_wal/" + segment4, data: []byte("of the backup")})
	storeBackup(t, c.stanza, entries, repo.BackupHeader{Timeline: 1, Start: repo.BackupPoint{Time: clock(3), LSN: 0x200028},
		Stop: repo.BackupPoint{Time: clock(4), LSN: 0x300100}})
	if _, err := Run(t.Context(), c.options(Target{Type: TargetLatest})); err == nil || !strings.Contains(err.Error(), "the backup holds pg_wal/"+segment4+" itself") {
		t.Errorf("it ends with %v", err)
	}
}
