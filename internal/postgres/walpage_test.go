package postgres

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// walPages gives the first pages of real segments of a major, by segment name.
func walPages(t testing.TB, major int) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(samples, fmt.Sprint(major), "wal.*.gz"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("PostgreSQL %d: WAL pages %v, %v", major, paths, err)
	}
	pages := make(map[string][]byte)
	for _, path := range paths {
		base := filepath.Base(path)
		pages[strings.TrimSuffix(strings.TrimPrefix(base, "wal."), ".gz")] = sample(t, major, base)
	}
	return pages
}

func TestParseWALHeaderReadsRealSegments(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		control, err := ParseControl(sample(t, major, "pg_control.promoted.gz"))
		if err != nil {
			t.Fatal(err)
		}
		for name, page := range walPages(t, major) {
			h, err := ParseWALHeader(page)
			if err != nil {
				t.Fatal(err)
			}
			file, err := ParseWALFile(name, h.SegmentSize)
			if err != nil {
				t.Fatal(err)
			}
			// The segment of timeline 2 begins with what was copied from 1.
			want := WALHeader{Magic: h.Magic, Info: h.Info, Timeline: 1, PageAddr: file.Start(control.WALSegmentSize),
				SystemID: control.SystemID, SegmentSize: control.WALSegmentSize, BlockSize: control.WALBlockSize}
			if h != want || h.Major() != major {
				t.Errorf("%s: %+v of PostgreSQL %d, want %+v", name, h, h.Major(), want)
			}
		}
	})
}

func TestParseWALHeaderRefuses(t *testing.T) {
	var page []byte
	for _, page = range walPages(t, 15) {
		break
	}
	for _, c := range []struct {
		name string
		page []byte
		want string
	}{
		{"an empty file", nil, "0 bytes"},
		{"a short file", page[:WALHeaderSize-1], "39 bytes (want at least 40)"},
		{"zeros", make([]byte, 8192), "magic 0000"},
		{"the magic of PostgreSQL 12", changed(page, 0, 0x01, 0xD1), "magic D101 belongs to no known PostgreSQL (known: D106 of 13, D10D of 14"},
		{"a page from the middle of a segment", changed(page, 2, 0), "not the first page of a segment"},
		{"unknown flags", changed(page, 3, 0x80), "unknown flags 8006"},
		{"timeline 0", changed(page, 4, 0, 0, 0, 0), "timeline 0"},
		{"an address inside a segment", changed(page, 8, 1), "not the start of a segment"},
		{"segment size 0", changed(page, 32, 0, 0, 0, 0), "segment size 0"},
		{"page size 3", changed(page, 36, 3, 0, 0, 0), "page size 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := ParseWALHeader(c.page)
			wantError(t, err, c.want)
			if h != (WALHeader{}) {
				t.Errorf("an error came with %+v", h)
			}
		})
	}
}

func TestParseWALHeaderTakesEveryFlagOfPostgreSQL(t *testing.T) {
	for _, page := range walPages(t, 18) {
		if _, err := ParseWALHeader(changed(page, 2, 0x0F, 0)); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseWALHeader(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		for _, page := range walPages(f, major) {
			f.Add(page[:WALHeaderSize])
		}
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		h, err := ParseWALHeader(page)
		if err != nil {
			return
		}
		if h.Major() < MinMajor || h.Major() > MaxMajor || !ValidSegmentSize(h.SegmentSize) {
			t.Errorf("accepted %+v", h)
		}
		if h.SystemID != binary.LittleEndian.Uint64(page[24:]) {
			t.Errorf("system identifier %d", h.SystemID)
		}
	})
}
