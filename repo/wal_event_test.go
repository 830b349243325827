package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestTheSameEventIsOneObjectWithItsFirstTime(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := walStanza(t, st, "")
	id := s.Current()
	const name = "000000010000000000000001"
	conflict := WALEvent{Kind: WALConflict, First: name, Last: name, Archived: "aa", Refused: "bb", Host: "db1", Message: "once", Time: testClock()()}
	again := conflict
	again.Time, again.Message = conflict.Time.Add(time.Hour), "twice"
	elsewhere := conflict
	elsewhere.Host = "db2"
	foreign := WALEvent{Kind: WALForeign, First: name, Last: name, SystemID: 9, Major: 16, Host: "db3", Path: "pg_wal/" + name}
	nextForeign := foreign
	nextForeign.First, nextForeign.Last, nextForeign.Path = "000000010000000000000002", "000000010000000000000002", "x"
	for _, e := range []WALEvent{conflict, again, elsewhere, foreign, nextForeign} {
		if err := s.RecordWALEvent(ctx, id, e); err != nil {
			t.Fatal(err)
		}
	}
	events, err := s.WALEvents(ctx)
	if err != nil || len(events) != 3 {
		t.Fatalf("%d events, %v: %+v", len(events), err, events)
	}
	for _, e := range events {
		if e.Identity != 1 || e.Timeline != 1 || e.Time.IsZero() {
			t.Errorf("event %+v", e)
		}
		if e.Host == "db1" && (e.Message != "once" || !e.Time.Equal(conflict.Time)) {
			t.Errorf("the later of two stays: %+v", e)
		}
	}
	c, err := s.Catalog(ctx)
	if err != nil || len(c.Events) != 3 || c.UnreadEvents != nil {
		t.Errorf("the catalogue has %d events, %v, %v", len(c.Events), c.UnreadEvents, err)
	}
}

func TestEventsThatMakeNoSenseAreRefused(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	const one, two = "000000010000000000000001", "000000010000000000000002"
	for title, c := range map[string]struct {
		e    WALEvent
		want string // "" is taken
	}{
		"an unknown kind":              {WALEvent{Kind: "x", First: one, Last: one}, `unknown kind "x"`},
		"no name":                      {WALEvent{Kind: WALConflict}, "is not the name of a WAL file"},
		"backwards":                    {WALEvent{Kind: WALDropped, First: two, Last: one}, "is no range of one timeline"},
		"of two timelines":             {WALEvent{Kind: WALDropped, First: one, Last: "000000020000000000000002"}, "is no range of one timeline"},
		"a dropped history":            {WALEvent{Kind: WALDropped, First: "00000002.history", Last: "00000002.history"}, "is no segment"},
		"a conflict about a history":   {WALEvent{Kind: WALHistoryConflict, First: "00000002.history", Last: "00000002.history"}, ""},
		"a history that is known":      {WALEvent{Kind: WALGapAcknowledged, First: "00000002.history", Last: "00000002.history"}, ""},
		"foreign, of another size":     {WALEvent{Kind: WALForeign, First: "0000000100000000000000FFFF", SystemID: 1}, ""},
		"a range that is acknowledged": {WALEvent{Kind: WALGapAcknowledged, First: one, Last: two, Note: strings.Repeat("é", 5000)}, ""},
	} {
		err := s.RecordWALEvent(context.Background(), s.Current(), c.e)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", title, err, c.want)
		}
	}
	events, err := s.WALEvents(context.Background())
	if err != nil || len(events) != 4 {
		t.Errorf("%d events, %v", len(events), err)
	}
	for _, e := range events {
		if len(e.Note) > maxEventText {
			t.Errorf("a note of %d bytes", len(e.Note))
		}
	}
}

