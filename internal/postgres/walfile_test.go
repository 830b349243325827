package postgres

import "testing"

const mib = 1 << 20

func TestParseWALFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int64
		want  WALFile
		start LSN
	}{
		{"000000010000000000000001", 16 * mib, WALFile{Timeline: 1, Segment: 1}, 0x1000000},
		{"0000000100000002000000FF", 16 * mib, WALFile{Timeline: 1, Segment: 0x2FF}, 0x2FF000000},
		{"000000010000000200000FFF", mib, WALFile{Timeline: 1, Segment: 0x2FFF}, 0x2FFF00000},
		{"000000010000000200000003", 1024 * mib, WALFile{Timeline: 1, Segment: 11}, 0x2C0000000},
		{"FFFFFFFFFFFFFFFF000000FF", 16 * mib, WALFile{Timeline: 0xFFFFFFFF, Segment: 0xFFFFFFFFFF}, 0xFFFFFFFFFF000000},
		{"0000000A0000000000000001.partial", 16 * mib, WALFile{Kind: WALPartial, Timeline: 10, Segment: 1}, 0x1000000},
		{"000000010000000000000002.00000028.backup", 16 * mib, WALFile{Kind: WALBackup, Timeline: 1, Segment: 2, Offset: 0x28}, 0x2000000},
		{"0000000B.history", 16 * mib, WALFile{Kind: WALHistory, Timeline: 11}, 0},
		{"0000000B.history", 0, WALFile{Kind: WALHistory, Timeline: 11}, 0},
	} {
		got, err := ParseWALFile(c.name, c.size)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
			continue
		}
		if got.Name(c.size) != c.name || got.Kind != WALHistory && got.Start(c.size) != c.start {
			t.Errorf("%s: back to %s at %s, want start %s", c.name, got.Name(c.size), got.Start(c.size), c.start)
		}
	}
}

func TestParseWALFileRefuses(t *testing.T) {
	for _, c := range []struct {
		why, name string
		size      int64
	}{
		{"nothing", "", 16 * mib},
		{"lower case", "00000001000000000000000a", 16 * mib},
		{"lower case timeline", "0000000a.history", 16 * mib},
		{"too short", "00000001000000000000001", 16 * mib},
		{"too long", "0000000100000000000000011", 16 * mib},
		{"no digits", "00000001000000000000000G", 16 * mib},
		{"a sign", "+00000010000000000000001", 16 * mib},
		{"timeline 0", "000000000000000000000001", 16 * mib},
		{"history of timeline 0", "00000000.history", 16 * mib},
		{"segment beyond its log", "000000010000000000000100", 16 * mib},
		{"segment beyond its log of 1 GiB segments", "000000010000000000000004", 1024 * mib},
		{"a directory", "pg_wal/000000010000000000000001", 16 * mib},
		{"a way out", "../000000010000000000000001", 16 * mib},
		{"a way out behind", "000000010000000000000001/..", 16 * mib},
		{"a backslash", `x\00000001.history`, 16 * mib},
		{"a zero byte", "000000010000000000000001\x00", 16 * mib},
		{"a line end", "000000010000000000000001\n", 16 * mib},
		{"compressed", "000000010000000000000001.gz", 16 * mib},
		{"two suffixes", "000000010000000000000001.partial.partial", 16 * mib},
		{"backup without offset", "000000010000000000000002.backup", 16 * mib},
		{"backup with a long offset", "000000010000000000000002.000000028.backup", 16 * mib},
		{"backup with an offset beyond the segment", "000000010000000000000002.01000000.backup", 16 * mib},
		{"history with a segment", "000000010000000000000002.history", 16 * mib},
		{"only a suffix", ".history", 16 * mib},
		{"a segment without a segment size", "000000010000000000000001", 0},
		{"a segment size that is no power of two", "000000010000000000000001", 17 * mib},
	} {
		if got, err := ParseWALFile(c.name, c.size); err == nil {
			t.Errorf("%s: %q was read as %+v", c.why, c.name, got)
		}
	}
}

func TestParseWALFileErrorNamesTheFile(t *testing.T) {
	_, err := ParseWALFile("nonsense", 16*mib)
	wantError(t, err, `"nonsense"`, "16777216")
}

func TestValidSegmentSize(t *testing.T) {
	for size := int64(1); size > 0; size <<= 1 {
		want := size >= 1<<20 && size <= 1<<30
		if ValidSegmentSize(size) != want || ValidSegmentSize(size+1) || ValidSegmentSize(-size) {
			t.Errorf("size %d: want %v, and neither one more nor its negative", size, want)
		}
	}
}

func FuzzParseWALFile(f *testing.F) {
	f.Add("000000010000000000000001", uint8(4))
	f.Add("000000010000000000000FFF.partial", uint8(0))
	f.Add("000000010000000000000002.00000028.backup", uint8(10))
	f.Add("FFFFFFFF.history", uint8(4))
	f.Fuzz(func(t *testing.T, name string, shift uint8) {
		size := int64(mib) << (shift % 11)
		file, err := ParseWALFile(name, size)
		if err == nil && file.Name(size) != name {
			t.Errorf("%q was read as %+v, whose name is %q", name, file, file.Name(size))
		}
	})
}

func FuzzWALFileName(f *testing.F) {
	f.Add(uint8(0), uint32(1), uint64(1), uint32(0), uint8(4))
	f.Add(uint8(2), uint32(1<<32-1), uint64(1<<44-1), uint32(1<<20-1), uint8(0))
	f.Fuzz(func(t *testing.T, kind uint8, tli uint32, segment uint64, offset uint32, shift uint8) {
		size := int64(mib) << (shift % 11)
		file := WALFile{Kind: WALKind(kind % 4), Timeline: Timeline(max(tli, 1))}
		if file.Kind != WALHistory {
			file.Segment = segment % (SegmentsPerLog(size) << 32)
		}
		if file.Kind == WALBackup {
			file.Offset = offset % uint32(size)
		}
		if got, err := ParseWALFile(file.Name(size), size); err != nil || got != file {
			t.Errorf("%+v has name %q, which was read as %+v, %v", file, file.Name(size), got, err)
		}
	})
}
