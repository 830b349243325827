package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// Durability. A restore has succeeded when the machine may lose power. There
// are two ways to get there, and the file system decides (see bulkSync):
//
//   - syncfs(2) once at the end. One journal commit and one cache flush for all
//     files, where fsync costs one for each.
//   - fsync(2) of every file and directory, by a few workers beside the
//     writers, where an error of syncfs is not known to reach us.
//
// In both cases the kernel is asked to begin with the writing as soon as a
// file is complete, so that little is left to wait for at the end.

// syncWorkers is how many files are synced at once. Waiting for the disk costs
// no CPU, and file systems put concurrent fsyncs into one journal commit.
const syncWorkers = 16

// syncer makes complete files durable and closes them.
type syncer struct {
	run   *run
	ctx   context.Context
	queue chan *outFile
}

// start begins the workers for files that are synced one by one.
func (s *syncer) start(ctx context.Context, group *errgroup.Group) {
	s.ctx, s.queue = ctx, make(chan *outFile, 2*syncWorkers)
	for range syncWorkers {
		group.Go(s.work)
	}
}

// finish ends the workers when all files were added.
func (s *syncer) finish() { close(s.queue) }

// add takes over a complete file.
func (s *syncer) add(o *outFile) error {
	startWriteback(o.f)
	if o.at.bulk {
		return s.run.closeFile(o)
	}
	select {
	case s.queue <- o:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *syncer) work() error {
	for o := range s.queue {
		if err := o.f.Sync(); err != nil {
			return fmt.Errorf("make %s durable: %w", o.file.Path, err)
		}
		if err := s.run.closeFile(o); err != nil {
			return err
		}
	}
	return nil
}

// settle makes everything durable that has been written so far.
func (r *run) settle(ctx context.Context) error {
	seen := map[uint64]bool{}
	for _, p := range r.places {
		if !p.bulk || seen[p.device] {
			continue
		}
		seen[p.device] = true
		if err := syncFileSystem(p.anchor); err != nil {
			return fmt.Errorf("make the file system of %s durable: %w", p.dir, err)
		}
	}
	if err := r.syncDirs(ctx); err != nil {
		return err
	}
	for _, p := range r.places {
		if err := syncPath(p.dir); err != nil {
			return err
		}
		// The entry of a directory that was made stands in the one above it.
		if err := syncPath(filepath.Dir(realPath(p.dir))); err != nil && p.made {
			return err
		}
	}
	return nil
}

// syncDirs syncs the directories that no syncfs covers.
func (r *run) syncDirs(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	for _, d := range r.dirs {
		if d.at.bulk {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			return syncIn(d.at.root, d.rel)
		})
	}
	return group.Wait()
}

// syncIn syncs a file or directory below root.
func syncIn(root *os.Root, rel string) error {
	f, err := root.Open(rel)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
