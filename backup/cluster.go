package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

const controlPath = "global/pg_control"

const (
	controlAttempts = 50
	controlWait     = 20 * time.Millisecond
)

// readControl reads pg_control until its checksum is right: the server
// rewrites it in place.
func readControl(ctx context.Context, pgdata string) ([]byte, postgres.Control, error) {
	name := filepath.Join(pgdata, controlPath)
	for attempt := 1; ; attempt++ {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, postgres.Control{}, hint.Wrap(fmt.Errorf("read pg_control: %w", err),
				"pgdata in the configuration must be the data directory of the cluster, readable by this user.")
		}
		control, err := postgres.ParseControl(data)
		if err == nil {
			return data, control, nil
		}
		if attempt == controlAttempts {
			return nil, control, fmt.Errorf("read %s: %w", name, err)
		}
		if err := pause.For(ctx, controlWait); err != nil {
			return nil, control, err
		}
	}
}

// waitForCheckpoint waits until the files show the checkpoint that began the
// backup: were they another copy of the cluster, or a stale file system, it
// would never come.
func waitForCheckpoint(ctx context.Context, pgdata string, start postgres.LSN) (postgres.Control, error) {
	for attempt := 1; ; attempt++ {
		_, control, err := readControl(ctx, pgdata)
		if err != nil {
			return control, err
		}
		if control.Redo >= start {
			return control, nil
		}
		if attempt == controlAttempts {
			return control, hint.Wrap(fmt.Errorf("the checkpoint that began the backup at %s is not in %s: pg_control there is at %s", start, pgdata, control.Redo),
				"pgdata in the configuration is not the running server's data directory, or its file system is stale.")
		}
		if err := pause.For(ctx, controlWait); err != nil {
			return control, err
		}
	}
}

// walFiles are the segments that hold the bytes from start up to stop.
func walFiles(id repo.Identity, tli postgres.Timeline, start, stop postgres.LSN) []postgres.WALFile {
	var files []postgres.WALFile
	for n := start.Segment(id.SegmentSize); n <= (stop - 1).Segment(id.SegmentSize); n++ {
		files = append(files, postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n})
	}
	return files
}
