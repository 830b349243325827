package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
)

const (
	incSegment = 64  // blocks
	incPage    = 512 // bytes
)

// incrementalContent makes a file as a server sends it.
func incrementalContent(truncation uint32, blocks ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, incrementalMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(blocks)))
	b = binary.LittleEndian.AppendUint32(b, truncation)
	for _, n := range blocks {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	if len(blocks) > 0 {
		b = append(b, make([]byte, (incPage-len(b)%incPage)%incPage)...)
	}
	for _, n := range blocks {
		b = append(b, bytes.Repeat([]byte{byte(n) + 1}, incPage)...)
	}
	return b
}

func TestReadIncrementalFile(t *testing.T) {
	content := incrementalContent(10, 1, 7, 12)
	r := bytes.NewReader(content)
	f, err := ReadIncrementalFile(r, int64(len(content)), incPage, incSegment)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Blocks, []uint32{1, 7, 12}) || f.Truncation != 10 || f.Length() != 13 || r.Len() != 3*incPage {
		t.Errorf("%+v of length %d, %d bytes left", f, f.Length(), r.Len())
	}
	if next, _ := r.ReadByte(); next != 2 {
		t.Errorf("it does not stand at the first block: %d", next)
	}
}

// Servers without the bound give the earlier segments of a relation that was
// truncated its whole length. pg_combinebackup refuses such files.
func TestALengthBeyondTheSegmentIsThatOfTheSegment(t *testing.T) {
	content := incrementalContent(3*incSegment, 5)
	f, err := ReadIncrementalFile(bytes.NewReader(content), int64(len(content)), incPage, incSegment)
	if err != nil || f.Length() != incSegment {
		t.Errorf("length %d, error %v", f.Length(), err)
	}
}

func TestIncrementalFilesThatAreRefused(t *testing.T) {
	good := incrementalContent(10, 1, 7)
	for want, content := range map[string][]byte{
		"EOF":            good[:8],
		"begins with":    append([]byte{1}, good[1:]...),
		"want 1536":      good[:len(good)-1],
		"in a segment":   incrementalContent(1, make([]uint32, incSegment+1)...),
		"place 1 is out": incrementalContent(10, 7, 7),
		"place 0 is out": incrementalContent(10, incSegment),
	} {
		_, err := ReadIncrementalFile(bytes.NewReader(content), int64(len(content)), incPage, incSegment)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in error %v", want, err)
		}
	}
}

func FuzzReadIncrementalFile(f *testing.F) {
	f.Add(incrementalContent(10, 1, 7, 12))
	f.Add(incrementalContent(0))
	f.Add(incrementalContent(3 * incSegment))
	f.Fuzz(func(t *testing.T, content []byte) {
		r := bytes.NewReader(content)
		inc, err := ReadIncrementalFile(r, int64(len(content)), incPage, incSegment)
		if err != nil {
			return
		}
		if r.Len() != len(inc.Blocks)*incPage || inc.Length() > incSegment || !slices.IsSorted(inc.Blocks) {
			t.Errorf("%d bytes left of %+v", r.Len(), inc)
		}
	})
}

func FuzzReadBackupManifest(f *testing.F) {
	var sample bytes.Buffer
	w := NewBackupManifestWriter(&sample, BackupManifestOptions{Version: 2, SystemID: 7})
	crc := uint32(5)
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
		files := 0
		_, err := ReadBackupManifest(bytes.NewReader(content), func(BackupManifestFile) error { files++; return nil })
		if bytes.Equal(content, sample.Bytes()) && (err != nil || files != 3) {
			t.Errorf("%d files, error %v", files, err)
		}
		if _, cut := ReadBackupManifest(io.LimitReader(bytes.NewReader(content), int64(len(content))-1), func(BackupManifestFile) error { return nil }); cut == nil && err == nil {
			t.Error("a manifest that is cut short is accepted")
		}
	})
}
