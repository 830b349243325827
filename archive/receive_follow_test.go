package archive

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// is checks what an error is, and that its text has words.
func is(t *testing.T, err, target error, words ...any) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("error %v, want one that is: %v", err, target)
	}
	contains(t, err, words...)
}

// to makes a receiver connect to whichever cluster now is.
func to(now *atomic.Pointer[pgtest.Cluster]) func(*ReceiveOptions) {
	return func(o *ReceiveOptions) {
		o.Connect = func(ctx context.Context) (*server.ReplicationConn, error) {
			return server.ConnectReplicationAs(ctx, now.Load().DSN(), "receiver")
		}
		o.Inspect = func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, now.Load().DSN()) }
	}
}

// TestAPromotionIsFollowed promotes a standby twice while WAL is received from it,
// and once while the receiver is away.
func TestAPromotionIsFollowed(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
			standby := pgtest.StartStandby(t, primary)
			first := primary.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
			var now atomic.Pointer[pgtest.Cluster]
			now.Store(standby)
			r := newReceiving(t, primary, to(&now)).begin(t)
			r.says(t, "receiving WAL")
			fill(t, primary, 3)
			primary.Stop(t, "fast")
			standby.Promote(t)
			r.says(t, "the server has begun a new timeline")
			fill(t, standby, 2)
			caughtUp(t, standby)
			r.stop(t)
			// Away: the server goes on to a timeline of its own making.
			fill(t, standby, 1)
			promoteAgain(t, standby)
			fill(t, standby, 1)
			again := continued(t, standby, r.dir, r.stanza, received.OS{}, to(&now)).begin(t)
			again.says(t, "timeline=3")
			standby.Exec(t, "SELECT pg_switch_wal()")
			caughtUp(t, standby)
			if n := again.sameAsServers(t, standby, first); n < 7 {
				t.Errorf("%d segments were compared only", n)
			}
			for _, name := range []string{"00000002.history", "00000003.history"} {
				again.waitStored(t, name)
				want, err := os.ReadFile(filepath.Join(standby.DataDir, "pg_wal", name))
				if err != nil {
					t.Fatal(err)
				}
				mustHold(t, again.stanza, name, want)
			}
			again.stop(t)
			if left := namesOf(r.dir); strings.Contains(left, "00000001") && strings.Contains(left, "00000001000000") {
				t.Errorf("files of timeline 1 are left although all is stored: %s", left)
			}
		})
	}
}

// promoteAgain lets a server begin another timeline, as a recovery from its own WAL.
func promoteAgain(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Stop(t, "fast")
	signal := filepath.Join(c.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(c.DataDir, "postgresql.auto.conf")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, append(text, "\nprimary_conninfo = ''\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, signal)
	c.Start(t)
	c.Promote(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
}

// TestAServerThatWentAnotherWayIsRefused promotes a standby that has not got what
// was received, connects to another cluster, and to one that was put back.
func TestAServerThatWentAnotherWayIsRefused(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	standby := pgtest.StartStandby(t, primary)
	var now atomic.Pointer[pgtest.Cluster]
	now.Store(primary)
	r := newReceiving(t, primary, to(&now)).begin(t)
	r.says(t, "receiving WAL")
	standby.Stop(t, "fast")
	fill(t, primary, 2)
	caughtUp(t, primary)
	primary.Stop(t, "fast")
	standby.Start(t)
	standby.Promote(t)
	standby.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
	now.Store(standby)
	err := r.ended(t)
	is(t, err, ErrRefused, "on timeline 1, and the server's timeline 2 left that at")
	if h := hint.Of(err); !strings.Contains(h, "restore --received") {
		t.Errorf("hint %q", h)
	}
	if !strings.Contains(namesOf(r.dir), ".partial") {
		t.Errorf("what only the receiver has is gone: %s", namesOf(r.dir))
	}
	if err := r.o.Directory.Close(); err != nil {
		t.Fatal(err)
	}

	other := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1})
	now.Store(other)
	foreign := continued(t, primary, r.dir, r.stanza, received.OS{}, to(&now)).begin(t)
	err = foreign.ended(t)
	is(t, err, received.ErrDirectory, "holds WAL of system identifier", "the server is of system identifier")
	fresh := continued(t, primary, t.TempDir(), r.stanza, received.OS{}, to(&now)).begin(t)
	is(t, fresh.ended(t), ErrRefused, "the server has system identifier", "stanza main in repository one holds")
}

// TestAServerThatWasPutBackIsRefused restores a copy of the data directory, so
// that the server writes other WAL under the same timeline.
func TestAServerThatWasPutBackIsRefused(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 16, Config: map[string]string{"wal_keep_size": "1GB"}})
	copied := c.DataDir + ".copy"
	c.Stop(t, "fast")
	if out, err := pgtest.Command(t, "cp", "-a", c.DataDir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.Start(t)
	r := newReceiving(t, c, nil).begin(t)
	r.says(t, "receiving WAL")
	c.Exec(t, "CREATE TABLE one AS SELECT generate_series(1, 1000) n")
	caughtUp(t, c)
	c.Kill(t)
	if err := os.RemoveAll(c.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, c.DataDir); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	c.Exec(t, "CREATE TABLE two AS SELECT generate_series(1, 5000) n")
	err := r.ended(t)
	is(t, err, received.ErrDiffers, ".partial at 0/")
	if h := hint.Of(err); !strings.Contains(h, "without a new timeline") {
		t.Errorf("hint %q", h)
	}
}

