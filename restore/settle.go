package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// Durability. A restore has succeeded when the machine may lose power. Every
// file and directory is synced by itself, by workers beside the writers, so
// that little is left to wait for at the end.
//
// The alternative, one syncfs(2) per file system, was measured on ext4 and not
// found faster (8000 files of 8 KiB: 5 to 7 s against 1.7 to 3.5 s; 512 MiB in
// 8 files: no difference): it waits for what every other process has written,
// which on the host of a busy server is much. It also reports errors only from
// Linux 5.8 on and not on every file system. Concurrent fsyncs share a commit
// of the file system's journal, which is why there are so many workers.

// syncWorkers is how many files are synced at once: waiting for the disk costs
// no CPU.
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

// settle makes the directories durable; the files are already.
func (r *run) settle(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	for _, d := range r.dirs {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return syncIn(d.at.root, d.rel)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range r.places {
		if err := syncIn(p.root, "."); err != nil {
			return fmt.Errorf("%s: %w", p.role(), err)
		}
		if !p.made {
			continue
		}
		// The entry of a directory that was made stands in the one above it.
		if err := syncPath(filepath.Dir(realPath(p.dir))); err != nil {
			return fmt.Errorf("%s: %w", p.role(), err)
		}
	}
	return nil
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
