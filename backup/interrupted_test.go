package backup

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestABackupWhoseCommitWasInterruptedIsNotCalledOne ends the run while a
// manifest is on its way: nobody knows whether it arrived.
func TestABackupWhoseCommitWasInterruptedIsNotCalledOne(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, 1<<20)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	interrupted := errors.New("interrupted")
	sent := make(chan struct{})
	hanging, quick := place{"hanging", "zstd:1", "", mem.New()}, place{"quick", "zstd:1", "", mem.New()}
	hanging.open(t)
	inner := hanging.store
	hanging.store = faulty.New(inner, func(ctx context.Context, op faulty.Op) error {
		if op.Name == faulty.OpPutIfAbsent && strings.HasPrefix(op.Key, "backups/") {
			close(sent)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}, nil)
	o := Options{Repositories: []Repository{hanging.open(t), quick.open(t)}, PGData: root, Processes: 2, Clock: time.Now,
		Log: slog.New(slog.DiscardHandler)}.withDefaults()
	r := &run{o: o, to: newDestinations(ctx, o), header: repo.BackupHeader{Timeline: 1}, pages: &pageErrors{}}
	r.info.BlockSize = testPage
	if err := r.begin(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.to.each(ctx, func(_ int, d *destination) error {
		framer, err := d.Stanza.Repository().NewFramer()
		if err != nil {
			return err
		}
		return d.writer.AddLate(framer, []repo.File{{Path: controlPath, Type: repo.TypeFile}}, [][]byte{bytes.Repeat([]byte("c"), 100)})
	}); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-sent
		// The other one is given the time to commit.
		for range 500 {
			if b := o.Repositories[1].Stanza; hasBackup(t, b) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel(interrupted)
	}()
	err := r.commit(ctx)
	r.to.close(ctx)
	results, err := r.to.results(err)
	if !errors.Is(err, interrupted) {
		t.Errorf("error %v", err)
	}
	if results[0].Err == nil || results[0].Header.Label != "" {
		t.Errorf("a backup that was never stored is called one: %+v", results[0])
	}
	if results[1].Err != nil || results[1].Header.Label == "" {
		t.Errorf("the other one has its backup: %+v", results[1])
	}
	for obj, err := range inner.List(t.Context(), "backups/", "") {
		t.Errorf("%s is there, %v", obj.Key, err)
	}
}

func hasBackup(t *testing.T, s *repo.Stanza) bool {
	t.Helper()
	for _, err := range s.Repository().Store().List(context.Background(), "backups/", "") {
		return err == nil
	}
	return false
}
