package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// TestWALChaos runs a small installation through bad days: a primary and its
// standbys archive into two repositories, one of them behind a network that
// fails, while servers and archivers are killed, standbys, cascading ones too, are promoted, former
// primaries come back on dead timelines, the network between servers fails, backups are taken, and a primary
// and its disk are lost while commits wait for a receiver. Afterwards
// the archive is compared with what the test itself has written down: every
// file for which PostgreSQL was told that it is archived, every commit that a
// client was told of, every exit status (walchaos_truth_test.go,
// walchaos_judge_test.go); and the ledger's gaps, what they mean, and its ends of WAL
// with what follows from that (walchaos_gaps_test.go, walchaos_reach_test.go).
//
// Each round draws its own seed. PGBAK_CHAOS_SEED repeats the decisions of a run (not how processes meet),
// PGBAK_CHAOS_EVENTS and PGBAK_CHAOS_TARGETS make a round longer, PGBAK_CHAOS_ROUNDS or
// PGBAK_CHAOS_MINUTES make more rounds, with the seeds that follow.
func TestWALChaos(t *testing.T) {
	t.Parallel() // most of it is waiting
	setting := func(name, usual string) uint64 {
		n, err := strconv.ParseUint(cmpOr(os.Getenv(name), usual), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	seed := setting("PGBAK_CHAOS_SEED", strconv.Itoa(int(time.Now().UnixNano()%1e9))) // the name of the round has it
	rounds, minutes := setting("PGBAK_CHAOS_ROUNDS", "1"), setting("PGBAK_CHAOS_MINUTES", "0")
	events, targets := int(setting("PGBAK_CHAOS_EVENTS", "8")), int(setting("PGBAK_CHAOS_TARGETS", "3"))
	var total chaosCounts
	began := time.Now()
	for n := uint64(0); n < rounds || time.Since(began) < time.Duration(minutes)*time.Minute; n++ {
		t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) {
			c := newChaos(t, seed+n)
			c.targets = targets
			defer func() { total.add(c.counts) }()
			c.suffer(t, events)
			c.judge(t)
			t.Logf("%v", c.counts)
		})
	}
	if rounds > 1 || minutes > 0 {
		t.Logf("in all: %v", total)
	}
}

// chaosCounts say how much of what happened, by words.
type chaosCounts map[string]int

func (c *chaosCounts) add(more chaosCounts) {
	if *c == nil {
		*c = chaosCounts{}
	}
	for what, n := range more {
		(*c)[what] += n
	}
}

// chaos is one round.
type chaos struct {
	*rand.Rand
	dir      string // holds all that follows but the bucket
	major    int
	program  string
	local    string // the directory of the repository "local"
	bucket   *bucket
	proxy    *s3test.Proxy
	truth    *walTruth
	journal  *chaosJournal
	primary  *chaosNode
	standbys []*chaosNode
	nodes    []*chaosNode // all that ever were
	backups  []chaosBackup
	counts   chaosCounts
	targets  int
	receiver *chaosReceiver
	means    chaosMeans
	shown    map[string]map[string]bool // by repository, the segments that info shows; see checkRuns
	told     map[string]map[string]bool // by repository, segments that archive-push has given up as it knows
	untold   map[string]bool            // such segments that only the lost server's journal knows
	dropped  map[string]bool            // all of them
}

// chaosMeans is how a round archives.
type chaosMeans struct {
	spool    bool // archive-push works in batches, archive-get fetches ahead
	agent    bool // both leave their work to an agent on each host
	queueMax bool // WAL may be dropped
	receive  bool // an archive-receive works beside archive_command
}

// chaosRepositories are the names of the two.
var chaosRepositories = []string{"local", "bucket"}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	c := &chaos{Rand: rand.New(rand.NewPCG(seed, 0)), dir: pgtest.TempDir(t), program: pgtest.BuildPgbak(t), counts: chaosCounts{}}
	majors := pgtest.Majors()
	c.major = majors[c.IntN(len(majors))]
	c.means = []chaosMeans{{}, {spool: true}, {spool: true}, {spool: true, agent: true}, {spool: true, agent: true}, {spool: true, queueMax: true}}[c.IntN(6)]
	c.means.receive = !c.means.queueMax && c.IntN(2) == 0
	c.local = filepath.Join(c.dir, "local")
	c.bucket, c.proxy = behind(t, s3test.MinIO(t, s3test.Options{}))
	c.bucket.more = "\n    retry: {attempts: 3, time: 2s}"
	c.truth = newWALTruth(t, c.dir, c.program)
	c.journal = &chaosJournal{}
	c.begin(t)
	t.Logf("PostgreSQL %d, %+v", c.major, c.means)
	return c
}