// TestMissingWALIsSaidAndRecorded lets the server remove WAL that was not received.
func TestMissingWALIsSaidAndRecorded(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB"}})
	r := newReceiving(t, c, nil).begin(t)
	r.says(t, "receiving WAL")
	fill(t, c, 1)
	caughtUp(t, c)
	r.stop(t)
	next := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_flush_lsn())")
	c.Exec(t, "SELECT pg_drop_replication_slot('receiver')")
	for range 4 {
		fill(t, c, 2)
		c.Exec(t, "CHECKPOINT")
	}
	stopped := continued(t, c, r.dir, r.stanza, received.OS{}, nil).begin(t)
	err := stopped.ended(t)
	is(t, err, ErrWALGap, "is not on the server any more: from 0/")
	if h := hint.Of(err); !strings.Contains(h, "--accept-gap") || !strings.Contains(h, "new backup") {
		t.Errorf("hint %q", h)
	}
	if err := stopped.o.Directory.Close(); err != nil {
		t.Fatal(err)
	}
	again := continued(t, c, r.dir, r.stanza, received.OS{}, func(o *ReceiveOptions) { o.AcceptGap = true }).begin(t)
	again.says(t, "WAL is missing")
	fill(t, c, 2)
	caughtUp(t, c)
	events, err := r.stanza.WALEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || events[0].Kind != repo.WALNotReceived || events[0].First != next || events[0].Last < next {
		t.Errorf("events %+v, want one from %s on", events, next)
	}
	again.stop(t)
}

// TestANewDirectoryGoesOnBehindTheArchive begins without a slot that keeps
// anything, where archive_command had stopped.
func TestANewDirectoryGoesOnBehindTheArchive(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	fill(t, c, 6)
	s := newStanza(t, mem.New(), serverIdentity(t, c.DataDir))
	all := serversSegments(t, c)
	for _, name := range all[:3] {
		if _, err := pushPath(t, s, filepath.Join(c.DataDir, "pg_wal", name)); err != nil {
			t.Fatal(err)
		}
	}
	r := continued(t, c, t.TempDir(), s, received.OS{}, nil).begin(t)
	r.says(t, "receiving WAL")
	c.Exec(t, "SELECT pg_switch_wal()")
	caughtUp(t, c)
	r.sameAsServers(t, c, all[0])
	if strings.Contains(r.log.String(), "file="+all[2]) {
		t.Error("what was archived was received again")
	}
	if strings.Contains(r.log.String(), "no WAL that leads here is archived") {
		t.Error("there is WAL that leads here")
	}
	r.stop(t)
}

// TestRemoteApplyIsRefused sets it for all, and for a role.
func TestRemoteApplyIsRefused(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"synchronous_standby_names": "ANY 1 (other, \"Receiver\")", "synchronous_commit": "local"}})
	c.Exec(t, "CREATE ROLE someone; ALTER ROLE someone SET synchronous_commit = remote_apply")
	r := newReceiving(t, c, nil).begin(t)
	err := r.ended(t)
	is(t, err, ErrRemoteApply, "receiver is in synchronous_standby_names", "for role someone")
	c.Exec(t, "ALTER ROLE someone RESET synchronous_commit")
	c.Exec(t, "ALTER SYSTEM SET synchronous_commit = remote_apply")
	c.Exec(t, "SELECT pg_reload_conf()")
	c.WaitFor(t, "SHOW synchronous_commit", "remote_apply", time.Minute)
	err = newReceiving(t, c, nil).begin(t).ended(t)
	is(t, err, ErrRemoteApply)
	if h := hint.Of(err); !strings.Contains(h, "synchronous_commit = on") {
		t.Errorf("hint %q", h)
	}
}

