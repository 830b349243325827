package received

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// ErrDiffers is wrapped by the error of a write that brings other WAL than was
// received before for the same positions of the same timeline: the server's
// history is not the one that was followed.
var ErrDiffers = errors.New("the server's WAL differs from what was received")

// Segment is a segment that is being received, in its partial file.
type Segment struct {
	d    *Directory
	file *os.File
	name string
	id   Identity
	f    postgres.WALFile
	// next is the offset of the next byte, durable that before which all is
	// durable in the sense of the package's page.
	next, durable int64
	// entered is whether the directory's entry is durable.
	entered bool
	// known are the first bytes that were received before, from whatever file:
	// the server has to send the same ones.
	known     io.ReaderAt
	knownSize int64
	knownFile *os.File // closed with the segment, if it is another one
	broken    error    // nothing can be said of the file any more
	buffer    []byte
}

// Begin opens the partial file of a segment, which may be there, at its first
// byte. What it holds counts for nothing until it was written again, but what of
// it is valid WAL must come again the same. before is the timeline that the
// segment was begun on and how many bytes of it are shared, or 0.
func (d *Directory) Begin(id Identity, f postgres.WALFile, before postgres.Timeline, shared int64) (*Segment, error) {
	f.Kind = postgres.WALPartial
	s := &Segment{d: d, id: id, f: f, name: f.Name(id.SegmentSize)}
	var err error
	if s.file, err = d.disk.Create(d.Path(s.name)); err != nil {
		return nil, fmt.Errorf("write received WAL: %w", err)
	}
	if s.knownSize, err = validSize(s.file, f, id); err == nil {
		s.known = s.file
		err = s.knowFrom(before, shared)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// knowFrom makes the shared bytes of another timeline's partial file known, if it
// is there and tells of more than the segment's own.
func (s *Segment) knowFrom(before postgres.Timeline, shared int64) error {
	if before == 0 || shared <= s.knownSize {
		return nil
	}
	old := s.f
	old.Timeline = before
	file, err := os.Open(s.d.Path(old.Name(s.id.SegmentSize)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read received WAL: %w", err)
	}
	s.knownFile = file
	size, err := validSize(file, old, s.id)
	if size = min(size, shared); err == nil && size > s.knownSize {
		s.known, s.knownSize = file, size
	}
	return err
}

// validSize tells how many bytes of a file are valid WAL. Behind them is nothing
// that a server could have been told of as flushed: remains of a crash, or the
// beginning of a record.
func validSize(file *os.File, f postgres.WALFile, id Identity) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("read received WAL: %w", err)
	}
	if info.Size() < postgres.WALHeaderSize {
		return 0, nil
	}
	data := make([]byte, min(info.Size(), id.SegmentSize))
	if _, err := file.ReadAt(data, 0); err != nil {
		return 0, fmt.Errorf("read received WAL: %w", err)
	}
	end, err := ValidEnd(data, f, id)
	return int64(end - f.Start(id.SegmentSize)), err
}

// ValidEnd is where the valid WAL in the first bytes of a segment ends. Content
// that is no WAL of the cluster ends at once.
func ValidEnd(data []byte, f postgres.WALFile, id Identity) (postgres.LSN, error) {
	start := f.Start(id.SegmentSize)
	size := postgres.LSN(len(data))
	h, err := postgres.ParseWALHeader(data)
	if err != nil || h.SystemID != id.SystemID || h.SegmentSize != id.SegmentSize || h.PageAddr != start {
		return start, nil
	}
	if rest := len(data) % h.BlockSize; rest != 0 {
		data = append(data[:len(data):len(data)], make([]byte, h.BlockSize-rest)...)
	}
	scanner := postgres.NewWALScanner(h.Major(), h.SegmentSize, h.BlockSize)
	err = scanner.Scan(start, f.Timeline, data, func(postgres.WALEvent) error { return nil })
	if err != nil {
		return 0, fmt.Errorf("read received WAL %s: %w", f.Name(id.SegmentSize), err)
	}
	// What follows a record that switches segments may come otherwise the next time.
	if end, ok := scanner.Switched(); ok {
		return end, nil
	}
	return min(scanner.End(), start+size), nil
}

// Write appends what it can of p, up to the end of the segment, and says how much
// that was, also with an error. After an error that is not ErrDiffers the rest may
// be written again.
func (s *Segment) Write(p []byte) (int, error) {
	if s.broken != nil {
		return 0, s.broken
	}
	p = p[:min(int64(len(p)), s.id.SegmentSize-s.next)]
	if err := s.compare(p); err != nil {
		return 0, err
	}
	n, err := s.d.disk.WriteAt(s.file, p, s.next)
	s.next += int64(n)
	if err != nil {
		return n, fmt.Errorf("write received WAL %s: %w", s.name, err)
	}
	return n, s.checkHead(int64(n))
}

// compare makes sure that known bytes come again the same.
func (s *Segment) compare(p []byte) error {
	n := min(int64(len(p)), s.knownSize-s.next)
	if n <= 0 {
		return nil
	}
	if int64(cap(s.buffer)) < n {
		s.buffer = make([]byte, n)
	}
	old := s.buffer[:n]
	if _, err := s.known.ReadAt(old, s.next); err != nil {
		return fmt.Errorf("read received WAL %s: %w", s.name, err)
	}
	if bytes.Equal(old, p[:n]) {
		return nil
	}
	at := 0
	for old[at] == p[at] {
		at++
	}
	return hint.Wrap(fmt.Errorf("%w: %s at %s", ErrDiffers, s.name, s.f.Start(s.id.SegmentSize)+postgres.LSN(s.next+int64(at))),
		"the server was restored or rewound without a new timeline, or is another copy of the cluster: find out which of the two histories is wanted; %s holds the other. Nothing was overwritten.", s.d.path)
}

// checkHead compares the segment's header with its name as soon as it is there,
// before anything of the segment is durable.
func (s *Segment) checkHead(written int64) error {
	if s.next < postgres.WALHeaderSize || s.next-written >= postgres.WALHeaderSize {
		return nil
	}
	var head [postgres.WALHeaderSize]byte
	_, err := s.file.ReadAt(head[:], 0)
	if err == nil {
		err = CheckHead(head[:], s.f, s.id)
	}
	if err != nil {
		s.broken = fmt.Errorf("received WAL %s: %w", s.name, err)
	}
	return s.broken
}

// CheckHead compares the header of a segment with its name and the cluster.
func CheckHead(head []byte, f postgres.WALFile, id Identity) error {
	h, err := postgres.ParseWALHeader(head)
	switch {
	case err != nil:
		return err
	case h.SystemID != id.SystemID || h.SegmentSize != id.SegmentSize || h.Major() != id.Major:
		return fmt.Errorf("it is of system identifier %d, PostgreSQL %d, with segments of %d bytes", h.SystemID, h.Major(), h.SegmentSize)
	case h.PageAddr != f.Start(id.SegmentSize) || h.Timeline > f.Timeline:
		return fmt.Errorf("it begins with the page of %s on timeline %d", h.PageAddr, h.Timeline)
	}
	return nil
}

// Full tells whether every byte of the segment is written.
func (s *Segment) Full() bool { return s.next == s.id.SegmentSize }

// Durable is the position before which the segment is durable.
func (s *Segment) Durable() postgres.LSN {
	return s.f.Start(s.id.SegmentSize) + postgres.LSN(s.durable)
}

// Sync makes what was written durable. After an error the segment is of no use
// any more and has to be begun anew.
func (s *Segment) Sync() error {
	if s.broken != nil {
		return s.broken
	}
	if s.durable == s.next && s.entered {
		return nil
	}
	err := s.d.disk.Sync(s.file)
	if err == nil && !s.entered {
		err = s.d.sync()
	}
	if err != nil {
		s.broken = fmt.Errorf("make received WAL %s durable: %w", s.name, err)
		return s.broken
	}
	s.entered, s.durable = true, s.next
	return nil
}

// Complete gives a full segment its name; durable on return, and closed.
func (s *Segment) Complete() error {
	if !s.Full() {
		return fmt.Errorf("received WAL %s has %d of %d bytes", s.name, s.next, s.id.SegmentSize)
	}
	if err := s.Sync(); err != nil {
		return err
	}
	whole := s.f
	whole.Kind = postgres.WALSegment
	err := s.d.disk.Rename(s.d.Path(s.name), s.d.Path(whole.Name(s.id.SegmentSize)))
	if err == nil {
		err = s.d.sync()
	}
	if err != nil {
		s.broken = fmt.Errorf("complete received WAL %s: %w", s.name, err)
		return s.broken
	}
	s.Close()
	return nil
}

// Close closes the file as it is.
func (s *Segment) Close() {
	_ = s.file.Close()
	if s.knownFile != nil {
		_ = s.knownFile.Close()
	}
}
