package restore

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
)

// addBegun looks after the segments in which timelines begin. Such a segment is
// received again, from its first byte, under the new timeline's name. Until it has
// come to the switch point, what the server was told of as durable is under the old
// name only. Recovery prefers the new name, so that has to have the old one's bytes.
func (w *receivedWAL) addBegun(archive *walArchive) error {
	histories := maps.Clone(archive.histories)
	for tli, content := range w.histories {
		h, err := postgres.ParseHistory(tli, content)
		if err != nil {
			return fmt.Errorf("read received WAL: %w", err)
		}
		histories[tli] = h
	}
	// A timeline's number is above its parent's, so the parent's segment is settled first.
	for _, tli := range slices.Sorted(maps.Keys(histories)) {
		h := histories[tli]
		if len(h.Entries) == 0 {
			continue
		}
		if err := w.addBegunBy(archive, tli, h.Entries[len(h.Entries)-1]); err != nil {
			return err
		}
	}
	return nil
}

func (w *receivedWAL) addBegunBy(archive *walArchive, tli postgres.Timeline, parent postgres.HistoryEntry) error {
	n := parent.Switch.Segment(w.id.SegmentSize)
	begun := postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n}
	if _, there := archive.runEnd(tli, n); there {
		return nil
	}
	mine, err := w.progress(w.segments[begun], begun)
	if err != nil {
		return err
	}
	shared := int64(parent.Switch - begun.Start(w.id.SegmentSize))
	if _, there := archive.runEnd(parent.Timeline, n); there {
		if mine[0] < shared {
			delete(w.segments, begun) // the archive has more, under the old name
		}
		return nil
	}
	before := begun
	before.Timeline = parent.Timeline
	old := w.segments[before]
	old.use = min(old.use, shared)
	theirs, err := w.progress(old, before)
	if err == nil && slices.Compare(theirs[:], mine[:]) > 0 {
		w.segments[begun] = old
	}
	return err
}

// progress tells how many bytes of a segment are valid WAL as far as can be seen,
// and how many there are: of a segment that begins amid a record no more can be
// said until another one follows. Both are 0 for a file that is not there.
func (w *receivedWAL) progress(from receivedFile, as postgres.WALFile) (p [2]int64, err error) {
	if from.Timeline == 0 {
		return p, nil
	}
	file, err := w.open(from)
	if err != nil {
		return p, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, from.use))
	if err != nil {
		return p, fmt.Errorf("read received WAL: %w", err)
	}
	end, err := received.ValidEnd(data, as, w.id)
	return [2]int64{int64(end - as.Start(w.id.SegmentSize)), int64(len(data))}, err
}

// open opens a file of the directory.
func (w *receivedWAL) open(f receivedFile) (*os.File, error) {
	file, err := w.dir.OpenFile(f.WALFile, w.id.SegmentSize)
	if err != nil {
		return nil, fmt.Errorf("read received WAL: %w", err)
	}
	return file, nil
}
