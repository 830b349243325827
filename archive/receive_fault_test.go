package archive

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/storage/mem"
)

func filesOf(c *pgtest.Cluster) clusterFiles {
	return clusterFiles{Query: c.Query, wal: func(name string) string { return filepath.Join(c.DataDir, "pg_wal", name) }}
}

// TestOnlyDurableWALIsAcknowledged fails syncs one after the other and at random,
// on a disk that loses what a failed sync should have kept.
func TestOnlyDurableWALIsAcknowledged(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	c.Exec(t, "CREATE TABLE t (a text)")
	random := rand.New(rand.NewPCG(1, 2))
	disk := newLossyDisk(func(n int) bool { return n > 5 && (n%7 == 0 || random.IntN(10) == 0) })
	r := continued(t, c, t.TempDir(), newStanza(t, mem.New(), serverIdentity(t, c.DataDir)), disk, nil)
	r.begin(t).says(t, "receiving WAL")
	looked := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		c.Exec(t, "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20)")
		looked[r.honest(t, filesOf(c), disk).String()] = true
		if _, failed := disk.counts(); failed >= 10 && len(looked) >= 30 {
			break
		}
	}
	if _, failed := disk.counts(); failed < 10 || len(looked) < 30 {
		t.Errorf("%d syncs failed and %d positions were looked at: too few to tell", failed, len(looked))
	}
	disk.mu.Lock()
	disk.fails = nil
	disk.mu.Unlock()
	caughtUp(t, c)
	r.honest(t, filesOf(c), disk)
	if !strings.Contains(r.log.String(), "received WAL could not be made durable") {
		t.Error("the log does not say that WAL could not be made durable")
	}
	r.stop(t)
}

// TestAFullDiskStopsAcknowledgingAndNothingElse fills the disk while the server
// writes: the session goes on, and nothing is acknowledged until there is room.
func TestAFullDiskStopsAcknowledgingAndNothingElse(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB", "wal_sender_timeout": "3s"}})
	first := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	disk := newLossyDisk(nil)
	r := continued(t, c, t.TempDir(), newStanza(t, mem.New(), serverIdentity(t, c.DataDir)), disk, nil)
	r.pace.status = 200 * time.Millisecond
	r.begin(t).says(t, "receiving WAL")
	fill(t, c, 2)
	caughtUp(t, c)
	session := c.Query(t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'receiver'")
	disk.setRoom(false)
	fill(t, c, 12) // more than the queue in memory holds
	r.says(t, "the disk for received WAL is full")
	before := r.honest(t, filesOf(c), disk)
	// Longer than the server waits for a sign of life, and many attempts to write.
	r.until(t, "try to write again", func() bool { return disk.setRoom(false) > 100 })
	if after := r.honest(t, filesOf(c), disk); after > before+1<<20 {
		t.Errorf("on a full disk the acknowledged position went from %s to %s", before, after)
	}
	disk.setRoom(true)
	r.says(t, "there is room for WAL again")
	caughtUp(t, c)
	if now := c.Query(t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'receiver'"); now != session {
		t.Errorf("the session was lost on a full disk: it was %s and is %s", session, now)
	}
	c.Exec(t, "SELECT pg_switch_wal()")
	r.sameAsServers(t, c, first)
	r.honest(t, filesOf(c), disk)
	r.stop(t)
}
