package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// BackupManifest is a backup_manifest in memory.
type BackupManifest struct {
	// Version is 1 or 2; SystemID is 0 in version 1, which has none.
	Version   int
	SystemID  uint64
	Files     []BackupManifestFile
	WALRanges []WALRange
}

// manifestDocument is the JSON of a manifest. Pointers tell what is missing from
// what is zero.
type manifestDocument struct {
	Version   int             `json:"PostgreSQL-Backup-Manifest-Version"`
	SystemID  *uint64         `json:"System-Identifier"`
	Files     []manifestFile  `json:"Files"`
	WALRanges []manifestRange `json:"WAL-Ranges"`
	Checksum  string          `json:"Manifest-Checksum"`
}

type manifestFile struct {
	Path        *string `json:"Path"`
	EncodedPath *string `json:"Encoded-Path"`
	Size        *int64  `json:"Size"`
	ModTime     string  `json:"Last-Modified"`
	Algorithm   string  `json:"Checksum-Algorithm"`
	Checksum    string  `json:"Checksum"`
}

type manifestRange struct {
	Timeline uint32 `json:"Timeline"`
	Start    LSN    `json:"Start-LSN"`
	End      LSN    `json:"End-LSN"`
}

// ParseBackupManifest reads a manifest, checks its own checksum, and refuses keys
// that it does not know and file checksums other than CRC32C (pg_basebackup makes
// others on request). Memory grows with the number of files.
func ParseBackupManifest(data []byte) (BackupManifest, error) {
	if !utf8.Valid(data) {
		return BackupManifest{}, errors.New("backup manifest: not UTF-8")
	}
	var doc manifestDocument
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return BackupManifest{}, fmt.Errorf("backup manifest: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return BackupManifest{}, errors.New("backup manifest: something follows its end")
	}
	if err := checkManifest(data, doc); err != nil {
		return BackupManifest{}, err
	}
	m := BackupManifest{Version: doc.Version}
	if doc.SystemID != nil {
		m.SystemID = *doc.SystemID
	}
	for i, f := range doc.Files {
		file, err := f.decode()
		if err != nil {
			return BackupManifest{}, fmt.Errorf("backup manifest: file %d: %w", i+1, err)
		}
		m.Files = append(m.Files, file)
	}
	for _, r := range doc.WALRanges {
		m.WALRanges = append(m.WALRanges, WALRange{Timeline: Timeline(r.Timeline), Start: r.Start, End: r.End})
	}
	return m, nil
}

// checkManifest checks the version, and the checksum over all lines but the last.
func checkManifest(data []byte, doc manifestDocument) error {
	if doc.Version != 1 && doc.Version != 2 {
		return fmt.Errorf("backup manifest: version %d is not known (known: 1, 2)", doc.Version)
	}
	if (doc.Version == 2) != (doc.SystemID != nil) {
		return fmt.Errorf("backup manifest: version %d has a system identifier in version 2 only", doc.Version)
	}
	body, ended := bytes.CutSuffix(data, []byte("\n"))
	last := bytes.LastIndexByte(body, '\n') + 1
	sum := sha256.Sum256(data[:last])
	want := fmt.Sprintf("\"Manifest-Checksum\": \"%x\"}", sum)
	if !ended || doc.Checksum != hex.EncodeToString(sum[:]) || string(body[last:]) != want {
		return fmt.Errorf("backup manifest: checksum %q does not match the computed %x", clip(doc.Checksum), sum)
	}
	return nil
}

func (f manifestFile) decode() (BackupManifestFile, error) {
	var out BackupManifestFile
	switch {
	case f.Path != nil && f.EncodedPath == nil:
		out.Path = *f.Path
	case f.EncodedPath != nil && f.Path == nil:
		path, err := hex.DecodeString(*f.EncodedPath)
		if err != nil {
			return out, fmt.Errorf("encoded path: %w", err)
		}
		out.Path = string(path)
	}
	if out.Path == "" {
		return out, errors.New("not one path")
	}
	if f.Size == nil || *f.Size < 0 {
		return out, fmt.Errorf("%q has no size", clip(out.Path))
	}
	out.Size = *f.Size
	var err error
	if out.ModTime, err = time.Parse(manifestTime, f.ModTime); err != nil {
		return out, fmt.Errorf("%q: %w", clip(out.Path), err)
	}
	out.CRC32C, err = f.decodeChecksum()
	return out, err
}

func (f manifestFile) decodeChecksum() (*uint32, error) {
	if f.Algorithm == "" && f.Checksum == "" {
		return nil, nil
	}
	raw, err := hex.DecodeString(f.Checksum)
	if f.Algorithm != "CRC32C" || err != nil || len(raw) != 4 {
		return nil, fmt.Errorf("checksum %q of kind %q (want eight hexadecimal digits of CRC32C)", clip(f.Checksum), clip(f.Algorithm))
	}
	crc := binary.LittleEndian.Uint32(raw)
	return &crc, nil
}
