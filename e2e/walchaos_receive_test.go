package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// chaosReceiver is an archive-receive of its own host, which takes WAL from whoever
// is the primary, beside archive_command.
type chaosReceiver struct {
	*host
	service     *chaosService
	directories int
}

// receive starts the receiver, or leads it to the new primary.
func (c *chaos) receive(t *testing.T) {
	t.Helper()
	if !c.means.receive {
		return
	}
	if c.receiver == nil {
		dir := filepath.Join(c.dir, "receiver")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.GiveToServer(t, dir)
		c.receiver = &chaosReceiver{host: &host{dir: dir, program: c.program, config: filepath.Join(dir, "pgbak.yaml")}}
	}
	r := c.receiver
	r.write(t, "pgbak.yaml", fmt.Sprintf(`repositories:
  - name: local
    url: file://%s
    retry: {attempts: 2, time: 1s}
  - name: bucket
    %s
stanzas:
  - name: main
    connection: %q
processes: 2
`, c.local, c.bucket.settings(), c.primary.wire.dsn()))
	switch {
	case r.service == nil:
		r.begin(t)
	case r.service.isStopped():
		r.goOn(t)
	}
	r.service.kill() // by the next start the new primary is there
}

// begin starts with an empty directory.
func (r *chaosReceiver) begin(t *testing.T) {
	t.Helper()
	r.directories++
	dir := r.directory()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, dir)
	r.goOn(t)
}

func (r *chaosReceiver) directory() string {
	return filepath.Join(r.dir, fmt.Sprint("wal", r.directories))
}

// goOn starts with what there is.
func (r *chaosReceiver) goOn(t *testing.T) {
	t.Helper()
	r.service = startChaosService(t, r.program, "--config", r.config, "archive-receive", "--directory", r.directory(), "--slot", "chaos", "--create-slot", "--accept-gap")
}

// watchReceiver gives the receiver an empty directory when it refuses to go on: it may
// have received what the new primary never had.
func (c *chaos) watchReceiver(t *testing.T) {
	t.Helper()
	if c.receiver == nil {
		return
	}
	n, said := c.receiver.service.failures()
	if n < 5 {
		return
	}
	t.Logf("the receiver ended %d times by itself and gets a new directory:\n%s", n, lastWords(said, 3))
	c.receiver.service.stop()
	if strings.Contains(said, "the server gave up the WAL that slot") {
		c.dropSlot(t)
	}
	c.receiver.begin(t)
	c.counts["receivers begun anew"]++
}

// dropSlot does what the receiver's hint says. A server that was killed can have forgotten how far a slot had come,
// and have removed what the slot then asks for.
func (c *chaos) dropSlot(t *testing.T) {
	t.Helper()
	const told = "SELECT slot_name, restart_lsn, wal_status, active, pg_current_wal_lsn(), (SELECT min(name) FROM pg_ls_waldir() WHERE name LIKE '0%') FROM pg_replication_slots"
	t.Logf("the slots of %s are %s", c.primary.name, c.primary.Query(t, told))
	for line := range strings.Lines(c.primary.Log()) {
		if strings.Contains(line, "START_REPLICATION") || strings.Contains(line, "CREATE_REPLICATION_SLOT") || strings.Contains(line, "starting PostgreSQL") || strings.Contains(line, "removed") {
			t.Logf("%s: %s", c.primary.name, strings.TrimSpace(line))
		}
	}
	await(t.Context(), time.Minute, func() bool { // the walsender of a receiver that was killed may still hold it
		_, err := c.primary.TryQuery("SELECT pg_drop_replication_slot('chaos')")
		return err == nil
	})
	c.counts["slots that a server gave up"]++
}
