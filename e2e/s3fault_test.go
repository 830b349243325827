package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
	"github.com/pgbak/pgbak/repo"
)

// breaker decides which requests go wrong, and remembers.
type breaker struct {
	fault func(s3test.Request) s3test.Fault // of the request, when its turn comes
	every int                               // 0: the first of those that are alike; n: each n-th, whatever it is

	mu    sync.Mutex
	met   map[string]bool
	count int
	fired map[string]int // by operation
}

// afresh lets requests fail that had their turn.
func (b *breaker) afresh() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.met = map[string]bool{}
}

func (b *breaker) decide(r s3test.Request) s3test.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	_, end, _ := strings.Cut(r.Header.Get("Range"), "-") // a read that was cut goes on to the same end
	id := fmt.Sprint(r.Method, r.Path, "?", r.Query, " ", end)
	turn := !b.met[id]
	if b.every > 0 {
		turn = b.count%b.every == 0
	}
	if !turn {
		return s3test.None
	}
	b.met[id] = true
	b.fired[r.Operation()]++
	return b.fault(r)
}

// total is how many faults there were; the test fails if a kind of request had none.
func (b *breaker) total(t *testing.T, operations ...string) int {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, fired := range b.fired {
		n += fired
	}
	for _, operation := range operations {
		if b.fired[operation] == 0 {
			t.Errorf("no %s failed", operation)
		}
	}
	return n
}

// TestEveryCommandGetsThroughFaultsOfItsRequests fails every request of every
// command once, in each of the ways in which a connection or a server can fail
// and recover: before the request had an effect and after it. And then each
// third request, so that what is tried again fails again.
func TestEveryCommandGetsThroughFaultsOfItsRequests(t *testing.T) {
	minio := s3test.MinIO(t, s3test.Options{})
	for _, c := range []struct {
		title  string
		every  int
		faults []s3test.Fault // in turn
	}{
		{"each once, its answer is lost", 0, []s3test.Fault{s3test.DropAnswer}},
		{"each once, half of its answer is lost", 0, []s3test.Fault{s3test.CutBody}},
		{"each once, it is not done or an error is the answer", 0, []s3test.Fault{s3test.CutBefore, s3test.InternalError, s3test.SlowDown}},
		{"each third", 3, []s3test.Fault{s3test.CutBefore, s3test.DropAnswer, s3test.CutBody, s3test.InternalError, s3test.SlowDown}},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			getThrough(t, minio, &breaker{every: c.every, fault: func(r s3test.Request) s3test.Fault { return c.faults[r.N/3%len(c.faults)] }})
		})
	}
}

// getThrough runs every command through the breaker. All must end well, and
// what they leave must be right when it is looked at without faults.
func getThrough(t *testing.T, server *s3test.Server, broken *breaker) {
	b, proxy := behind(t, server)
	broken.met, broken.fired = map[string]bool{}, map[string]int{}
	proxy.On(broken.decide)
	run := func(h *host, args ...string) outcome {
		t.Helper()
		broken.afresh()
		before := broken.total(t)
		o := h.expect(t, codeOK, args...)
		if broken.total(t) == before {
			t.Errorf("pgbak %s met no fault", args[0])
		}
		return o
	}
	h := newHost(t, hostOptions{bucket: b}) // with init
	run(h, "init")
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n")
	first := parseTaken(t, run(h, "backup", "--output", "json")).Backup.Label
	h.Exec(t, "UPDATE t SET x = md5(x) WHERE n % 100 = 0")
	run(h, "check")
	o := run(h, "backup", "--output", "json")
	says(t, o.stderr, "is tried again")
	second := parseTaken(t, o).Backup.Label
	h.Exec(t, "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(20001, 30000) n")
	state := committed(t, h.Cluster)
	switchWAL(t, h.Cluster)
	run(h, "info")
	if listed := labels(h.backups(t)); !slices.Equal(listed, []repo.Label{first, second}) {
		t.Errorf("info lists %v, want %s and %s", listed, first, second)
	}
	into := filepath.Join(pgtest.TempDir(t), "data")
	run(h, "restore", "--target-dir", into, "--archive-mode", "off")
	verifyBackup(t, into)
	broken.afresh()
	restored := pgtest.Open(t, into, h.Major, nil) // which fetches WAL by the same way
	restored.WaitFor(t, inRecovery, "f", time.Minute)
	sameText(t, "the committed state", committed(t, restored), state)
	t.Logf("%d faults: %v", broken.total(t, "PUT", "GET", "LIST", "DELETE"), broken.fired)
	proxy.On(nil)
	_, s := h.mustOpen(t)
	checked := map[repo.Label]bool{}
	law(t, s, checked)
	if !checked[first] || !checked[second] {
		t.Errorf("read back: %v", checked)
	}
}

