package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
)

// incrementalHead is the head of an incremental file as the server writes it.
func incrementalHead(pageSize int, truncation uint32, blocks ...uint32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xd3ae1f0d)
	b = le.AppendUint32(b, uint32(len(blocks)))
	b = le.AppendUint32(b, truncation)
	for _, n := range blocks {
		b = le.AppendUint32(b, n)
	}
	if len(blocks) > 0 && len(b)%pageSize > 0 {
		b = append(b, make([]byte, pageSize-len(b)%pageSize)...)
	}
	return b
}

func TestReadIncrementalFile(t *testing.T) {
	const page, segment = 1024, 2000
	many := make([]uint32, 1500) // its head takes several pages
	for i := range many {
		many[i] = uint32(i)
	}
	for name, test := range map[string]struct {
		truncation, length uint32
		blocks             []uint32
	}{
		"nothing changed":     {10, 10, nil},
		"some":                {10, 10, []uint32{0, 3, 9}},
		"one beyond":          {10, 13, []uint32{12}},
		"cut to nothing":      {0, 0, nil},
		"head fills its page": {300, 300, many[:253]},
		"many":                {1500, 1500, many},
		"as long as a segment, by servers that do not bound it": {5000, segment, []uint32{3}},
	} {
		t.Run(name, func(t *testing.T) {
			head := incrementalHead(page, test.truncation, test.blocks...)
			size := int64(len(head) + page*len(test.blocks))
			in := bytes.NewReader(append(head, "the first page"...))
			f, err := ReadIncrementalFile(in, size, page, segment)
			if err != nil || !slices.Equal(f.Blocks, test.blocks) || f.Length() != test.length {
				t.Fatalf("%+v of length %d, %v", f, f.Length(), err)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "the first page" {
				t.Errorf("%q is left", rest)
			}
			if _, err := ReadIncrementalFile(bytes.NewReader(head), size+1, page, segment); err == nil {
				t.Error("a size that does not fit is accepted")
			}
		})
	}
}

func TestReadIncrementalFileRefuses(t *testing.T) {
	const page, segment = 8192, 100
	wrongMagic := incrementalHead(page, 1)
	wrongMagic[0]++
	for want, head := range map[string][]byte{
		"incremental file: it begins with 0xd3ae1f0e, not 0xd3ae1f0d":              wrongMagic,
		"incremental file: unexpected EOF":                                         incrementalHead(page, 1)[:11],
		"incremental file: 101 blocks in a segment of 100":                         incrementalHead(page, 1, make([]uint32, 101)...),
		"incremental file: block 5 at place 1 is out of order or of the segment":   incrementalHead(page, 9, 5, 5),
		"incremental file: block 100 at place 0 is out of order or of the segment": incrementalHead(page, 9, 100),
	} {
		blocks := 0
		if len(head) >= 12 {
			blocks = int(binary.LittleEndian.Uint32(head[4:]))
		}
		if _, err := ReadIncrementalFile(bytes.NewReader(head), int64(len(head)+page*blocks), page, segment); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzReadIncrementalFile(f *testing.F) {
	f.Add(incrementalHead(512, 7, 1, 2, 6), int64(2048))
	f.Add(incrementalHead(512, 7), int64(12))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		const page, segment = 512, 1000
		in := bytes.NewReader(data)
		file, err := ReadIncrementalFile(in, size, page, segment)
		if err != nil {
			return
		}
		read := len(data) - in.Len()
		if file.Length() > segment || !slices.IsSorted(file.Blocks) || int64(read+page*len(file.Blocks)) != size {
			t.Errorf("%+v from %d of %d bytes", file, read, size)
		}
		again := incrementalHead(page, binary.LittleEndian.Uint32(data[8:]), file.Blocks...)
		if len(again) != read || !bytes.Equal(again[:12+4*len(file.Blocks)], data[:12+4*len(file.Blocks)]) {
			t.Error("it is written in another way")
		}
	})
}

func TestIncrementalPath(t *testing.T) {
	for path, want := range map[string]string{
		"base/5/INCREMENTAL.1234":   "base/5/1234",
		"global/INCREMENTAL.1234.1": "global/1234.1",
		"base/5/1234":               "",
		"INCREMENTAL.x/1234":        "",
	} {
		if got, ok := IncrementalPath(path); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v", path, got, ok)
		}
	}
}

