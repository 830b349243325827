package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// The ways of finding out what of a file has changed since the parent, best
// first, as the header of a backup names them.
const (
	// WayServerSummaries: the server's own WAL summaries tell which pages changed.
	WayServerSummaries = "server-summaries"
	// WayArchiveSummaries: the same from summaries in the WAL archive.
	WayArchiveSummaries = "archive-summaries"
	// WayPageHashes: every page is read and compared with the parent's by its hash.
	WayPageHashes = "page-hashes"
	// WayFull: everything is read, and shared where the whole content is the same.
	WayFull = "full"
)

// changes is what is known, for all repositories together, of what has changed
// since their parents.
type changes struct {
	way    string
	table  *postgres.BlockTable // of the ways that go by summaries; nil for the others
	reason string               // why there is no better way
}

// span is the WAL in which every change since the parents stands.
type span struct {
	from         postgres.LSN // where the oldest of the parents began
	fromTimeline postgres.Timeline
	to           postgres.LSN // where this backup begins
	history      postgres.History
	walPageSize  int // bytes
}

// findChanges decides by which way changes are found: one for all repositories.
// A way that cannot be proven to tell of every change is not taken.
func (r *run) findChanges(ctx context.Context, control postgres.Control) (changes, error) {
	parents := r.to.parents()
	if len(parents) == 0 {
		return changes{way: WayFull, reason: r.whyFull()}, nil
	}
	s, err := r.spanSince(ctx, parents, control)
	if err == nil {
		err = r.proveArchive(ctx)
	}
	if err != nil {
		return r.compareAll(ctx, err.Error())
	}
	var reasons []string
	for _, w := range []struct {
		name string
		read func(context.Context, span) (*postgres.BlockTable, error)
	}{
		{WayServerSummaries, r.serverSummaries},
		{WayArchiveSummaries, r.archiveSummaries},
	} {
		table, err := w.read(ctx, s)
		if err == nil {
			r.o.Log.Info("only pages that changed are read", "way", w.name, "from", s.from, "to", s.to, "relations", table.Forks())
			return changes{way: w.name, table: table, reason: strings.Join(reasons, "; ")}, nil
		}
		reasons = append(reasons, w.name+": "+err.Error())
	}
	return r.compareAll(ctx, strings.Join(reasons, "; "))
}

// compareAll is the way that needs no proof, unless the run was told to end.
func (r *run) compareAll(ctx context.Context, reason string) (changes, error) {
	if ctx.Err() != nil {
		return changes{}, context.Cause(ctx)
	}
	r.o.Log.Info("all pages are read and compared with the parent's", "reason", reason)
	return changes{way: WayPageHashes, reason: reason}, nil
}

// whyFull is why everything is read.
func (r *run) whyFull() string {
	if r.o.Type == repo.Full {
		return ""
	}
	return "there is no backup that it could build on"
}

// parents are the headers of the backups that diff and incr backups build on.
func (ds *destinations) parents() []repo.BackupHeader {
	var all []repo.BackupHeader
	for _, d := range ds.all {
		if !d.failed.Load() && d.writer.Type() != repo.Full {
			all = append(all, d.writer.Parent().Header())
		}
	}
	return all
}

// spanSince proves that the parents are earlier states of this cluster, whose
// pages are today's unless WAL of the span says otherwise.
func (r *run) spanSince(ctx context.Context, parents []repo.BackupHeader, control postgres.Control) (span, error) {
	s := span{to: r.header.Start.LSN, walPageSize: control.WALBlockSize}
	var err error
	if s.history, err = r.history(ctx, control.Timeline); err != nil {
		return s, fmt.Errorf("the history of timeline %d cannot be read: %v", control.Timeline, err)
	}
	for _, p := range parents {
		if err := s.proveParent(p, control); err != nil {
			return s, err
		}
		if s.from == 0 || p.Start.LSN < s.from {
			s.from, s.fromTimeline = p.Start.LSN, p.Timeline
		}
	}
	return s, nil
}

func (s span) proveParent(p repo.BackupHeader, control postgres.Control) error {
	switch {
	case p.PageSize != control.BlockSize:
		return fmt.Errorf("pages of %s have %d bytes, those of the cluster %d", p.Label, p.PageSize, control.BlockSize)
	case p.Checksums != (control.ChecksumVersion != 0):
		return fmt.Errorf("data checksums were switched on or off since %s", p.Label)
	case s.history.TimelineAt(p.Start.LSN) != p.Timeline || !s.history.Contains(p.Timeline, p.Stop.LSN):
		return fmt.Errorf("%s, from %s to %s on timeline %d, is not in the history of timeline %d", p.Label, p.Start.LSN, p.Stop.LSN, p.Timeline, s.history.Timeline)
	case p.Start.LSN == 0 || p.Stop.LSN <= p.Start.LSN || p.Stop.LSN > s.to:
		// A page that the parent copied must be older than where recovery begins.
		return fmt.Errorf("%s, from %s to %s, does not lie before this backup, which begins at %s", p.Label, p.Start.LSN, p.Stop.LSN, s.to)
	}
	return nil
}

// proveArchive proves that the archive leads on from each parent. A copy of the
// cluster, or the cluster before its files were set back, can have archived and
// taken the parent on the same timeline: then the WAL in which the parent ended
// is gone from the archive, or another, by the time that this server can archive.
func (r *run) proveArchive(ctx context.Context) error {
	for _, d := range r.to.all {
		if d.failed.Load() || d.writer.Type() == repo.Full {
			continue
		}
		p := d.writer.Parent().Header()
		f, err := postgres.ParseWALFile(p.Stop.WAL, d.identity.SegmentSize)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Label, err)
		}
		id, err := d.Stanza.WALContentID(ctx, d.identity, f)
		if err != nil {
			return fmt.Errorf("whether the archive leads on from %s: %w", p.Label, err)
		}
		if id.String() != p.StopWALID {
			return fmt.Errorf("the archived WAL segment %s is not the one that %s ended in", p.Stop.WAL, p.Label)
		}
	}
	return nil
}

// history reads the ancestry of the server's timeline: from its pg_wal, or else
// from the first repository.
func (r *run) history(ctx context.Context, tli postgres.Timeline) (postgres.History, error) {
	if tli == 1 {
		return postgres.History{Timeline: 1}, nil
	}
	name := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(r.identity.SegmentSize)
	data, err := os.ReadFile(filepath.Join(r.o.PGData, "pg_wal", name))
	if err == nil {
		return postgres.ParseHistory(tli, data)
	}
	d := r.to.first()
	if d == nil {
		return postgres.History{}, errNone
	}
	return d.Stanza.History(ctx, d.identity, tli)
}