// TestAPushGetsThroughTheFaultOfAnyRequest takes a server's own segments. Of a
// push all requests are tried, one by one, in all ways.
func TestAPushGetsThroughTheFaultOfAnyRequest(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, s3test.MinIO(t, s3test.Options{}))
	h := newHost(t, hostOptions{bucket: b, cluster: pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "100MB"}}})
	st := h.store(t)
	for _, fault := range []s3test.Fault{s3test.CutBefore, s3test.DropAnswer, s3test.CutBody, s3test.SlowDown, s3test.InternalError} {
		for n := 1; ; n++ {
			h.Exec(t, fmt.Sprintf("CREATE TABLE t%d%d (n int)", fault, n))
			name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
			victim := ""
			proxy.Reset()
			proxy.On(func(r s3test.Request) s3test.Fault {
				if r.N == n {
					victim = r.Operation() + " " + r.Path // no other request has this number
					return fault
				}
				return s3test.None
			})
			path := filepath.Join(h.DataDir, "pg_wal", name)
			o := h.run(t, "archive-push", path)
			proxy.On(nil)
			if victim == "" {
				if n <= 5 {
					t.Errorf("%v: a push has %d requests only", fault, n-1)
				}
				break
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := archived(t, st, name); o.code != codeOK || err != nil || string(got) != string(want) {
				t.Errorf("%v of request %d, %s: exit %d, the archive has %d bytes, %v\n%s", fault, n, victim, o.code, len(got), err, o.stderr)
			}
		}
	}
}

// TestAnOutageEndsCommandsWithinTheirBounds stops the server in the middle of a
// backup, for longer than a command tries.
func TestAnOutageEndsCommandsWithinTheirBounds(t *testing.T) {
	t.Parallel()
	server := s3test.MinIO(t, s3test.Options{})
	b, proxy := behind(t, server)
	b.more = "\n    retry: {attempts: 3, time: 5s}"
	h := newHost(t, hostOptions{bucket: b})
	first := h.backup(t).Backup.Label
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(random()::text) x FROM generate_series(1, 20000) n")
	switchWAL(t, h.Cluster)

	asked, stopped := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.On(func(r s3test.Request) s3test.Fault {
		if r.Method == "PUT" && strings.Contains(r.Path, "/packs/") {
			once.Do(func() { close(asked) })
			<-stopped
		}
		return s3test.None
	})
	began := time.Now()
	p := h.start(t, "backup")
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Error("no pack was put within a minute")
	}
	server.Stop()
	close(stopped)
	o := p.end()
	outage(t, "backup", o, time.Since(began))

	h.Exec(t, "CREATE TABLE later AS SELECT 1 AS n")
	name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	path := filepath.Join(h.DataDir, "pg_wal", name)
	into := filepath.Join(pgtest.TempDir(t), "data")
	for _, args := range [][]string{
		{"archive-push", path}, {"restore", "--target-dir", into}, {"init"},
	} {
		began := time.Now()
		outage(t, args[0], h.run(t, args...), time.Since(began))
	}
	if exists(filepath.Join(into, "global", "pg_control")) {
		t.Error("the restore has left a pg_control")
	}
	if o := h.run(t, "info"); o.code == codeOK || strings.Contains(o.stdout, "no valid backups") {
		t.Errorf("info: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	h.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t", time.Minute)

	server.Start()
	if listed := labels(h.backups(t)); !slices.Equal(listed, []repo.Label{first}) {
		t.Errorf("after the outage info lists %v, want %s alone", listed, first)
	}
	h.backup(t)
	h.WaitFor(t, fmt.Sprintf("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver", name), "t", time.Minute)
	_, s := h.mustOpen(t)
	checked := map[repo.Label]bool{}
	if law(t, s, checked); len(checked) != 2 {
		t.Errorf("backups %v, want two", checked)
	}
}

// outage checks what a command says of a server that is gone.
func outage(t *testing.T, command string, o outcome, took time.Duration) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
	last := lines[len(lines)-1]
	t.Logf("%s took %v: %s", command, took, last)
	if o.code != codeStorage {
		t.Errorf("%s: exit %d, want %d\n%s", command, o.code, codeStorage, o.stderr)
	}
	// Three attempts take seconds; the rest is for a busy machine.
	if took > 40*time.Second {
		t.Errorf("%s took %v to give up", command, took)
	}
	says(t, last, "pgbak: ", "after ", " attempts in ")
	if strings.Count(last, "s3://") != 1 {
		t.Errorf("%s does not say once where it failed: %s", command, last)
	}
}
