package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// streamedChanges is what the server is asked to leave out of a base backup.
type streamedChanges struct {
	// incremental tells that the server sends, of the files that were uploaded
	// to it, only the pages that changed since from.
	incremental bool
	from        postgres.LSN
	compare     bool   // with the parents, what comes as a whole
	reason      string // why the server sends everything
	// limits are the smallest lengths in blocks since from. Blocks from there on
	// that are not sent are not those of the parent: the server, which keeps
	// this to itself, has extended the file again with zeros.
	limits map[postgres.RelationForkID]uint32
}

// wayOfWhole is how changes are found in files that come as a whole.
func (c streamedChanges) wayOfWhole() string {
	if c.compare {
		return WayPageHashes
	}
	return WayFull
}

// errNoIncremental carries the reason why the server is not asked for changes only.
type errNoIncremental struct{ reason string }

func (e errNoIncremental) Error() string { return e.reason }

// uploadParents gives the server a list of the files of which changes suffice,
// if it can tell them and all repositories want them.
func (s *streamedFiles) uploadParents(ctx context.Context) error {
	parents := s.to.parents()
	if len(parents) == 0 {
		s.changes.reason = s.whyFull()
		return nil
	}
	s.changes.compare = true
	err := s.proveSpan(ctx, parents)
	if err == nil {
		err = s.upload(ctx, parents)
	}
	if err = s.refused(ctx, err); err != nil {
		return err
	}
	s.changes.incremental = s.changes.reason == ""
	return nil
}

// refused turns a refusal of the server, or a missing proof, into the reason why
// everything is read, from which there is a way on.
func (s *streamedFiles) refused(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if no, ok := errors.AsType[errNoIncremental](err); ok {
		s.changes.reason = WayServerSummaries + ": " + no.reason
	} else if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		s.changes.reason = WayServerSummaries + ": the server says: " + answer.Message
	} else {
		return err
	}
	s.changes.incremental, s.backup = false, nil
	s.o.Log.Info("the server sends all pages", "reason", s.changes.reason)
	return nil
}

// proveSpan proves that the parents are earlier states of this cluster, and that
// the server can tell what has changed since.
func (s *streamedFiles) proveSpan(ctx context.Context, parents []repo.BackupHeader) error {
	if s.info.Major < 17 {
		return errNoIncremental{fmt.Sprintf("PostgreSQL %d has none", s.info.Major)}
	}
	live := 0
	for _, d := range s.to.all {
		if !d.failed.Load() {
			live++
		}
	}
	if live != len(parents) {
		return errNoIncremental{"one of the repositories needs a full backup"}
	}
	state, err := s.conn.Summarizer(ctx)
	if err != nil {
		return err
	}
	if !state.Enabled {
		return errNoIncremental{"summarize_wal is off"}
	}
	now, err := s.sender.IdentifySystem(ctx)
	if err != nil {
		return err
	}
	past := span{to: now.LSN, history: postgres.History{Timeline: s.layout.Timeline}}
	for _, p := range parents {
		if p.Timeline != s.layout.Timeline {
			return errNoIncremental{fmt.Sprintf("%s is on timeline %d, the server on %d", p.Label, p.Timeline, s.layout.Timeline)}
		}
		if err := past.proveParent(p, s.layout); err != nil {
			return errNoIncremental{err.Error()}
		}
		if s.changes.from == 0 || p.Start.LSN < s.changes.from {
			s.changes.from = p.Start.LSN
		}
	}
	if err := s.proveArchive(ctx); err != nil {
		return errNoIncremental{err.Error()}
	}
	_, err = s.conn.RelationLimits(ctx, s.layout.Timeline, s.changes.from, now.LSN) // is it allowed?
	if _, ok := errors.AsType[*postgres.SummaryGapError](err); ok {
		return nil // not all are made yet; the server itself waits for them
	}
	return err
}

// upload sends a manifest of the parents' files.
func (s *streamedFiles) upload(ctx context.Context, parents []repo.BackupHeader) error {
	oldest := slices.MinFunc(parents, func(a, b repo.BackupHeader) int { return cmp.Compare(a.Start.LSN, b.Start.LSN) })
	in, out := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		out.CloseWithError(s.writeManifest(ctx, out, oldest))
	}()
	err := s.sender.UploadManifest(ctx, in)
	_ = in.Close() // ends the other side if sending failed
	<-written
	return err
}

// writeManifest lists the files of which changes suffice in every repository.
// The WAL range is that of the oldest parent, from whose start on the server
// counts changes.
func (s *streamedFiles) writeManifest(ctx context.Context, out io.Writer, oldest repo.BackupHeader) error {
	m := postgres.NewBackupManifestWriter(out, postgres.BackupManifestOptions{Version: 2, SystemID: s.identity.SystemID})
	first := s.to.first()
	if first == nil {
		return errNone
	}
	for f, err := range first.writer.Parent().Files() {
		if err != nil {
			return fmt.Errorf("list the files of the parent: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !s.changesSuffice(ctx, f.Path) {
			continue
		}
		if err := m.File(postgres.BackupManifestFile{Path: f.Path, Size: f.Size, ModTime: f.ModTime}); err != nil {
			return err
		}
	}
	return m.Finish([]postgres.WALRange{{Timeline: oldest.Timeline, Start: oldest.Start.LSN, End: oldest.Stop.LSN}})
}

// changesSuffice tells that a file may be put together from the parents' pages
// and changed ones. Forks other than the main one may not: WAL does not register
// every change of them. Nor may files with damaged pages, which are to be
// reported again.
func (s *streamedFiles) changesSuffice(ctx context.Context, path string) bool {
	rel, ok := postgres.ParseRelationPath(path)
	if !ok || rel.Temporary || rel.Fork != postgres.MainFork {
		return false
	}
	for _, d := range s.to.all {
		if d.failed.Load() {
			continue
		}
		p := d.find(ctx, path)
		if !p.Mapped() || !p.Settled() || p.File().PageErrors || p.File().Size%int64(s.layout.BlockSize) != 0 {
			return false
		}
	}
	return true
}

// readLimits asks how short files were since the parents: the server has
// summarized WAL up to the start of the backup before it began to send. It may
// remove a summary that it has just used, and with it a limit: then pages of the
// parent would stand where there are zeros.
func (s *streamedFiles) readLimits(ctx context.Context) error {
	tli := s.backup.Timeline
	limits, err := s.conn.RelationLimits(ctx, tli, s.changes.from, s.backup.Start)
	if _, ok := errors.AsType[*postgres.SummaryGapError](err); ok {
		return hint.Wrap(fmt.Errorf("how short files were since the parent: %w", err), "run the backup again, and raise wal_summary_keep_time above the time between backups.")
	}
	if err != nil {
		return err
	}
	s.changes.limits = make(map[postgres.RelationForkID]uint32, len(limits))
	for _, l := range limits {
		s.changes.limits[l.Fork] = l.Limit
	}
	return nil
}
