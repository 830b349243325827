package postgres

import (
	"cmp"
	"reflect"
	"slices"
	"testing"
)

func byOID(a, b TablespaceLink) int { return cmp.Compare(a.OID, b.OID) }

func TestTablespaceMapOfRealServers(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		text := sample(t, major, "tablespace_map")
		links, err := ParseTablespaceMap(text, major)
		if err != nil {
			t.Fatal(err)
		}
		if again := FormatTablespaceMap(links, major); string(again) != string(text) {
			t.Errorf("written again: %q, want %q", again, text)
		}
		slices.SortFunc(links, byOID)
		want := sampleJSON[[]TablespaceLink](t, major, "tablespaces.json")
		if !reflect.DeepEqual(links, want) {
			t.Errorf("read %+v, want %+v", links, want)
		}
	})
}

func TestParseTablespaceMap(t *testing.T) {
	for _, c := range []struct {
		name, text string
		major      int
		want       []TablespaceLink
	}{
		{"no tablespace", "", 15, nil},
		{"a path that begins with a space", "16384  /a\n", 15, []TablespaceLink{{16384, " /a"}}},
		{"lines that end as on Windows", "1 /a\r\n2 /b\r\n", 15, []TablespaceLink{{1, "/a"}, {2, "/b"}}},
		{"escaped line ends", "1 /a\\\n\\\rb\n", 15, []TablespaceLink{{1, "/a\n\rb"}}},
		{"an escaped backslash before the end", "1 /a\\\\\n2 /b\n", 14, []TablespaceLink{{1, `/a\`}, {2, "/b"}}},
		{"a backslash of 13", "1 /a\\\\b\\c\n", 13, []TablespaceLink{{1, `/a\\b\c`}}},
		{"a backslash before another character", "1 /a\\b\n", 14, []TablespaceLink{{1, "/ab"}}},
		{"the highest OID", "4294967295 /a\n", 15, []TablespaceLink{{4294967295, "/a"}}},
	} {
		if got, err := ParseTablespaceMap([]byte(c.text), c.major); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestParseTablespaceMapRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a line without an end", "1 /a\n2 /b", `last line "2 /b" has no end`},
		{"a last line whose end is escaped", "1 /a\\\n", "has no end"},
		{"no path", "1 \n", "not an OID and a path"},
		{"no space", "1\n", "not an OID and a path"},
		{"no OID", " /a\n", "not an OID and a path"},
		{"OID 0", "0 /a\n", "not an OID and a path"},
		{"an OID beyond 32 bits", "4294967296 /a\n", "not an OID and a path"},
		{"a way out in place of an OID", "../x /a\n", "not an OID and a path"},
		{"a zero byte", "1 /a\x00b\n", "not an OID and a path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseTablespaceMap([]byte(c.text), 15)
			wantError(t, err, "tablespace_map: ", c.want)
		})
	}
}

func FuzzParseTablespaceMap(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		f.Add(sample(f, major, "tablespace_map"), major)
	}
	f.Add([]byte("1 /a\\\\\\\n\\\r\n"), 15)
	f.Fuzz(func(t *testing.T, data []byte, major int) {
		links, err := ParseTablespaceMap(data, major)
		if err != nil || major < 14 {
			return // 13 has paths that it cannot express
		}
		again, err := ParseTablespaceMap(FormatTablespaceMap(links, major), major)
		if err != nil || !reflect.DeepEqual(again, links) {
			t.Errorf("%+v came back as %+v, %v", links, again, err)
		}
	})
}
