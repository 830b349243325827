package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Spool collects content whose length is not known beforehand, such as a
// manifest, so that it can be Put. The first bytes are kept in memory; when
// they become too many, everything goes to a temporary file that has no name,
// so that it is gone when the process ends, however it ends.
//
// A Spool is written by one goroutine; its sources may then be read by several.
type Spool struct {
	memory int
	dir    string
	buf    []byte
	file   *os.File // nil as long as everything is in buf
	size   int64
	err    error // the first failure; it stays
}

// NewSpool returns an empty Spool that keeps up to memory bytes in memory and
// what is longer in an unlinked file in dir, or in [os.TempDir] when dir is "".
func NewSpool(memory int, dir string) *Spool {
	return &Spool{memory: memory, dir: dir}
}

// Write appends p. After an error the content is incomplete: all further
// Writes fail with the same error, and so does opening a source.
func (s *Spool) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil && len(s.buf)+len(p) > s.memory {
		if s.err = s.spill(); s.err != nil {
			return 0, s.err
		}
	}
	if s.file == nil {
		s.buf = append(s.buf, p...)
		s.size += int64(len(p))
		return len(p), nil
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	if err != nil {
		s.err = fmt.Errorf("write temporary file: %w", err)
	}
	return n, s.err
}

// spill moves the content from memory to a file.
func (s *Spool) spill() error {
	file, err := os.CreateTemp(s.dir, "pgbak-spool-")
	if err != nil {
		return fmt.Errorf("create temporary file: %w", err)
	}
	// Without a name from the first byte on: the content may be secret, and
	// nobody would clean up after a killed process.
	err = os.Remove(file.Name())
	if err == nil {
		_, err = file.Write(s.buf)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("prepare temporary file: %w", err), file.Close())
	}
	s.file, s.buf = file, nil
	return nil
}

// ReadAt reads what was written before, as [io.ReaderAt]; not while Write is called.
func (s *Spool) ReadAt(p []byte, off int64) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil {
		return bytes.NewReader(s.buf).ReadAt(p, off)
	}
	return s.file.ReadAt(p, off)
}

// Size is the number of bytes written so far.
func (s *Spool) Size() int64 { return s.size }

// Source gives what has been written so far; it can be opened any number of
// times, at the same time too, until the Spool is closed.
func (s *Spool) Source() Source {
	if s.file == nil {
		// Bytes beyond this length may be appended later, these stay.
		return spoolSource{spool: s, content: bytes.NewReader(s.buf), size: s.size}
	}
	return spoolSource{spool: s, content: s.file, size: s.size}
}

type spoolSource struct {
	spool   *Spool
	content io.ReaderAt
	size    int64
}

func (s spoolSource) Size() int64 { return s.size }

func (s spoolSource) Open() (io.ReadCloser, error) {
	if s.spool.err != nil {
		return nil, s.spool.err
	}
	return sectionReader{io.NewSectionReader(s.content, 0, s.size)}, nil
}

// sectionReader has nothing to close: the file is the Spool's.
type sectionReader struct{ *io.SectionReader }

func (sectionReader) Close() error { return nil }

// Close frees the memory and the file. Sources cannot be opened any more.
func (s *Spool) Close() error {
	if errors.Is(s.err, os.ErrClosed) {
		return nil
	}
	s.err = fmt.Errorf("spool: %w", os.ErrClosed)
	s.buf = nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
