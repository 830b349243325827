package postgres

import (
	"strings"
	"testing"
)

func TestParseBackupLabelReadsRealBackups(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		text := sample(t, major, "backup_label")
		b, err := ParseBackupLabel(text)
		if err != nil {
			t.Fatal(err)
		}
		from := "primary"
		if major == 13 {
			from = "master" // renamed in 14
		}
		if b.Method != "streamed" || b.From != from || b.Label != "sample label" || b.Timeline != 1 ||
			!strings.HasSuffix(b.StartTime, " UTC") || b.IncrementalFrom != 0 {
			t.Errorf("read %+v", b)
		}
		control, err := ParseControl(sample(t, major, "pg_control.production.gz"))
		if err != nil {
			t.Fatal(err)
		}
		file, err := ParseWALFile(b.StartFile, control.WALSegmentSize)
		if err != nil || file.Segment != b.Start.Segment(control.WALSegmentSize) {
			t.Errorf("start %s is not in %s: %v", b.Start, b.StartFile, err)
		}
		if b.Checkpoint <= b.Start || b.Checkpoint > b.Start+1000 {
			t.Errorf("checkpoint at %s, redo at %s", b.Checkpoint, b.Start)
		}
	})
}

const labelText = `START WAL LOCATION: 0/2000028 (file 000000030000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-01-02 03:04:05 CET
LABEL: a: label
START TIMELINE: 3
`

func TestParseBackupLabel(t *testing.T) {
	full := BackupLabel{Start: 0x2000028, StartFile: "000000030000000000000002", Checkpoint: 0x2000060,
		Method: "streamed", From: "standby", StartTime: "2026-01-02 03:04:05 CET", Label: "a: label", Timeline: 3}
	incremental := full
	incremental.IncrementalFrom, incremental.IncrementalTimeline = 0x1000028, 2
	bare := BackupLabel{Start: full.Start, StartFile: full.StartFile, Checkpoint: full.Checkpoint, Timeline: 3}
	spread := full
	spread.Label = "a"
	lines := strings.SplitAfterN(labelText, "\n", 3)
	for _, c := range []struct {
		name, text string
		want       BackupLabel
	}{
		{"all lines", labelText, full},
		{"the two positions alone", lines[0] + lines[1], bare},
		{"an incremental backup of 17", labelText + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 2\n", incremental},
		{"a label of two lines", strings.Replace(labelText, "a: label", "a\nSECOND LINE: b", 1), spread},
		{"the lines that a backup history file adds", labelText + "STOP TIME: 2026-01-02 03:04:06 CET\nSTOP TIMELINE: 3\n", full},
	} {
		if got, err := ParseBackupLabel([]byte(c.text)); err != nil || got != c.want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", c.name, got, err, c.want)
		}
	}
}

func TestParseBackupLabelRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"nothing", labelText, "", "START WAL LOCATION"},
		{"no checkpoint", "CHECKPOINT LOCATION", "X", "CHECKPOINT LOCATION"},
		{"a broken start", "0/2000028", "2000028", "START WAL LOCATION"},
		{"a broken checkpoint", "0/2000060", "0/", "CHECKPOINT LOCATION"},
		{"no WAL file", " (file 000000030000000000000002)", "", "names no WAL file"},
		{"a WAL file that is none", "000000030000000000000002", "../../00000000000000000x", "names no WAL file"},
		{"a WAL file of timeline 0", "000000030000000000000002", "000000000000000000000002", "names no WAL file"},
		{"a timeline other than the file's", "TIMELINE: 3", "TIMELINE: 1", `START TIMELINE "1" does not fit`},
		{"a line that a label brought in", "a: label", "a\nSTART TIMELINE: 3", "more than one line START TIMELINE"},
		{"an incremental backup from nowhere", "START TIMELINE: 3", "INCREMENTAL FROM LSN: x", "INCREMENTAL FROM LSN"},
		{"an incremental backup from no timeline", "START TIMELINE: 3", "INCREMENTAL FROM LSN: 0/1", "INCREMENTAL FROM TLI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseBackupLabel([]byte(strings.Replace(labelText, c.old, c.new, 1)))
			wantError(t, err, "backup_label: ", c.want)
		})
	}
}

func FuzzParseBackupLabel(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		f.Add(sample(f, major, "backup_label"))
	}
	f.Add([]byte(labelText + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBackupLabel(data)
		if err == nil && (b.Timeline == 0 || len(b.StartFile) != segmentDigits) {
			t.Errorf("accepted %+v", b)
		}
	})
}
