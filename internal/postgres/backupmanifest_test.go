package postgres

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

// writeManifest writes m the way a restore does.
func writeManifest(w io.Writer, m BackupManifest) error {
	writer := NewBackupManifestWriter(w, BackupManifestOptions{Version: m.Version, SystemID: m.SystemID})
	for _, file := range m.Files {
		if err := writer.File(file); err != nil {
			return err
		}
	}
	return writer.Finish(m.WALRanges)
}

func TestManifestOfRealServersIsWrittenAgainByteForByte(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		text := sample(t, major, "backup_manifest.gz")
		m, err := ParseBackupManifest(text)
		if err != nil {
			t.Fatal(err)
		}
		version := 1
		if major >= 17 {
			version = 2
		}
		if m.Version != version || len(m.Files) < 500 || len(m.WALRanges) != 1 || m.Files[0].CRC32C == nil {
			t.Fatalf("read version %d with %d files and WAL %v", m.Version, len(m.Files), m.WALRanges)
		}
		var again bytes.Buffer
		if err := writeManifest(&again, m); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), text) {
			t.Error("the manifest that was written differs from the server's")
		}
	})
}

// oddManifest holds what the servers' samples do not: no checksum, many ranges,
// and names that need escapes or are not text.
func oddManifest() BackupManifest {
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	crc := uint32(0x01020304)
	return BackupManifest{Version: 2, SystemID: 1<<64 - 1,
		Files: []BackupManifestFile{
			{Path: "plain", Size: 1 << 40, ModTime: when, CRC32C: &crc},
			{Path: "quote\" back\\ line\n \r\t\b\f \v \x01 \x7f é <&>", ModTime: when},
			{Path: "latin-\xe9", Size: 3, ModTime: when},
		},
		WALRanges: []WALRange{{1, 0x100000028, 0x200000000}, {2, 0x200000000, 0x2ABCDEF00}},
	}
}

const oddText = `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 18446744073709551615,
"Files": [
{ "Path": "plain", "Size": 1099511627776, "Last-Modified": "2026-01-02 03:04:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "04030201" },
{ "Path": "quote\" back\\ line\n \r\t\b\f \u000b \u0001 ` + "\x7f" + ` é <&>", "Size": 0, "Last-Modified": "2026-01-02 03:04:05 GMT" },
{ "Encoded-Path": "6c6174696e2de9", "Size": 3, "Last-Modified": "2026-01-02 03:04:05 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "1/28", "End-LSN": "2/0" },
{ "Timeline": 2, "Start-LSN": "2/0", "End-LSN": "2/ABCDEF00" }
],
`

// sealed ends a manifest with its checksum.
func sealed(text string) string {
	return fmt.Sprintf("%s\"Manifest-Checksum\": \"%x\"}\n", text, sha256.Sum256([]byte(text)))
}

func TestBackupManifestWriter(t *testing.T) {
	var out strings.Builder
	if err := writeManifest(&out, oddManifest()); err != nil {
		t.Fatal(err)
	}
	if want := sealed(oddText); out.String() != want {
		t.Errorf("wrote\n%s\nwant\n%s", out.String(), want)
	}
	again, err := ParseBackupManifest([]byte(out.String()))
	if err != nil || !reflect.DeepEqual(again, oddManifest()) {
		t.Errorf("came back as %+v, %v", again, err)
	}
}

func TestBackupManifestWriterWritesTimesInGMT(t *testing.T) {
	var out strings.Builder
	m := oddManifest()
	m.Files[0].ModTime = time.Date(2026, 1, 2, 3, 4, 5, 999, time.FixedZone("east", 3600))
	if err := writeManifest(&out, m); err != nil {
		t.Fatal(err)
	}
	if want := `"2026-01-02 02:04:05 GMT"`; !strings.Contains(out.String(), want) {
		t.Errorf("%s has no %s", out.String(), want)
	}
}

// fullDisk takes room bytes.
type fullDisk struct{ room int }