func TestNamesInSynchronousStandbyNames(t *testing.T) {
	for setting, want := range map[string]bool{
		"": false, "*": true, "me": true, "ME": true, "other": false, "other, me": true, "2 (a, b)": false, "2 (a, me)": true,
		"FIRST 1 (me, b)": true, "ANY 2 (a,b , me )": true, `ANY 1 ("me")`: true, `"a(b", me`: true, `"me""x"`: false, `1 (*)`: true, "first": false, "any": false,
		`"m`: false, "((((": false, `2 (a, "b)", me)`: true,
	} {
		if got := namedIn(setting, "me"); got != want {
			t.Errorf("%q: %t, want %t", setting, got, want)
		}
	}
}

func FuzzNamedIn(f *testing.F) {
	f.Add(`ANY 1 ("a""b", c)`, "c")
	f.Fuzz(func(_ *testing.T, setting, name string) { namedIn(setting, name) })
}

// cutter is a way to a server that can be cut, or fall silent.
type cutter struct {
	address string
	target  string
	silent  atomic.Bool
	mu      sync.Mutex
	conns   []net.Conn
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{address: listener.Addr().String(), target: target}
	t.Cleanup(func() { _ = listener.Close(); c.cut() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", c.target)
			if err != nil {
				_ = in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			go c.pass(in, out)
			go c.pass(out, in)
		}
	}()
	return c
}

// pass copies until an end is closed; in silence it takes and gives nothing more.
func (c *cutter) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 5000) // cuts messages in two
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if c.silent.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// TestANetworkThatIsCutOrSilentCostsNothing cuts the connection many times in the
// middle of messages, and lets it fall silent.
func TestANetworkThatIsCutOrSilentCostsNothing(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB", "wal_sender_timeout": "2s"}})
	way := newCutter(t, fmt.Sprintf("127.0.0.1:%d", c.Port))
	host, port, _ := net.SplitHostPort(way.address)
	dsn := fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port)
	first := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	r := newReceiving(t, c, func(o *ReceiveOptions) {
		o.Connect = func(ctx context.Context) (*server.ReplicationConn, error) {
			return server.ConnectReplicationAs(ctx, dsn, "receiver")
		}
	})
	r.pace.status, r.pace.farewell = 100*time.Millisecond, time.Second
	r.begin(t).says(t, "receiving WAL")
	for n := range 6 {
		fill(t, c, 1)
		way.cut()
		r.until(t, "connect again", func() bool { return strings.Count(r.log.String(), "receiving WAL") > n+1 })
	}
	way.silent.Store(true)
	fill(t, c, 1)
	r.says(t, "nothing was heard from the server for")
	way.silent.Store(false)
	way.cut()
	c.Exec(t, "SELECT pg_switch_wal()")
	caughtUp(t, c)
	if n := r.sameAsServers(t, c, first); n < 5 {
		t.Errorf("%d segments were compared only", n)
	}
	r.stop(t)
}