func TestCompleteBackupLabel(t *testing.T) {
	const complete = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nLABEL: pgbak\nSTART TIMELINE: 1\n"
	got := string(CompleteBackupLabel([]byte(complete + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n")))
	if got != complete {
		t.Errorf("%q", got)
	}
	if label, err := ParseBackupLabel([]byte(got)); err != nil || label.IncrementalFrom != 0 {
		t.Errorf("%+v, %v", label, err)
	}
}

func TestReadBackupManifestIsWhatTheWriterWrote(t *testing.T) {
	crc := uint32(0x01020304)
	for version := 1; version <= 2; version++ {
		for _, count := range []int{0, 1, 100} {
			var out bytes.Buffer
			w := NewBackupManifestWriter(&out, BackupManifestOptions{Version: version, SystemID: 7})
			for i := range count {
				if err := w.File(BackupManifestFile{Path: "base/5/\xff\"" + strings.Repeat("x", i), Size: int64(i), CRC32C: &crc}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Finish([]WALRange{{1, 10, 20}, {2, 20, 30}}); err != nil {
				t.Fatal(err)
			}
			n := 0
			read := func(data []byte) ([]WALRange, error) {
				n = 0
				return ReadBackupManifest(bytes.NewReader(data), func(f BackupManifestFile) error {
					if f.Size != int64(n) || *f.CRC32C != crc || len(f.Path) != 9+n {
						t.Errorf("file %d is %+v", n, f)
					}
					n++
					return nil
				})
			}
			ranges, err := read(out.Bytes())
			if err != nil || n != count || !slices.Equal(ranges, []WALRange{{1, 10, 20}, {2, 20, 30}}) {
				t.Errorf("version %d: %d of %d files, %v, %v", version, n, count, ranges, err)
			}
			for name, damage := range map[string]func([]byte) []byte{
				"another number": func(b []byte) []byte { return bytes.Replace(b, []byte("0/1E"), []byte("0/1F"), 1) },
				"cut":            func(b []byte) []byte { return b[:len(b)-1] },
				"longer":         func(b []byte) []byte { return append(b, '\n') },
				"version 3":      func(b []byte) []byte { return append([]byte("{ \"PostgreSQL-Backup-Manifest-Version\": 3,\n"), b...) },
			} {
				if _, err := read(damage(bytes.Clone(out.Bytes()))); err == nil {
					t.Errorf("%s: no error", name)
				}
			}
		}
	}
}

func FuzzReadBackupManifest(f *testing.F) {
	var sample bytes.Buffer
	w, crc := NewBackupManifestWriter(&sample, BackupManifestOptions{Version: 2, SystemID: 7}), uint32(5)
	for _, path := range []string{"base/1/2", "odd \xff name", "quote\" \\ \n"} {
		if err := w.File(BackupManifestFile{Path: path, Size: 3, CRC32C: &crc}); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Finish([]WALRange{{Timeline: 1, Start: 0x28, End: 0x100}}); err != nil {
		f.Fatal(err)
	}
	f.Add(sample.Bytes())
	f.Fuzz(func(t *testing.T, content []byte) {
		none := func(BackupManifestFile) error { return nil }
		_, err := ReadBackupManifest(bytes.NewReader(content), none)
		if bytes.Equal(content, sample.Bytes()) && err != nil {
			t.Error(err)
		}
		if len(content) == 0 || err != nil {
			return
		}
		if _, err := ReadBackupManifest(bytes.NewReader(content[:len(content)-1]), none); err == nil {
			t.Error("a manifest that is cut short is accepted")
		}
	})
}