var errFull = errors.New("no space left")

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.room -= len(p); d.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestBackupManifestWriterReportsErrors(t *testing.T) {
	for room := 0; room < 3; room++ {
		m := oddManifest()
		for len(m.Files) < 2000 {
			m.Files = append(m.Files, m.Files[0])
		}
		if err := writeManifest(&fullDisk{room << 16}, m); !errors.Is(err, errFull) {
			t.Errorf("disk with %d bytes: %v", room<<16, err)
		}
	}
	for _, c := range []struct {
		name    string
		version int
		file    BackupManifestFile
		want    string
	}{
		{"version 3", 3, BackupManifestFile{Path: "a"}, "version 3 is not known"},
		{"no path", 1, BackupManifestFile{}, `file ""`},
		{"a negative size", 1, BackupManifestFile{Path: "a", Size: -1}, `file "a" with -1 bytes`},
	} {
		w := NewBackupManifestWriter(io.Discard, BackupManifestOptions{Version: c.version})
		wantError(t, w.File(c.file), c.want)
		wantError(t, w.File(BackupManifestFile{Path: "good"}), c.want)
		wantError(t, w.Finish(nil), c.want)
	}
	w := NewBackupManifestWriter(io.Discard, BackupManifestOptions{Version: 1})
	if err := w.Finish(nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.File(BackupManifestFile{Path: "late"}), "already finished")
}

func TestParseBackupManifestRefuses(t *testing.T) {
	v2 := `"System-Identifier": 18446744073709551615,`
	for _, c := range []struct{ name, old, new, want string }{
		{"no JSON", "{", "", "backup manifest"},
		{"an unknown key", v2, v2 + `"New": 1,`, "unknown field"},
		{"an unknown version", `Version": 2`, `Version": 3`, "version 3 is not known"},
		{"version 2 without a system identifier", v2, "", "system identifier"},
		{"version 1 with a system identifier", `Version": 2`, `Version": 1`, "system identifier"},
		{"a file without a path", `"Path": "plain", `, "", "file 1: not one path"},
		{"a file with two paths", `"Path": "plain"`, `"Path": "plain", "Encoded-Path": "61"`, "file 1: not one path"},
		{"an encoded path that is not hexadecimal", "6c6174", "xx", "file 3: encoded path"},
		{"a file without a size", `"Size": 3, `, "", "file 3: "},
		{"a negative size", `"Size": 3`, `"Size": -3`, "file 3: "},
		{"a time in another form", "05 GMT", "05 CET", `file 1: "plain"`},
		{"a short checksum", "04030201", "040302", "file 1: checksum"},
		{"another kind of checksum", `"CRC32C"`, `"SHA256"`, `of kind "SHA256"`},
		{"a WAL range that is none", "2/ABCDEF00", "2", "is not an LSN"},
		{"bytes that are not UTF-8", "plain", "pl\xffin", "not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseBackupManifest([]byte(sealed(strings.Replace(oddText, c.old, c.new, 1))))
			wantError(t, err, c.want)
		})
	}
}

func TestParseBackupManifestFindsChanges(t *testing.T) {
	good := sealed(oddText)
	for _, c := range []struct{ name, text, want string }{
		{"a changed size", strings.Replace(good, `"Size": 3`, `"Size": 4`, 1), "does not match"},
		{"a manifest cut off", good[:len(good)/2], "backup manifest"},
		{"a last line without its end", strings.TrimSuffix(good, "\n"), "does not match"},
		{"something behind the end", good + "{}\n", "something follows"},
		{"more on the last line, which no checksum covers", strings.Replace(good, "\"}\n", "\", \"WAL-Ranges\": []}\n", 1), "does not match"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseBackupManifest([]byte(c.text))
			wantError(t, err, c.want)
		})
	}
}

func FuzzParseBackupManifest(f *testing.F) {
	f.Add([]byte(oddText), true)
	f.Add([]byte(sealed(oddText)), false)
	f.Add([]byte("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n\"WAL-Ranges\": [\n],\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal {
			data = []byte(sealed(string(data)))
		}
		m, err := ParseBackupManifest(data)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeManifest(&out, m); err != nil {
			t.Fatalf("%+v cannot be written: %v", m, err)
		}
		if again, err := ParseBackupManifest(out.Bytes()); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func BenchmarkBackupManifestWriter(b *testing.B) {
	crc := uint32(0xDEADBEEF)
	file := BackupManifestFile{Path: "base/16384/2619_fsm", Size: 8192, ModTime: time.Unix(1767323045, 0), CRC32C: &crc}
	w := NewBackupManifestWriter(io.Discard, BackupManifestOptions{Version: 1})
	b.ReportAllocs()
	for b.Loop() {
		if err := w.File(file); err != nil {
			b.Fatal(err)
		}
	}
}
