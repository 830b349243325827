package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/retry"
)

// TestTheMainJobThroughTransientFaults fails each seventh operation on the
// storage before it has an effect, and loses the answer of each eleventh, in a
// stack of the same order as the program's. What reads the result does it
// without that.
func TestTheMainJobThroughTransientFaults(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Config: map[string]string{"wal_keep_size": "100MB"}}})
	plain, s := h.mustOpen(t)
	each := func(n int, fired *atomic.Int64) faulty.Hook {
		return faulty.Transient(func(_ context.Context, op faulty.Op) error {
			if op.N%n != 0 {
				return nil
			}
			fired.Add(1)
			return faulty.ErrInjected
		})
	}
	var before, after, again atomic.Int64
	st := retry.New(faulty.New(plain, each(7, &before), each(11, &after)), retry.Policy{
		Sleep:  func(context.Context, time.Duration) error { return nil },
		Notify: func(retry.Retry) { again.Add(1) },
	})

	pgtest.Pgbench(t, h.Cluster, "-i", "-q", "-s", "2")
	w := startTraffic(t, h.Cluster, "-c", "2", "-R", "200")
	first, err := h.backUp(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	w.mustMove(t)
	w.stop(t)
	second, err := h.backUp(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	if parent := second.Backups[0].Header.Parent; parent != first.Backups[0].Header.Label {
		t.Errorf("the parent of the second backup is %q, want %s", parent, first.Backups[0].Header.Label)
	}
	h.stopArchiving(t)
	h.Exec(t, "UPDATE pgbench_branches SET filler = 'the end'")
	state := committed(t, h.Cluster)
	name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	pusher, err := archive.NewPusher(archive.PushTarget{Name: "local", Open: func(ctx context.Context) (*repo.Stanza, error) { return openStanza(ctx, st) }})
	if err != nil {
		t.Fatal(err)
	}
	// Reading the state can fill segments too: hint bits are logged where pages have checksums.
	missing := h.Query(t, fmt.Sprintf("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_ls_waldir() WHERE name > '%s' AND name <= '%s' AND length(name) = 24",
		second.Backups[0].Header.Stop.WAL, name))
	if missing == "" {
		t.Error("there is nothing to push")
	}
	for name := range strings.FieldsSeq(missing) {
		pushed, err := pusher.Push(t.Context(), filepath.Join(h.DataDir, "pg_wal", name))
		if err != nil || len(pushed.Stored) != 1 {
			t.Errorf("pushed %+v, %v", pushed, err)
		}
	}

	through, err := openStanza(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(pgtest.TempDir(t), "data")
	_, err = restore.Run(t.Context(), restore.Options{Stanza: through, TargetDir: into, Processes: 2, ArchiveModeOff: true,
		RestoreCommand: fmt.Sprintf(`%s --config %s archive-get %%f "%%p"`, h.program, h.config), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	verifyBackup(t, into)
	pgtest.GiveToServer(t, h.repo) // what this process has put is read by the server's archive-get
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	sameText(t, "the committed state", committed(t, c), state)
	balanced(t, c)
	checked := map[repo.Label]bool{}
	if law(t, s, checked); len(checked) != 2 {
		t.Errorf("backups %v, want two", checked)
	}
	t.Logf("%d operations were not done, %d lost their answer, %d were tried again", before.Load(), after.Load(), again.Load())
	if before.Load() < 50 || after.Load() < 30 || again.Load() < before.Load() {
		t.Error("too few faults")
	}
}
