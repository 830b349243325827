package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/storage/mem"
)

// firstAndLast are the majors of tests that are about the server's protocol only.
func firstAndLast() []int {
	all := pgtest.Majors()
	return []int{all[0], all[len(all)-1]}
}

// hangingDisk is a lossyDisk whose syncs hang while it is held.
type hangingDisk struct {
	*lossyDisk
	held sync.RWMutex
}

func (d *hangingDisk) Sync(f *os.File) error {
	d.held.RLock()
	defer d.held.RUnlock()
	return d.lossyDisk.Sync(f)
}

// TestADiskThatHangsKeepsTheConnectionAndAcknowledgesNothing lets a sync hang for much
// longer than the server waits for a sign of life, with more WAL than the queue holds.
func TestADiskThatHangsKeepsTheConnectionAndAcknowledgesNothing(t *testing.T) {
	for _, major := range firstAndLast() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB", "wal_sender_timeout": "4s"}})
			disk := &hangingDisk{lossyDisk: newLossyDisk(nil)}
			r := continued(t, c, t.TempDir(), newStanza(t, mem.New(), serverIdentity(t, c.DataDir)), disk, nil)
			r.pace.alive, r.pace.disk = 200*time.Millisecond, 2*time.Second
			r.begin(t).says(t, "receiving WAL")
			fill(t, c, 1)
			caughtUp(t, c)
			if s := r.Status(); !s.Streaming || s.Problem() != nil || s.Flushed == 0 || s.Server != s.Flushed || s.Received != s.Flushed || s.Lag > 0 {
				t.Errorf("status %+v", s)
			}
			session := c.Query(t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'receiver'")
			before := r.Status().Flushed
			disk.held.Lock()
			fill(t, c, 12)
			r.says(t, "the disk for received WAL does not answer")
			// Three times what the server waits for a sign of life.
			r.until(t, "have a disk that hangs for long", func() bool { return r.Status().DiskBusy > 12*time.Second })
			s := r.Status()
			if s.Flushed != before || s.Lag < 10*time.Second || s.DiskBusy < 10*time.Second || s.Server <= before {
				t.Errorf("a disk that hangs: before %s, status %+v", before, s)
			}
			if at := lsn(t, c.Query(t, "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'receiver'")); at != before {
				t.Errorf("the server was told that %s is durable, a sync has succeeded up to %s", at, before)
			}
			r.honest(t, filesOf(c), disk.lossyDisk)
			disk.held.Unlock()
			r.says(t, "the disk for received WAL answers again")
			caughtUp(t, c)
			if now := c.Query(t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'receiver'"); now != session {
				t.Errorf("the session was lost while the disk hung: it was %s and is %s", session, now)
			}
			r.until(t, "catch up", func() bool { return r.Status().Lag == 0 })
			r.honest(t, filesOf(c), disk.lossyDisk)
			r.stop(t)
		})
	}
}

func lsn(t *testing.T, text string) postgres.LSN {
	t.Helper()
	at, err := postgres.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestRemoteApplyIsNoticedWhileWALIsReceived sets it behind the receiver's back, which
// says so, by SQL and without, and goes on also when it has to connect again.
func TestRemoteApplyIsNoticedWhileWALIsReceived(t *testing.T) {
	for _, bySQL := range []bool{true, false} {
		t.Run(fmt.Sprint("by SQL ", bySQL), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: firstAndLast()[0], SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
			r := newReceiving(t, c, func(o *ReceiveOptions) {
				if !bySQL {
					o.Inspect = func(context.Context) (*server.Conn, error) { return nil, errors.New("no line in pg_hba.conf") }
				}
			})
			r.pace.look = 100 * time.Millisecond
			r.begin(t).says(t, "receiving WAL")
			c.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'receiver'")
			c.Exec(t, "SELECT pg_reload_conf()")
			r.says(t, "commits may wait for this receiver")
			if err := r.Status().Problem(); err != nil {
				t.Error(err)
			}
			c.Exec(t, "ALTER SYSTEM SET synchronous_commit = remote_apply")
			c.Exec(t, "SELECT pg_reload_conf()")
			r.says(t, ErrRemoteApply.Error()+": receiver is in synchronous_standby_names (receiver), so commits would wait for ever")
			r.says(t, "hint=\"set synchronous_commit = on, by which")
			if s := r.Status(); !errors.Is(s.Problem(), ErrRemoteApply) || s.LastError != "remote-apply" || !s.Streaming {
				t.Errorf("status %+v", s)
			}
			c.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
			r.until(t, "connect again", func() bool { return strings.Count(r.log.String(), "receiving WAL") == 2 })
			if s := r.Status(); s.Interruptions == 0 {
				t.Errorf("status %+v", s)
			}
			c.Exec(t, "ALTER SYSTEM RESET synchronous_commit")
			c.Exec(t, "SELECT pg_reload_conf()")
			r.says(t, "commits do not wait for a replay by this receiver any more")
			if err := r.Status().Problem(); err != nil {
				t.Error(err)
			}
			c.Exec(t, "CREATE TABLE t (n int)") // which waits for the receiver
			r.stop(t)
		})
	}
}
