package received

import (
	"fmt"
	"os"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Settle makes a whole segment what its primary has. Behind a record that switches
// to the next segment a primary writes zeros. A standby that has replayed the
// record passes for having all of the segment, and sends what its file holds there,
// which may be of an older use of the file. To recovery that is all the same, but
// the segment would not be the same as the one that archive_command stores.
func (d *Directory) Settle(f postgres.WALFile, id Identity) error {
	name := f.Name(id.SegmentSize)
	file, err := os.OpenFile(d.Path(name), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("read received WAL: %w", err)
	}
	defer file.Close()
	data := make([]byte, id.SegmentSize)
	if _, err := file.ReadAt(data, 0); err != nil {
		return fmt.Errorf("read received WAL %s: %w", name, err)
	}
	h, err := postgres.ParseWALHeader(data)
	if err != nil || h.SegmentSize != id.SegmentSize {
		return nil // whoever takes the file next will say so
	}
	scanner := postgres.NewWALScanner(h.Major(), h.SegmentSize, h.BlockSize)
	if err := scanner.Scan(f.Start(id.SegmentSize), f.Timeline, data, func(postgres.WALEvent) error { return nil }); err != nil {
		return fmt.Errorf("read received WAL %s: %w", name, err)
	}
	end, ok := scanner.Switched()
	if !ok {
		return nil
	}
	rest := data[end-f.Start(id.SegmentSize):]
	if postgres.IsZero(rest) {
		return nil
	}
	clear(rest)
	if _, err := d.disk.WriteAt(file, rest, id.SegmentSize-int64(len(rest))); err != nil {
		return fmt.Errorf("write received WAL %s: %w", name, err)
	}
	if err := d.disk.Sync(file); err != nil {
		return fmt.Errorf("make received WAL %s durable: %w", name, err)
	}
	return nil
}