// TestWALThatDoesNotFollowIsNotWritten gives the stream a message that leaves bytes
// out, and one that repeats some.
func TestWALThatDoesNotFollowIsNotWritten(t *testing.T) {
	dir, err := received.Open(t.TempDir(), received.OS{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, start := range []postgres.LSN{0x1000001, 0xffffff, 0x2000000} {
		in := &inflow{r: &Receiver{o: ReceiveOptions{Directory: dir}}, id: received.Identity{SegmentSize: 16 << 20}, timeline: 1, next: 0x1000000}
		err := in.take(t.Context(), incoming{message: server.WALMessage{Kind: server.WALData, Start: start, Data: []byte("x")}}, new(bool))
		contains(t, err, "the server sends WAL from "+start.String()+", but 0/1000000 comes next")
	}
	if names := namesOf(dir.Path()); names != "receiver.lock" {
		t.Errorf("something was written: %s", names)
	}
}

// TestARepositoryThatIsAwayKeepsNothingFromBeingAcknowledged takes the repository
// away and brings it back.
func TestARepositoryThatIsAwayKeepsNothingFromBeingAcknowledged(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	first := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	var away atomic.Bool
	st := faulty.OnOp(mem.New(), func(_, _ string) error {
		if away.Load() {
			return errors.New("the network is down")
		}
		return nil
	})
	r := continued(t, c, t.TempDir(), newStanza(t, st, serverIdentity(t, c.DataDir)), received.OS{}, nil)
	r.begin(t).says(t, "receiving WAL")
	away.Store(true)
	fill(t, c, 4)
	caughtUp(t, c)
	r.says(t, "received WAL waits in the directory")
	if waiting := len(serversSegments(t, c)); waiting < 4 {
		t.Errorf("%d segments are complete only", waiting)
	}
	for _, name := range serversSegments(t, c) {
		if !strings.Contains(namesOf(r.dir), name) && name >= first {
			t.Errorf("%s is in no repository and not in the directory: %s", name, namesOf(r.dir))
		}
	}
	away.Store(false)
	c.Exec(t, "SELECT pg_switch_wal()")
	r.sameAsServers(t, c, first)
	r.stop(t)
}

// TestARoleThatMayOnlyReplicateIsEnough receives without a session for SQL, on the
// last major that does not tell of slots over the replication protocol and the first that does.
func TestARoleThatMayOnlyReplicateIsEnough(t *testing.T) {
	for _, major := range []int{14, 15} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
			c.Exec(t, "CREATE ROLE walrole LOGIN REPLICATION")
			dsn := strings.Replace(c.DSN(), "user=postgres", "user=walrole", 1)
			role := func(create bool) func(*ReceiveOptions) {
				return func(o *ReceiveOptions) {
					o.CreateSlot = create
					o.Connect = func(ctx context.Context) (*server.ReplicationConn, error) {
						return server.ConnectReplicationAs(ctx, dsn, "receiver")
					}
					o.Inspect = func(context.Context) (*server.Conn, error) { return nil, errors.New("no line in pg_hba.conf") }
				}
			}
			err := newReceiving(t, c, role(false)).begin(t).ended(t)
			if !errors.Is(err, server.ErrNoSlot) && !errors.Is(err, ErrSlotUnusable) {
				t.Errorf("without a slot: %v", err)
			}
			first := c.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
			r := newReceiving(t, c, role(true)).begin(t)
			r.says(t, "receiving WAL")
			fill(t, c, 2)
			c.Exec(t, "SELECT pg_switch_wal()")
			caughtUp(t, c)
			r.sameAsServers(t, c, first)
			r.stop(t)
		})
	}
}

// TestAStandbyThatIsBehindAndIsPromotedIsRefused receives from a standby that has less
// than was received, and is then promoted: what only the receiver has is not on the
// way of the new timeline.
func TestAStandbyThatIsBehindAndIsPromotedIsRefused(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{Config: map[string]string{"wal_keep_size": "1GB"}})
	standby := pgtest.StartStandby(t, primary)
	var now atomic.Pointer[pgtest.Cluster]
	now.Store(primary)
	r := newReceiving(t, primary, to(&now)).begin(t)
	r.says(t, "receiving WAL")
	standby.Stop(t, "fast")
	primary.Exec(t, "CREATE TABLE acknowledged AS SELECT generate_series(1, 1000) n")
	caughtUp(t, primary)
	primary.Kill(t)
	standby.Start(t)
	now.Store(standby)
	standby.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND state = 'streaming'", "1", 2*time.Minute)
	before := namesOf(r.dir)
	standby.Promote(t)
	is(t, r.ended(t), ErrRefused, "on timeline 1, and the server's timeline 2 left that at")
	if after := namesOf(r.dir); strings.Count(after, ".partial") != strings.Count(before, ".partial") {
		t.Errorf("the directory held %s and holds %s", before, after)
	}
}

// TestAServerThatAcceptsAndSaysNothingIsGivenUp connects to one whose host is stuck.
func TestAServerThatAcceptsAndSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1})
	way := newCutter(t, fmt.Sprintf("127.0.0.1:%d", c.Port))
	host, port, _ := net.SplitHostPort(way.address)
	way.silent.Store(true)
	r := newReceiving(t, c, func(o *ReceiveOptions) {
		o.Connect = func(ctx context.Context) (*server.ReplicationConn, error) {
			return server.ConnectReplicationAs(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port), "receiver")
		}
	})
	r.pace.answer = 5 * time.Second
	r.begin(t).says(t, "the stream of WAL was interrupted")
	way.silent.Store(false)
	r.says(t, "receiving WAL")
	r.stop(t)
}
