package e2e

import (
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// TestIncrementalBackupsOfAPrimaryAndItsStandbyInTurn builds backups from each
// of the two upon those from the other, by every way of finding changes.
func TestIncrementalBackupsOfAPrimaryAndItsStandbyInTurn(t *testing.T) {
	for _, c := range []struct {
		major int
		way   string
	}{{13, "archive-summaries"}, {13, "page-hashes"}, {17, "server-summaries"}} {
		t.Run(fmt.Sprintf("PostgreSQL %d, %s", c.major, c.way), func(t *testing.T) {
			t.Parallel()
			e := newEvolving(t, c.major, c.way)
			e.standby = withStandby(t, e.host)
			e.liveInTurn(t)
			if c.way == "page-hashes" {
				return // each is restored when it is taken
			}
			for n := range e.taken {
				e.prove(t, n)
			}
		})
	}
}

// liveInTurn takes a full backup of the primary, two of the standby, one of the
// primary again, and one of the standby upon the first.
func (e *evolving) liveInTurn(t *testing.T) {
	t.Helper()
	e.take(t, repo.Full, "", 0)
	for _, step := range []struct {
		from   *host
		typ    repo.BackupType
		parent int
		sql    []string
	}{
		{e.standby, repo.Incremental, 0, []string{
			"UPDATE large SET x = md5(x) WHERE n % 997 = 0",
			"UPDATE spaced SET x = x || 'y' WHERE n % 1000 = 0",
			"DELETE FROM shrinking WHERE n > 10000",
			"VACUUM shrinking", // truncates
			"TRUNCATE emptied",
		}},
		{e.standby, repo.Incremental, 1, []string{
			"DROP TABLE dropped",
			"INSERT INTO shrinking SELECT n, md5(n::text) FROM generate_series(1, 30000) n", // grows again
			"CREATE INDEX ON large (x)",
		}},
		{e.host, repo.Incremental, 2, []string{
			"UPDATE large SET x = 'z' WHERE n BETWEEN 100 AND 3000",
			"CREATE DATABASE copied TEMPLATE second",
		}},
		{e.standby, repo.Differential, 0, []string{"DELETE FROM large WHERE n % 1009 = 0", "VACUUM large"}},
	} {
		e.loseWAL(t)
		for _, sql := range step.sql {
			e.Exec(t, sql)
		}
		e.from = step.from
		awake := e.keepSummarizerAwake(t)
		e.take(t, step.typ, e.taken[step.parent].Backup.Label, 40<<20)
		awake()
	}
	if e.way != "server-summaries" {
		return
	}
	pid := e.summarizer(t)
	signal(t, pid, syscall.SIGSTOP)
	t.Cleanup(func() { signal(t, pid, syscall.SIGCONT) })
	e.Exec(t, "UPDATE large SET x = 'asleep' WHERE n % 501 = 0")
	e.way, e.asleep = "archive-summaries", true
	e.take(t, repo.Incremental, e.taken[4].Backup.Label, 12<<20)
}

// standbyFollows waits until the standby has replayed everything, and lets it
// recycle its own WAL.
func (e *evolving) standbyFollows(t *testing.T) {
	t.Helper()
	if e.standby == nil {
		return
	}
	at := e.Query(t, "SELECT pg_current_wal_lsn()")
	e.standby.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", at), "t", time.Minute)
	e.standby.Exec(t, "CHECKPOINT")
}

// keepSummarizerAwake does what much WAL would do: the summarizer of a standby
// that found nothing to read sleeps longer each time, and nothing wakes it but a
// signal. The function that is returned ends it.
func (e *evolving) keepSummarizerAwake(t *testing.T) func() {
	t.Helper()
	if e.way != "server-summaries" || e.from != e.standby {
		return func() {}
	}
	pid, done := e.summarizer(t), make(chan struct{})
	var waking sync.WaitGroup
	waking.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				signal(t, pid, syscall.SIGHUP)
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(done)
		waking.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// summarizer is the process of the standby that summarizes WAL.
func (e *evolving) summarizer(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(e.standby.Query(t, "SELECT summarizer_pid FROM pg_get_wal_summarizer_state()"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Errorf("signal process %d: %v", pid, err)
	}
}
