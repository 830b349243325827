package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// streamedFiles is the source for a cluster whose files cannot be reached: the
// server sends them over the replication protocol, as tar archives one after
// the other.
//
// What differs from files on this host: the server brackets the backup itself,
// and leaves out what a backup does not need. A page cannot be read again, so
// that is left to the server, which verifies checksums too. Links in the data
// directory are not sent, but those of tablespaces, and pg_wal is a directory.
// Paths come in the order of the server's directories.
type streamedFiles struct {
	*run
	sender  *server.ReplicationConn
	layout  postgres.Control
	backup  *server.BaseBackup
	changes streamedChanges
	end     server.BaseBackupEnd
	late    lateFiles
}

// lateFiles are kept apart while they come: a manifest lists them last.
type lateFiles struct {
	control, label, tablespaceMap []byte
	owner, group                  string
}

// Check opens the replication session and compares what is behind it with the
// server that was asked so far.
func (s *streamedFiles) Check(ctx context.Context) (err error) {
	if s.sender, err = server.ConnectReplication(ctx, s.o.Connection); err != nil {
		return err
	}
	system, err := s.sender.IdentifySystem(ctx)
	if err != nil {
		return err
	}
	if system.SystemID != s.info.SystemID || system.Timeline != s.info.Timeline {
		return hint.Wrap(fmt.Errorf("the replication connection leads to system identifier %d on timeline %d, the other one to %d on timeline %d",
			system.SystemID, system.Timeline, s.info.SystemID, s.info.Timeline),
			"let connection lead to one server, without a pooler or balancer between.")
	}
	if s.layout, err = s.conn.Layout(ctx); err != nil {
		return err
	}
	s.layout.Timeline = system.Timeline
	return s.checkPageSize(ctx, "the server", s.layout.BlockSize)
}

// Start begins the base backup: one with changes only, if the server can make it.
func (s *streamedFiles) Start(ctx context.Context, label string) (postgres.LSN, error) {
	o := server.BaseBackupOptions{Label: label, Fast: s.o.StartFast, MaxRate: s.o.MaxRate}
	err := s.uploadParents(ctx)
	if err == nil && s.changes.incremental {
		o.Incremental = true
		s.backup, err = s.sender.BaseBackup(ctx, o)
		if err = s.refused(ctx, err); err == nil && s.backup != nil {
			return s.backup.Start, s.readLimits(ctx)
		}
		o.Incremental = false
	}
	if err != nil {
		return 0, err
	}
	if s.backup, err = s.sender.BaseBackup(ctx, o); err != nil {
		return 0, err
	}
	return s.backup.Start, nil
}

// Settle gives pg_control as the server tells it: the base backup began when its
// checkpoint was done.
func (s *streamedFiles) Settle(_ context.Context, start postgres.LSN) (postgres.Control, error) {
	control := s.layout
	control.Timeline, control.Redo = s.backup.Timeline, start
	return control, nil
}

// Copy receives all archives.
func (s *streamedFiles) Copy(ctx context.Context) error {
	if err := s.listTablespaces(); err != nil {
		return err
	}
	c := newCopier(s.o, s.to, s.control, changes{way: s.changes.wayOfWhole()})
	s.pages = &c.errors
	for _, a := range s.backup.Archives {
		c.total.Add(a.Size)
	}
	g, ctx := errgroup.WithContext(ctx)
	copied := make(chan struct{})
	g.Go(func() error {
		defer close(copied)
		return c.run(ctx, func(ctx context.Context) error { return s.receive(ctx, c) })
	})
	g.Go(func() error { return s.watch(ctx, copied) })
	err := g.Wait()
	s.header.Ways, s.header.WayReason = c.uses.list(), s.changes.reason
	return err
}

// receive reads the archives and compares what came with the server's manifest.
func (s *streamedFiles) receive(ctx context.Context, c *copier) (err error) {
	t := newTarSource(s, c)
	received := newFileSum()
	t.sum = &received
	s.end, err = s.backup.Receive(ctx, func(a server.BackupArchive, content io.Reader) error {
		return t.archive(ctx, a, content)
	}, func(content io.Reader) error {
		if err := t.closeGroup(ctx); err != nil {
			return err
		}
		return s.checkManifest(content, received)
	})
	return err
}

// checkManifest proves that the files that came are those of the server's
// manifest, with the checksums that the server computed while it sent them.
func (s *streamedFiles) checkManifest(content io.Reader, received fileSum) error {
	announced := newFileSum()
	ranges, err := postgres.ReadBackupManifest(content, func(f postgres.BackupManifestFile) error {
		if f.CRC32C == nil {
			return fmt.Errorf("file %q has no CRC-32C", f.Path)
		}
		announced.add(f.Path, f.Size, *f.CRC32C)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the manifest of the base backup: %w", err)
	}
	if len(ranges) == 0 || ranges[len(ranges)-1].Start != s.backup.Start {
		return fmt.Errorf("the manifest of the base backup needs WAL from %v, not from %s", ranges, s.backup.Start)
	}
	if !announced.equal(received) {
		return hint.Wrap(fmt.Errorf("the %d files that were received are not the %d that the server's manifest lists", received.files, announced.files),
			"run the backup again; if this happens again, something between the server and this host changes data.")
	}
	return nil
}

// listTablespaces records the tablespaces that are sent, which are those of the
// moment at which the backup began.
func (s *streamedFiles) listTablespaces() error {
	names := map[uint32]string{}
	for _, t := range s.header.Tablespaces {
		names[t.OID] = t.Name
	}
	s.header.Tablespaces = nil
	for _, a := range s.backup.Archives {
		if a.OID == 0 {
			continue
		}
		t := repo.Tablespace{OID: a.OID, Name: names[a.OID], Location: a.Location}
		if t.Name == "" {
			t.Name = strconv.FormatUint(uint64(a.OID), 10) // dropped since
		}
		if t.InPlace = !filepath.IsAbs(a.Location); t.InPlace {
			t.Location = ""
		}
		s.header.Tablespaces = append(s.header.Tablespaces, t)
	}
	return nil
}

// Stop gives what came with the archives: the server has ended the backup.
func (s *streamedFiles) Stop(context.Context) (Stopped, error) {
	kept, more := s.sender.Warnings()
	for _, w := range kept {
		s.warn("the server warns: %s", w)
	}
	if more > 0 {
		s.warn("the server gave %d more warnings", more)
	}
	if s.end.Damaged && s.pages.total == 0 {
		s.warn("the server met pages whose checksum is wrong")
	}
	stopped := Stopped{Control: s.late.control, Owner: s.late.owner, Group: s.late.group}
	control, err := postgres.ParseControl(s.late.control)
	if err != nil {
		return stopped, fmt.Errorf("pg_control from the server: %w", err)
	}
	if control.SystemID != s.identity.SystemID || s.end.Timeline != s.header.Timeline || control.Timeline != s.header.Timeline {
		return stopped, errors.New("the server became another cluster or timeline during the backup")
	}
	stopped.LSN, stopped.LabelFile = s.end.LSN, string(postgres.CompleteBackupLabel(s.late.label))
	stopped.TablespaceMap = string(s.late.tablespaceMap)
	return stopped, nil
}

// Close ends the replication session; a base backup under way is cancelled.
func (s *streamedFiles) Close(ctx context.Context) {
	if s.sender == nil {
		return
	}
	if s.backup != nil && s.end.LSN == 0 {
		_ = s.sender.Cancel(ctx) // there is an error already
		return
	}
	_ = s.sender.Close(ctx) // all that was wanted has come
}
