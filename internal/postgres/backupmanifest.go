package postgres

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// BackupManifestOptions says what kind of manifest to write.
type BackupManifestOptions struct {
	// Version is 1 up to PostgreSQL 16 and 2 from 17 on.
	Version int
	// SystemID is the cluster's system identifier, written in version 2 only.
	SystemID uint64
}

// BackupManifestFile is one file of a base backup.
type BackupManifestFile struct {
	// Path is relative to the data directory, with slashes, in any encoding.
	Path string
	// Size is in bytes.
	Size int64
	// ModTime is kept to the second.
	ModTime time.Time
	// CRC32C is the checksum of the content, or nil if it is not known: then
	// pg_verifybackup only compares the size.
	CRC32C *uint32
}

// WALRange is the WAL that a backup needs on one timeline: from Start up to, not
// including, End.
type WALRange struct {
	Timeline   Timeline
	Start, End LSN
}

// BackupManifestWriter writes a backup_manifest, the list of files against which
// pg_verifybackup checks a base backup, in memory that does not grow with the
// number of files. The format is that of PostgreSQL's documentation, chapter
// "Backup Manifest Format", with the line breaks of the server's own manifests:
// PostgreSQL's parsers find the manifest's checksum by its being on the last line.
//
// Call File for every file, then Finish once. After an error every further call
// reports that error.
type BackupManifestWriter struct {
	out   *bufio.Writer
	sum   hash.Hash
	line  []byte
	files int
	err   error
}

// manifestTime is the layout of Last-Modified, always in GMT.
const manifestTime = "2006-01-02 15:04:05 GMT"

// errManifestFinished is what a writer says after Finish.
var errManifestFinished = errors.New("backup manifest: already finished")

// NewBackupManifestWriter begins a manifest on w.
func NewBackupManifestWriter(w io.Writer, o BackupManifestOptions) *BackupManifestWriter {
	m := &BackupManifestWriter{out: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
	switch o.Version {
	case 1:
		m.line = append(m.line, "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"...)
	case 2:
		m.line = append(m.line, "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": "...)
		m.line = strconv.AppendUint(m.line, o.SystemID, 10)
		m.line = append(m.line, ",\n"...)
	default:
		m.err = fmt.Errorf("backup manifest: version %d is not known (known: 1, 2)", o.Version)
	}
	m.line = append(m.line, "\"Files\": ["...)
	m.flushLine()
	return m
}

// flushLine sends m.line on its way and counts it in the manifest's checksum.
func (m *BackupManifestWriter) flushLine() {
	if m.err == nil {
		m.sum.Write(m.line)
		if _, err := m.out.Write(m.line); err != nil {
			m.err = fmt.Errorf("backup manifest: %w", err)
		}
	}
	m.line = m.line[:0]
}

// File adds one file. Paths are not compared with one another; PostgreSQL
// refuses a manifest that names one twice.
func (m *BackupManifestWriter) File(f BackupManifestFile) error {
	if m.err == nil && (f.Path == "" || f.Size < 0) {
		m.err = fmt.Errorf("backup manifest: file %q with %d bytes", f.Path, f.Size)
	}
	if m.err != nil {
		return m.err
	}
	if m.files++; m.files > 1 {
		m.line = append(m.line, ',')
	}
	m.line = append(m.line, "\n{ "...)
	if utf8.ValidString(f.Path) {
		m.line = append(m.line, "\"Path\": "...)
		m.line = appendManifestString(m.line, f.Path)
	} else {
		m.line = append(m.line, "\"Encoded-Path\": \""...)
		m.line = hex.AppendEncode(m.line, []byte(f.Path))
		m.line = append(m.line, '"')
	}
	m.line = append(m.line, ", \"Size\": "...)
	m.line = strconv.AppendInt(m.line, f.Size, 10)
	m.line = append(m.line, ", \"Last-Modified\": \""...)
	m.line = f.ModTime.UTC().AppendFormat(m.line, manifestTime)
	m.line = append(m.line, '"')
	if f.CRC32C != nil {
		m.line = append(m.line, ", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \""...)
		m.line = hex.AppendEncode(m.line, manifestChecksum(*f.CRC32C))
		m.line = append(m.line, '"')
	}
	m.line = append(m.line, " }"...)
	m.flushLine()
	return m.err
}

// manifestChecksum gives the bytes of a CRC in the order in which the server,
// which copies them from memory, writes them.
func manifestChecksum(crc uint32) []byte { return binary.LittleEndian.AppendUint32(nil, crc) }

// appendManifestString appends s as a JSON string, escaped as PostgreSQL's
// escape_json does.
func appendManifestString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case strings.IndexByte("\b\f\n\r\t", c) >= 0:
			b = append(b, '\\', "btn-fr"[c-'\b'])
		default:
			b = fmt.Appendf(b, "\\u%04x", c)
		}
	}
	return append(b, '"')
}

// Finish adds the WAL ranges and the SHA-256 of all that was written before it.
// It does not close the writer below.
func (m *BackupManifestWriter) Finish(ranges []WALRange) error {
	m.line = append(m.line, "\n],\n\"WAL-Ranges\": [\n"...)
	for i, r := range ranges {
		comma := ","
		if i == len(ranges)-1 {
			comma = ""
		}
		m.line = fmt.Appendf(m.line, "{ \"Timeline\": %d, \"Start-LSN\": \"%s\", \"End-LSN\": \"%s\" }%s\n",
			uint32(r.Timeline), r.Start, r.End, comma)
	}
	m.line = append(m.line, "],\n"...)
	m.flushLine()
	m.line = fmt.Appendf(m.line, "\"Manifest-Checksum\": \"%x\"}\n", m.sum.Sum(nil))
	m.flushLine()
	if m.err != nil {
		return m.err
	}
	if err := m.out.Flush(); err != nil {
		m.err = fmt.Errorf("backup manifest: %w", err)
		return m.err
	}
	m.err = errManifestFinished
	return nil
}
