package archive

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
)

// drop gives the file that was asked for up, if it is one of the oldest segments
// above QueueMax. What is not a segment is never given up, and neither is
// anything that PostgreSQL has not marked ready. The decision is written down
// before PostgreSQL learns of it; where it cannot be, the disk is full all the
// same, and the gap shows in the archive.
func (r *pushRun) drop(ctx context.Context) (Result, bool) {
	if kind, ok := walKind(r.asked); !ok || kind != postgres.WALSegment {
		return Result{}, false
	}
	size := r.segmentSize()
	waiting, err := r.waiting()
	if err != nil || size == 0 {
		return Result{}, false
	}
	given := excess(waiting, size, r.QueueMax)
	if !slices.Contains(given, r.asked) {
		return Result{}, false
	}
	result := Result{File: r.asked, Dropped: true, Warnings: []string{fmt.Sprintf(
		"%s was DROPPED and is not archived: %d segments wait, more than archive.queue-max of %d bytes allows; recovery across it is impossible, take a new backup",
		r.asked, len(waiting), r.QueueMax)}}
	if err := r.noteDropped(ctx, size); err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("that %s was dropped could not be written down: %v", r.asked, err))
	}
	return result, true
}

// segmentSize is that of the server, never measured by anything but a segment; 0
// if it is not known.
func (r *pushRun) segmentSize() int64 {
	if r.control != nil {
		return r.control.WALSegmentSize
	}
	f, err := look(r.path(r.asked))
	if err != nil {
		return 0
	}
	defer f.Close()
	if !postgres.ValidSegmentSize(f.size) {
		return 0
	}
	return f.size
}

// waiting are the segments that are ready and not known to be in every
// repository, in the order in which they are archived.
func (r *pushRun) waiting() ([]string, error) {
	ready, err := filesReady(r.wal)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ready, func(name string) bool {
		if kind, _ := walKind(name); kind != postgres.WALSegment {
			return true
		}
		if r.spool == nil {
			return false
		}
		a, err := r.spool.readAcknowledgement(name)
		return err == nil && len(r.holders(a)) == len(r.targets)
	}), nil
}

// excess gives the first of the waiting segments, so many that what is left is
// not above limit, in bytes; but never the last one.
func excess(waiting []string, size, limit int64) []string {
	allowed := int(max(limit/size, 1))
	return waiting[:max(len(waiting)-allowed, 0)]
}