// begin makes the first primary, with a backup, and a standby of it.
func (c *chaos) begin(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.dismiss()
		}
		if c.receiver != nil {
			c.receiver.service.stop()
		}
	})
	n := c.newNode(t)
	n.Cluster = pgtest.Start(t, pgtest.Options{Major: c.major, SegmentSizeMB: 1, Dir: n.data, Config: map[string]string{
		"archive_mode": "on", "archive_command": c.truth.pushCommand(), "restore_command": c.truth.getCommand(), "log_checkpoints": "off", "log_replication_commands": "on",
		"wal_keep_size": "8MB", "max_wal_size": "32MB", "min_wal_size": "8MB", "checkpoint_timeout": "30s",
		"wal_log_hints": "on", "wal_retrieve_retry_interval": "100ms", "hot_standby": "on", "recovery_target_timeline": "latest",
		"wal_receiver_timeout": "5s", "wal_sender_timeout": "5s",
	}})
	n.configure(t)
	n.expect(t, codeOK, "init")
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		"CREATE TABLE journal (session int, n bigint, pad text, PRIMARY KEY (session, n))",
		"CREATE TABLE bulk (n int, x text)",
	} {
		n.Exec(t, sql)
	}
	c.primary = n
	n.lead(t)
	c.backUp(t, "full")
	if len(c.backups) == 0 {
		t.Fatal("the first backup failed")
	}
	c.ensureStandby(t)
	c.receive(t)
}

// suffer lets n things happen, each of the usual ones at least once if n allows.
func (c *chaos) suffer(t *testing.T, n int) {
	kinds := c.events()
	c.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	for i := range n {
		e := kinds[i%len(kinds)]
		if i >= len(kinds) {
			e = kinds[c.IntN(len(kinds))]
		}
		began, before := time.Now(), c.truth.acknowledged(t)
		e.happen(t)
		c.advance(t, 1+c.IntN(8))
		c.counts["events"]++
		c.watchReceiver(t)
		t.Logf("%d: %s: %v, %d files more acknowledged, primary %s on timeline %d", i+1, e.name, time.Since(began).Round(time.Millisecond),
			c.truth.acknowledged(t)-before, c.primary.name, c.primary.branch.timeline)
		if lies := c.truth.lies(t); lies != "" {
			t.Fatalf("exit statuses that lie:\n%s", lies)
		}
	}
}

// settle ends the work, mends everything, and waits until the primary has nothing left to archive.
func (c *chaos) settle(t *testing.T) {
	t.Helper()
	c.proxy.On(nil)
	c.primary.rest()
	c.primary.Exec(t, "SELECT pg_create_restore_point('the end')")
	c.primary.Exec(t, "SELECT pg_switch_wal()")
	c.drain(t, c.primary)
}

// drain waits until PostgreSQL has marked every finished file of a node .done.
func (c *chaos) drain(t *testing.T, n *chaosNode) {
	t.Helper()
	oldest, since := "", time.Now()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ready, err := filepath.Glob(filepath.Join(n.data, "pg_wal", "archive_status", "*.ready"))
		if err != nil {
			t.Fatal(err)
		}
		if len(ready) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not archive: %d files wait, the first is %s\n%s", n.name, len(ready), filepath.Base(ready[0]), lastWords(n.Log(), 30))
		}
		if ready[0] != oldest {
			oldest, since = ready[0], time.Now()
		}
		// After three failures PostgreSQL waits for a minute, or for the next segment.
		if time.Since(since) > 2*time.Second {
			n.Exec(t, "SELECT pg_create_restore_point('wake up')")
			n.Exec(t, "SELECT pg_switch_wal()")
			since = time.Now()
		}
	}
}

func lastWords(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// await polls until done says so, and reports whether it did in time.
func await(ctx context.Context, limit time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		switch {
		case done():
			return true
		case ctx.Err() != nil || time.Now().After(deadline):
			return false
		}
	}
}
