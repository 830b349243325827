package archive

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// receiving is a receiver of a test, which runs until stop.
type receiving struct {
	*Receiver
	dir    string
	stanza *repo.Stanza
	log    *logged
	cancel context.CancelFunc
	done   chan error
}

// logged keeps what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newReceiving prepares a receiver of a cluster's WAL with a repository in
// memory; change may alter its options.
func newReceiving(t *testing.T, c *pgtest.Cluster, change func(*ReceiveOptions)) *receiving {
	t.Helper()
	return continued(t, c, t.TempDir(), newStanza(t, mem.New(), serverIdentity(t, c.DataDir)), received.OS{}, change)
}

// continued prepares a receiver with a directory and a stanza that may be there from an earlier one.
func continued(t *testing.T, c *pgtest.Cluster, dir string, s *repo.Stanza, disk received.Disk, change func(*ReceiveOptions)) *receiving {
	t.Helper()
	r := &receiving{dir: dir, stanza: s, log: &logged{}, done: make(chan error, 1)}
	d, err := received.Open(r.dir, disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	pusher, err := NewPusher(PushTarget{Name: "one", Open: func(context.Context) (*repo.Stanza, error) { return r.stanza, nil }})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := ReceiveOptions{Stanza: "main", Directory: d, Slot: "receiver", CreateSlot: true, Name: "receiver",
		Connect: func(ctx context.Context) (*server.ReplicationConn, error) {
			return server.ConnectReplicationAs(ctx, c.DSN(), "receiver")
		},
		Inspect: func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.DSN()) },
		Pusher:  pusher, Log: log, Clock: time.Now}
	if change != nil {
		change(&o)
	}
	if r.Receiver, err = NewReceiver(o); err != nil {
		t.Fatal(err)
	}
	r.pace.reconnect, r.pace.reconnectTo, r.pace.store, r.pace.storeTo, r.pace.room = 50*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the receiver:\n%s", r.log)
		}
	})
	return r
}

// begin lets it run.
func (r *receiving) begin(t *testing.T) *receiving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.done:
		default:
		}
	})
	return r
}

// stop ends it as SIGTERM does; it must end without an error.
func (r *receiving) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := r.ended(t); err != nil {
		t.Fatalf("the receiver ended with %v", err)
	}
	if err := r.o.Directory.Close(); err != nil {
		t.Fatal(err)
	}
}

// ended waits until it ends by itself.
func (r *receiving) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("the receiver does not end")
		return nil
	}
}

// says waits until the log has words.
func (r *receiving) says(t *testing.T, words string) {
	t.Helper()
	r.until(t, "say "+words, func() bool { return strings.Contains(r.log.String(), words) })
}

func (r *receiving) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the receiver does not %s", what)
		}
	}
}

// caughtUp waits until the server was told that everything it has is durable.
func caughtUp(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()", "1", 2*time.Minute)
}

// stored waits until a file is in the repository.
func (r *receiving) waitStored(t *testing.T, name string) {
	t.Helper()
	f, err := postgres.ParseWALFile(name, r.stanza.Current().SegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	r.until(t, "store "+name, func() bool {
		ok, err := r.stanza.HasWAL(t.Context(), r.stanza.Current(), f)
		return err == nil && ok
	})
}

// serversSegments are the whole segments in a server's pg_wal before the current one.
func serversSegments(t *testing.T, c *pgtest.Cluster) []string {
	t.Helper()
	current := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	return strings.Fields(c.Query(t, "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name < '"+current+"' ORDER BY name"))
}

// sameAsServers compares what is stored with the server's own segments from first
// on, but for those in which a timeline ended: the next one has all of them.
func (r *receiving) sameAsServers(t *testing.T, c *pgtest.Cluster, first string) int {
	t.Helper()
	n := 0
	names := serversSegments(t, c)
	for _, name := range names {
		ended := slices.ContainsFunc(names, func(other string) bool { return other[8:] == name[8:] && other > name })
		if name < first || ended {
			continue
		}
		n++
		r.waitStored(t, name)
		want, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, r.stanza, name, want)
	}
	return n
}

// fill writes WAL of some segments of 1 MiB.
func fill(t *testing.T, c *pgtest.Cluster, segments int) {
	t.Helper()
	c.Exec(t, fmt.Sprintf("CREATE TABLE IF NOT EXISTS filled (a text); INSERT INTO filled SELECT repeat(md5(n::text), 30) FROM generate_series(1, %d) n", segments*1000))
}

func TestReceivedWALIsTheServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
			first := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
			r := newReceiving(t, c, nil).begin(t)
			r.says(t, "receiving WAL")
			r.says(t, "no WAL that leads here is archived, so there is no backup either")
			fill(t, c, 5)
			caughtUp(t, c)
			r.stop(t)
			fill(t, c, 3)
			again := continued(t, c, r.dir, r.stanza, received.OS{}, nil).begin(t)
			again.says(t, "receiving WAL")
			fill(t, c, 3)
			c.Exec(t, "SELECT pg_switch_wal()")
			caughtUp(t, c)
			if n := again.sameAsServers(t, c, first); n < 10 {
				t.Errorf("%d segments were compared only", n)
			}
			again.stop(t)
			left, err := os.ReadDir(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) > 5 {
				t.Errorf("what is stored is still in the directory: %v", left)
			}
		})
	}
}

// TestWhatFollowsASwitchIsStoredAsThePrimaryHasIt receives a segment whose end is of
// an older use of the file, as a standby sends it that has not got the zeros yet.
func TestWhatFollowsASwitchIsStoredAsThePrimaryHasIt(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
			c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 100) n")
			end, err := postgres.ParseLSN(c.Query(t, "SELECT pg_switch_wal()"))
			if err != nil {
				t.Fatal(err)
			}
			c.Exec(t, "CREATE TABLE u AS SELECT generate_series(1, 100) n")
			all := serversSegments(t, c)
			name := all[len(all)-1]
			want, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", name))
			if err != nil {
				t.Fatal(err)
			}
			switched := int(end % (1 << 20))
			if switched == 0 || !postgres.IsZero(want[switched:]) {
				t.Fatalf("%s is not zero from %d on", name, switched)
			}
			r := newReceiving(t, c, nil)
			control := serverIdentity(t, c.DataDir)
			if err := r.o.Directory.Claim(received.Identity{Stanza: "main", SystemID: control.SystemID, Major: major, SegmentSize: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			torn := bytes.Clone(want)
			copy(torn[switched:], bytes.Repeat([]byte("old"), len(torn)))
			if err := os.WriteFile(filepath.Join(r.dir, name), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.storeAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustHold(t, r.stanza, name, want)
			if result, err := pushPath(t, r.stanza, filepath.Join(c.DataDir, "pg_wal", name)); err != nil || len(result.Warnings) == 0 {
				t.Errorf("archive_command's push of the same segment: %+v, %v", result, err)
			}
		})
	}
}