func TestADamagedEventKeepsNobodyFromTheOthers(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := walStanza(t, st, "")
	const name = "000000010000000000000001"
	if err := s.RecordWALEvent(ctx, s.Current(), WALEvent{Kind: WALDropped, First: name, Last: name}); err != nil {
		t.Fatal(err)
	}
	if err := st.Put(ctx, eventsPrefix("main", 1)+"dropped-torn", storage.Bytes([]byte("{")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	events, err := s.WALEvents(ctx)
	if !errors.Is(err, ErrDamaged) || len(events) != 1 {
		t.Errorf("%d events, %v", len(events), err)
	}
	c, err := s.Catalog(ctx)
	if err != nil || len(c.Events) != 1 || !errors.Is(c.UnreadEvents, ErrDamaged) {
		t.Errorf("the catalogue has %d events, %v, %v", len(c.Events), c.UnreadEvents, err)
	}
}

// Root acknowledged a gap in a directory of the server's user, or a sector of an
// event is bad: that must not stop a restore.
func TestALedgerThatCannotBeReadKeepsNobodyFromTheCatalogue(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := walStanza(t, base, "")
	id := s.Current()
	first := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: 1}
	if _, err := s.PutWAL(ctx, id, first, NewWALContent(storage.Bytes([]byte("segment")))); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a", "b"} {
		name := first.Name(id.SegmentSize)
		if err := s.RecordWALEvent(ctx, id, WALEvent{Kind: WALConflict, First: name, Last: name, Host: host}); err != nil {
			t.Fatal(err)
		}
	}
	refused := errors.New("permission denied")
	for _, c := range []struct {
		operation string
		events    int
	}{{"get", 1}, {"list", 0}} {
		fired := 0
		on := onStore(s, faulty.New(base, func(_ context.Context, op faulty.Op) error {
			if op.Name == c.operation && strings.HasPrefix(op.Key, ledgerPrefix("main")) && fired == 0 {
				fired++
				return refused
			}
			return nil
		}, nil))
		catalog, err := on.Catalog(ctx)
		if err != nil || fired == 0 {
			t.Fatalf("%s: %v, refused %d times", c.operation, err, fired)
		}
		if !errors.Is(catalog.UnreadEvents, refused) || len(catalog.Events) != c.events || len(catalog.WAL) != 1 {
			t.Errorf("%s: %d events, %v, WAL %v", c.operation, len(catalog.Events), catalog.UnreadEvents, catalog.WAL)
		}
	}
}

func TestEventsUnderFaultsAreWholeOrNotThere(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := walStanza(t, base, "")
	const name = "000000010000000000000001"
	record := func(st storage.Store) error {
		on := onStore(s, st)
		for _, host := range []string{"a", "b", "c"} {
			if err := on.RecordWALEvent(ctx, s.Current(), WALEvent{Kind: WALConflict, First: name, Last: name, Host: host}); err != nil {
				return err
			}
		}
		return nil
	}
	eachFault(t, base, record, func(t *testing.T, st *mem.Store, _ error) {
		if _, err := onStore(s, st).WALEvents(ctx); err != nil {
			t.Error(err)
		}
		if err := record(st); err != nil {
			t.Error(err)
		}
		if events, err := onStore(s, st).WALEvents(ctx); err != nil || len(events) != 3 {
			t.Errorf("%d events, %v", len(events), err)
		}
	})
}

func TestADamagedHistoryLeavesTheCatalogue(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := walStanza(t, st, "")
	for _, name := range []string{"00000002.history", "00000003.history"} {
		if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, name), NewWALContent(storage.Bytes([]byte("1\t0/2000000\tno reason\n")))); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Put(ctx, walKey("main", s.Current(), mustWAL(t, "00000002.history")), storage.Bytes([]byte("torn")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Catalog(ctx)
	if err != nil || len(c.Histories[1]) != 1 || c.Histories[1][0].Timeline != 3 {
		t.Fatalf("%v, %v", c.Histories, err)
	}
	if d := c.DamagedHistories; len(d) != 1 || d[0].Timeline != 2 || d[0].Identity != 1 || !errors.Is(d[0].Err, ErrDamaged) {
		t.Errorf("damaged: %+v", d)
	}
}
