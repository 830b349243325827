package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// receiver is an archive-receive of a host, with a directory of its own.
type receiver struct {
	*process
	h   *host
	dir string
}

// receive starts archive-receive and waits until it streams.
func (h *host) receive(t *testing.T, dir string) *receiver {
	t.Helper()
	r := &receiver{process: h.start(t, "archive-receive", "--directory", dir, "--slot", "receiver", "--create-slot"), h: h, dir: dir}
	t.Cleanup(func() { _ = r.Process.Kill() })
	h.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND state = 'streaming'", "1", 2*time.Minute)
	return r
}

// synchronous makes commits wait for the receiver.
func (h *host) synchronous(t *testing.T) {
	t.Helper()
	h.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'receiver'")
	h.Exec(t, "SELECT pg_reload_conf()")
	h.WaitFor(t, "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'receiver'", "sync", time.Minute)
}

// acknowledged are the numbers that a client inserted and whose commit returned.
type acknowledged struct {
	mu      sync.Mutex
	numbers []int
	done    sync.WaitGroup
}

// insertUntilItFails inserts numbers by several sessions, until the server is gone.
func insertUntilItFails(t *testing.T, c *pgtest.Cluster, sessions int) *acknowledged {
	t.Helper()
	a := &acknowledged{}
	for s := range sessions {
		conn := c.Connect(t)
		a.done.Go(func() {
			for n := s; ; n += sessions {
				if !commits(conn, n) {
					return
				}
				a.mu.Lock()
				a.numbers = append(a.numbers, n)
				a.mu.Unlock()
			}
		})
	}
	return a
}

// commits inserts a number and tells whether the server said that it is committed
// and safe: a warning means that it stopped waiting for the receiver.
func commits(conn *pgconn.PgConn, n int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO acknowledged VALUES (%d)", n)).ReadAll()
	return err == nil && len(results) == 1
}

func (a *acknowledged) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.numbers)
}

// TestNoAcknowledgedCommitIsLostWithTheServer is what archive-receive is for: the
// server is killed at a random moment under load, and its disk is gone.
func TestNoAcknowledgedCommitIsLostWithTheServer(t *testing.T) {
	rounds := 1
	if text := os.Getenv("PGBAK_RECEIVE_ROUNDS"); text != "" {
		rounds, _ = strconv.Atoi(text)
	}
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			total := 0
			for round := range rounds {
				total += loseServer(t, major, round)
			}
			t.Logf("%d rounds, %d acknowledged commits, none lost", rounds, total)
		})
	}
}

func loseServer(t *testing.T, major, round int) int {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	both := random.IntN(2) == 0 // archive_command works too
	killed := random.IntN(2) == 0
	t.Logf("round %d: seed %d, archive_command %t, receiver killed %t", round, seed, both, killed)
	config := map[string]string{"max_wal_senders": "5"}
	if !both {
		config["archive_command"] = "false"
	}
	h := newHost(t, hostOptions{cluster: pgtest.Options{Major: major, Config: config}, encrypted: random.IntN(2) == 0})
	h.Exec(t, "CREATE TABLE acknowledged (n int)")
	pgtest.Pgbench(t, h.Cluster, "-i", "-q")
	r := h.receive(t, pgtest.TempDir(t))
	h.synchronous(t)
	h.Exec(t, "INSERT INTO acknowledged VALUES (-1)") // before there is any backup, or WAL that is archived
	h.backup(t)
	acked := insertUntilItFails(t, h.Cluster, 3)
	load := startLoad(t, h.Cluster)
	for deadline := time.Now().Add(2 * time.Minute); acked.count() < 20 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond) // the random moment
	if random.IntN(2) == 0 {
		// Killed and begun again: the server may die while a segment is received for
		// the second time whose first bytes it was told of long ago.
		_ = r.Process.Kill()
		_ = r.end()
		again := h.start(t, "archive-receive", "--directory", r.dir, "--slot", "receiver")
		r = &receiver{process: again, h: h, dir: r.dir}
		t.Cleanup(func() { _ = again.Process.Kill() })
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
	}
	if killed && random.IntN(2) == 0 {
		// The receiver first: whatever it has acknowledged has to be there.
		_ = r.Process.Kill()
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
	}
	h.Kill(t)
	acked.done.Wait()
	load()
	if err := os.RemoveAll(h.DataDir); err != nil {
		t.Fatal(err)
	}
	if killed {
		_ = r.Process.Kill()
	} else if err := r.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if o := r.end(); !killed && o.code != codeOK {
		t.Fatalf("archive-receive ended with %d:\n%s", o.code, o.stderr)
	}
	h.findAll(t, r.dir, append([]int{-1}, acked.numbers...))
	return len(acked.numbers)
}

// startLoad runs pgbench until the server is gone; what is returned waits for it.
func startLoad(t *testing.T, c *pgtest.Cluster) (wait func()) {
	t.Helper()
	cmd := pgtest.Command(t, pgtest.Tool(t, "pgbench"), "-h", c.SocketDir, "-p", strconv.Itoa(c.Port), "-U", "postgres", "-n", "-c", "3", "-T", "300", "postgres")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the server went away under it
	}
}

// findAll restores from the repository and the received WAL, and looks for numbers.
func (h *host) findAll(t *testing.T, received string, numbers []int) {
	t.Helper()
	target := filepath.Join(pgtest.TempDir(t), "restored")
	o := h.expect(t, codeOK, "restore", "--target-dir", target, "--received", received)
	says(t, o.stdout, "received:", "in the archive or received")
	c := pgtest.Open(t, target, h.Major, map[string]string{"archive_mode": "off", "synchronous_standby_names": ""})
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 2*time.Minute)
	there := map[string]bool{}
	for _, n := range strings.Fields(c.Query(t, "SELECT n FROM acknowledged")) {
		there[n] = true
	}
	var lost []int
	for _, n := range numbers {
		if !there[strconv.Itoa(n)] {
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits are lost: %v\n%s", len(lost), len(numbers), lost, o.stdout)
	}
	if len(numbers) < 20 {
		t.Errorf("%d commits were acknowledged only", len(numbers))
	}
	balanced(t, c)
	c.Stop(t, "fast")
}
