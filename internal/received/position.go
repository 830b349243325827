package received

import (
	"fmt"
	"os"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Position is where received WAL ends.
type Position struct {
	Timeline postgres.Timeline
	// End is the position after the last valid WAL of the last file.
	End postgres.LSN
	// Next is where receiving goes on: at the beginning of the last file if it is a
	// partial one, else behind it.
	Next postgres.LSN
}

// Position finds the end of what is in the directory: of the last file of the
// newest timeline, since a receiver never goes back. ok is false if it holds no
// segment at all.
func (d *Directory) Position(id Identity) (p Position, ok bool, err error) {
	files, err := d.Files(id.SegmentSize)
	if err != nil {
		return p, false, err
	}
	for _, f := range files {
		if f.Kind == postgres.WALHistory {
			continue
		}
		start := f.Start(id.SegmentSize)
		p, ok = Position{Timeline: f.Timeline, End: start, Next: start}, true
		if f.Kind == postgres.WALSegment {
			p.End += postgres.LSN(id.SegmentSize)
			p.Next = p.End
			continue
		}
		size, err := d.partialSize(f, id)
		if err != nil {
			return p, false, err
		}
		p.End = start + postgres.LSN(size)
	}
	return p, ok, nil
}

func (d *Directory) partialSize(f postgres.WALFile, id Identity) (int64, error) {
	file, err := os.Open(d.Path(f.Name(id.SegmentSize)))
	if err != nil {
		return 0, fmt.Errorf("read received WAL: %w", err)
	}
	defer file.Close()
	return validSize(file, f, id)
}
