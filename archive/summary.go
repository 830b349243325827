package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// maxEarlier bounds, in bytes, what is read of the segments before a pushed one,
// for the record that crosses into it. Hardly one has a MiB; PostgreSQL's largest,
// of 1 GiB, are left to whoever needs the summary, since the server waits here.
const maxEarlier = 64 << 20

// summarize begins to make the summary of the file, if it is a segment, in the
// background. Whatever is in the way of that keeps the summary away, never the file.
func (w *walFile) summarize(content *repo.WALContent) {
	f, err := postgres.ParseWALFile(filepath.Base(w.path), w.size)
	if err != nil || f.Kind != postgres.WALSegment {
		return
	}
	content.Summarize(func(data []byte) (repo.WALSummary, error) {
		h, err := postgres.ParseWALHeader(data)
		if err != nil {
			return repo.WALSummary{}, err
		}
		if h.SegmentSize != w.size {
			return repo.WALSummary{}, fmt.Errorf("it has %d bytes, its header says %d", w.size, h.SegmentSize)
		}
		earlier := earlierWAL{dir: filepath.Dir(w.path), segmentSize: w.size, left: maxEarlier}
		s, err := postgres.SummarizeSegment(h.Major(), h.SegmentSize, h.BlockSize, f, data, earlier.read)
		if err != nil {
			return repo.WALSummary{}, err
		}
		if s.From >= s.To {
			return repo.WALSummary{}, errors.New("no record ends in it")
		}
		w.hole = s.Hole
		return repo.WALSummary{Timeline: s.Timeline, From: s.From, To: s.To, Table: s.Table.Encode()}, nil
	})
}

// logSummary says why a segment has no summary, or one that does not follow on
// that of the segment before. It is to be called when all is stored.
func (p *Pusher) logSummary(ctx context.Context, file *walFile, content *repo.WALContent) {
	_, err := content.Summary(ctx)
	if errors.Is(err, repo.ErrNoSummary) {
		return // not asked for
	}
	name := filepath.Base(file.path)
	if err != nil {
		p.Log.Debug("archived without a summary of its changes", "file", name, "cause", err)
	} else if file.hole != nil {
		p.Log.Debug("its summary has a hole before it", "file", name, "cause", file.hole)
	}
}

// earlierWAL are the segments in the directory of the pushed one. They may be
// gone, or used again for newer WAL: who reads a record by them goes by its CRC.
type earlierWAL struct {
	dir         string
	segmentSize int64
	left        int64 // bytes that may still be read
}

// read gives a segment's bytes from offset to its end.
func (e *earlierWAL) read(name string, offset int64) ([]byte, error) {
	n := e.segmentSize - offset
	if n > e.left {
		return nil, fmt.Errorf("more than %d bytes of earlier segments are needed", maxEarlier)
	}
	e.left -= n
	f, err := look(filepath.Join(e.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f.file, offset, n), data); err != nil {
		return nil, fmt.Errorf("read WAL file %s: %w", f.path, err)
	}
	return data, nil
}
