package restore

import (
	"strings"
	"testing"
	"time"
)

func berlin(t testing.TB) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestParseTarget(t *testing.T) {
	const time1 = "2026-11-20 12:34:56+00"
	for _, c := range []struct {
		title                    string
		typ, value               string
		exclusive                bool
		timeline, action         string
		want, note, refused      string
		wantTimeline, wantAction string
	}{
		{title: "nothing is the end of the WAL", want: ""},
		{title: "latest", typ: "latest", want: ""},
		{title: "immediate", typ: "immediate", want: ""},
		{title: "a value needs a type", value: "x", refused: "has no type"},
		{title: "latest takes no value", typ: "latest", value: time1, refused: "takes no value"},
		{title: "time needs a value", typ: "time", refused: "needs a value"},
		{title: "an unknown type is named", typ: "moment", value: "x", refused: `"moment" is unknown`},

		{title: "time with PostgreSQL's short offset", typ: "time", value: time1, want: time1},
		{title: "time with another offset becomes UTC", typ: "time", value: "2026-11-20 12:34:56.25+05:30", want: "2026-11-20 07:04:56.25+00"},
		{title: "time with an offset behind a space", typ: "time", value: "2026-11-20 12:34:56 -0800", want: "2026-11-20 20:34:56+00"},
		{title: "RFC 3339", typ: "time", value: "2026-11-20T12:34:56Z", want: time1},
		{title: "RFC 3339 in small letters", typ: "time", value: "2026-11-20t12:34:56z", want: time1},
		{title: "UTC by name", typ: "time", value: "2026-11-20 12:34:56 UTC", want: time1},
		{title: "a zone by name", typ: "time", value: "2026-07-20 12:34:56 Europe/Berlin", want: "2026-07-20 10:34:56+00"},
		{title: "microseconds", typ: "time", value: "2026-11-20 12:34:56.123456+00", want: "2026-11-20 12:34:56.123456+00"},
		{title: "without a zone it is read in the given one, and a note says so", typ: "time", value: "2026-11-20 12:34:56",
			want: "2026-11-20 11:34:56+00", note: "Europe/Berlin (+01:00)"},
		{title: "minutes and dates will do", typ: "time", value: "2026-11-20", want: "2026-11-19 23:00:00+00", note: "Europe/Berlin"},
		{title: "an hour that the clocks showed twice is refused", typ: "time", value: "2026-10-25 02:30:00", refused: "showed it twice (+02:00 and +01:00)"},
		{title: "an hour that the clocks skipped is refused", typ: "time", value: "2026-03-29 02:30:00 Europe/Berlin", refused: "never showed it"},
		{title: "with an offset the same hour is fine", typ: "time", value: "2026-10-25 02:30:00+01", want: "2026-10-25 01:30:00+00"},
		{title: "an unknown zone is named", typ: "time", value: "2026-11-20 12:34:56 Mars/Base", refused: `"Mars/Base" is unknown`},
		{title: "Local is no zone", typ: "time", value: "2026-11-20 12:34:56 Local", refused: `"Local" is unknown`},
		{title: "nanoseconds are refused", typ: "time", value: "2026-11-20 12:34:56.1234567+00", refused: "microseconds"},
		{title: "words are no time", typ: "time", value: "yesterday", refused: "is not a time"},
		{title: "an impossible day is no time", typ: "time", value: "2026-02-30 00:00:00+00", refused: "is not a time"},

		{title: "lsn", typ: "lsn", value: "16/B374D848", want: "16/B374D848"},
		{title: "lsn in small letters", typ: "lsn", value: "16/b374d848", want: "16/B374D848"},
		{title: "lsn 0/0 is refused", typ: "lsn", value: "0/0", refused: "not a position"},
		{title: "a number is no lsn", typ: "lsn", value: "123", refused: "not an LSN"},
		{title: "xid", typ: "xid", value: "742", want: "742"},
		{title: "xid with its epoch is cut to what the WAL holds", typ: "xid", value: "4294968038", want: "742", note: "modulo 2^32"},
		{title: "xid below the first normal one is refused", typ: "xid", value: "2", refused: "not a transaction id"},
		{title: "xid is decimal", typ: "xid", value: "0x10", refused: "not a transaction id"},
		{title: "name", typ: "name", value: "before the release", want: "before the release"},
		{title: "a name longer than PostgreSQL's is refused", typ: "name", value: strings.Repeat("x", 64), refused: "at most 63"},

		{title: "time can be exclusive", typ: "time", value: time1, exclusive: true, want: time1},
		{title: "a name cannot be exclusive", typ: "name", value: "x", exclusive: true, refused: "cannot be exclusive"},
		{title: "latest cannot be exclusive", typ: "latest", exclusive: true, refused: "cannot be exclusive"},
		{title: "action", typ: "lsn", value: "1/0", action: "promote", want: "1/0", wantAction: "promote"},
		{title: "an unknown action is named", typ: "lsn", value: "1/0", action: "explode", refused: `"explode" is unknown`},
		{title: "latest takes no action", action: "pause", refused: "has no effect"},
		{title: "timeline by number", timeline: "12", wantTimeline: "12"},
		{title: "timeline as in file names", timeline: "0000001A", wantTimeline: "26"},
		{title: "timeline with 0x", timeline: "0x1A", wantTimeline: "26"},
		{title: "timeline by word", timeline: "current", wantTimeline: "current"},
		{title: "timeline 0 is refused", timeline: "0", refused: "timeline"},
		{title: "an unknown timeline word is named", timeline: "newest", refused: `"newest"`},
	} {
		t.Run(c.title, func(t *testing.T) {
			got, notes, err := ParseTarget(c.typ, c.value, c.exclusive, c.timeline, c.action, berlin(t))
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("error %v, want one with %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Value() != c.want || got.Timeline != c.wantTimeline || got.Action != c.wantAction || got.Exclusive != c.exclusive {
				t.Errorf("got %+v with value %q", got, got.Value())
			}
			if all := strings.Join(notes, " "); !strings.Contains(all, c.note) || (c.note == "") != (all == "") {
				t.Errorf("notes %q, want one with %q", all, c.note)
			}
		})
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range [][2]string{{"time", "2026-11-20 12:34:56+00"}, {"time", "2026-10-25 02:30:00 Europe/Berlin"},
		{"time", "2026-11-20T12:34:56.5Z"}, {"lsn", "16/B374D848"}, {"xid", "742"}, {"name", "x"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, typ, value string) {
		target, _, err := ParseTarget(typ, value, false, "", "", time.UTC)
		if err != nil {
			return
		}
		again, notes, err := ParseTarget(typ, target.Value(), false, "", "", time.UTC)
		if err != nil || again.Value() != target.Value() || len(notes) > 0 {
			t.Errorf("%s %q reads as %q, which reads as %q (%v, %v)", typ, value, target.Value(), again.Value(), notes, err)
		}
	})
}
