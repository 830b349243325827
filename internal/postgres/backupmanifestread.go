package postgres

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// maxManifestLine bounds one line of a manifest in bytes: a path of 1024,
// escaped or in hex, and the rest.
const maxManifestLine = 16 << 10

// ReadBackupManifest reads the manifest that a server sends in memory for one
// line, gives each file to file, and returns the WAL ranges. It knows the lines
// that servers and BackupManifestWriter write, and refuses JSON of another form.
// The manifest's own checksum is verified at the end: until then nothing that
// file was given is certain.
func ReadBackupManifest(r io.Reader, file func(BackupManifestFile) error) ([]WALRange, error) {
	m := manifestLines{in: bufio.NewReaderSize(r, maxManifestLine), sum: sha256.New()}
	if err := m.head(); err != nil {
		return nil, err
	}
	err := m.list("],", func(line []byte) error {
		var f manifestFile
		if err := json.Unmarshal(line, &f); err != nil {
			return err
		}
		decoded, err := f.decode()
		if err != nil {
			return err
		}
		return file(decoded)
	})
	if err != nil {
		return nil, err
	}
	if line, err := m.next(); err != nil || line != "\"WAL-Ranges\": [" {
		return nil, m.wrong(line, err)
	}
	var ranges []WALRange
	err = m.list("],", func(line []byte) error {
		var w manifestRange
		if err := json.Unmarshal(line, &w); err != nil {
			return err
		}
		ranges = append(ranges, WALRange{Timeline: Timeline(w.Timeline), Start: w.Start, End: w.End})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ranges, m.end()
}

// manifestLines reads a manifest line by line and sums it up.
type manifestLines struct {
	in    *bufio.Reader
	sum   hash.Hash
	count int
}

// next gives a line without its end.
func (m *manifestLines) next() (string, error) {
	line, err := m.in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return "", fmt.Errorf("backup manifest: line %d: %w", m.count+1, err)
	}
	m.count++
	m.sum.Write(line)
	return string(line[:len(line)-1]), nil
}

// wrong is the error for a line that is not what comes in its place.
func (m *manifestLines) wrong(line string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("backup manifest: line %d: %q is not known here", m.count, clip(line))
}

// head reads up to the list of files.
func (m *manifestLines) head() error {
	line, err := m.next()
	version, ok := strings.CutPrefix(line, "{ \"PostgreSQL-Backup-Manifest-Version\": ")
	if err != nil || !ok || version != "1," && version != "2," {
		return m.wrong(line, err)
	}
	if version == "2," {
		if line, err = m.next(); err != nil || !strings.HasPrefix(line, "\"System-Identifier\": ") {
			return m.wrong(line, err)
		}
	}
	if line, err = m.next(); err != nil || line != "\"Files\": [" {
		return m.wrong(line, err)
	}
	return nil
}

// list gives the objects of a list, one on each line, up to the line last.
func (m *manifestLines) list(last string, object func([]byte) error) error {
	for {
		line, err := m.next()
		if err != nil || line == last {
			return err
		}
		if err := object(bytes.TrimSuffix([]byte(line), []byte(","))); err != nil {
			return fmt.Errorf("backup manifest: line %d: %w", m.count, err)
		}
	}
}

// end compares the checksum, which is of all lines but the last.
func (m *manifestLines) end() error {
	sum := m.sum.Sum(nil)
	line, err := m.next()
	if err != nil || line != fmt.Sprintf("\"Manifest-Checksum\": \"%x\"}", sum) {
		if err == nil {
			err = fmt.Errorf("backup manifest: its last line %q does not hold the computed checksum %x", clip(line), sum)
		}
		return err
	}
	if _, err := m.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("backup manifest: something follows its end"), err)
	}
	return nil
}
