package e2e

import (
	"testing"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// moments of the copy at which a backup can be held.
var heldAt = []struct {
	title string
	share float64 // of the files of the cluster
}{{"at its beginning", 0}, {"in its middle", 0.5}, {"near its end", 0.85}}

// hold is a backup in this process that stops once during its copy, so that
// something can be done to the cluster at that moment. The writer stands still
// meanwhile, what is before it goes on until all of its few batches are full.
type hold struct {
	reached chan struct{} // closed when the copy stands
	resume  chan struct{} // closed to let it go on
	ended   chan struct{} // closed when the backup has ended
	result  backup.Result
	err     error
}

// hold starts a backup that stops when this many files are written.
func (h *host) hold(t *testing.T, st storage.Store, typ repo.BackupType, files int64) *hold {
	t.Helper()
	s, err := openStanza(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	b := &hold{reached: make(chan struct{}), resume: make(chan struct{}), ended: make(chan struct{})}
	held := false
	o := h.options(s, typ)
	o.Progress = func(p backup.Progress) {
		if !held && p.Files >= files {
			held = true
			close(b.reached)
			<-b.resume
		}
	}
	go func() {
		defer close(b.ended)
		b.result, b.err = backup.Run(t.Context(), o)
	}()
	select {
	case <-b.reached:
	case <-b.ended:
		t.Fatalf("the %s backup was not held at %d files: %v", typ, files, b.err)
	}
	return b
}

// goOn lets the backup go on and waits for its end.
func (b *hold) goOn() { close(b.resume); <-b.ended }

// options are those of a backup in this process.
func (h *host) options(s *repo.Stanza, typ repo.BackupType) backup.Options {
	return backup.Options{Repositories: []backup.Repository{{Name: "local", Stanza: s}}, PGData: h.DataDir, Connection: h.DSN(), Type: typ,
		Processes: 1, StartFast: true, ArchiveTimeout: time.Minute, Clock: time.Now}
}

// takeInto takes a backup in this process and gives what the manifest says of it.
func (h *host) takeInto(t *testing.T, st storage.Store, typ repo.BackupType) repo.BackupHeader {
	t.Helper()
	s, err := openStanza(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	result, err := backup.Run(t.Context(), h.options(s, typ))
	if err != nil {
		t.Fatalf("%s backup: %v", typ, err)
	}
	return result.Backups[0].Header
}

// took fails the test unless the backup is of this type and found what changed by this way.
func took(t *testing.T, b repo.BackupHeader, typ repo.BackupType, way string) {
	t.Helper()
	if b.Type != typ {
		t.Fatalf("backup %s is of type %s, want %s", b.Label, b.Type, typ)
	}
	for _, w := range b.Ways {
		if w.Way == way && w.Files > 0 {
			return
		}
	}
	t.Errorf("backup %s found what changed by %+v (%s), want %s", b.Label, b.Ways, b.WayReason, way)
}

// wayOf is the way that incremental backups of this cluster must take.
func wayOf(c *pgtest.Cluster, summarize bool) string {
	if c.Major >= 17 && summarize {
		return backup.WayServerSummaries
	}
	return backup.WayArchiveSummaries
}
