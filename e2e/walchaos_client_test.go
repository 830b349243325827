package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// chaosCommit is a row that a client wrote, as the client saw it.
type chaosCommit struct {
	session, n int64
	branch     branch
	// told: the server has said that it is committed. If it did not, the row may be there or not.
	told bool
	// The commit lies between these positions and moments. after is noEnd
	// and to is zero if the server ended before it was asked.
	before, after uint64
	from, to      time.Time
	xid           string
}

// chaosJournal is what all clients have seen.
type chaosJournal struct {
	sessions atomic.Int64
	mu       sync.Mutex
	commits  []chaosCommit
}

func (j *chaosJournal) note(c chaosCommit) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.commits = append(j.commits, c)
}

// told is how many commits on a branch clients were told of.
func (j *chaosJournal) told(b branch) int {
	n := 0
	for _, commit := range j.all() {
		if commit.told && commit.branch == b {
			n++
		}
	}
	return n
}

func (j *chaosJournal) all() []chaosCommit {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.commits)
}

// chaosWork is the clients of one primary: sessions with small transactions,
// and one that fills segments when it is asked to.
type chaosWork struct {
	n      *chaosNode
	cancel context.CancelFunc
	ended  sync.WaitGroup
	wanted chan struct{}
	filled atomic.Int64 // segments
}

func startChaosWork(n *chaosNode, sessions int) *chaosWork {
	ctx, cancel := context.WithCancel(context.Background())
	w := &chaosWork{n: n, cancel: cancel, wanted: make(chan struct{}, 1000)}
	for range sessions {
		s := &chaosSession{node: n, branch: n.branch, dsn: n.DSN(), id: n.c.journal.sessions.Add(1)}
		w.ended.Go(func() { s.run(ctx) })
	}
	dsn := n.DSN()
	w.ended.Go(func() { w.fill(ctx, dsn) })
	return w
}

func (w *chaosWork) stop() {
	w.cancel()
	w.ended.Wait()
}

// connectChaos connects, again and again until it succeeds or is no longer wanted.
func connectChaos(ctx context.Context, dsn string) *pgconn.PgConn {
	for ctx.Err() == nil {
		conn, err := pgconn.Connect(ctx, dsn+" sslmode=disable connect_timeout=5")
		if err == nil {
			return conn
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// fill writes a segment for each that is wanted: full, or half empty after a switch.
func (w *chaosWork) fill(ctx context.Context, dsn string) {
	var conn *pgconn.PgConn
	defer func() { closeChaos(conn) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wanted:
		}
		for done := false; !done && ctx.Err() == nil; {
			if conn == nil {
				conn = connectChaos(ctx, dsn)
				continue
			}
			sql := fmt.Sprintf("INSERT INTO bulk SELECT n, md5(random()::text) || repeat('x', 40) FROM generate_series(1, %d) n", 100+rand.IntN(4000))
			if n := w.filled.Load(); n%40 == 39 {
				sql = "TRUNCATE bulk"
			} else if n%10 == 9 {
				sql = "DELETE FROM bulk WHERE random() < 0.5"
			}
			_, err := conn.Exec(ctx, sql).ReadAll()
			if err == nil {
				_, err = conn.Exec(ctx, "SELECT pg_switch_wal()").ReadAll()
			}
			if err != nil {
				closeChaos(conn)
				conn = nil
				continue
			}
			done = true
			w.filled.Add(1)
		}
	}
}

func closeChaos(conn *pgconn.PgConn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server may be gone
}

// chaosSession is a client that inserts rows one by one.
type chaosSession struct {
	node   *chaosNode
	branch branch
	dsn    string
	id, n  int64
}

func (s *chaosSession) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn := connectChaos(ctx, s.dsn)
		if conn == nil {
			return
		}
		for s.insert(ctx, conn) == nil {
			time.Sleep(15 * time.Millisecond) // the rate of the work, nothing waits for it
		}
		closeChaos(conn)
	}
}

// insert writes a row and notes what it saw; an error is one of the connection.
func (s *chaosSession) insert(ctx context.Context, conn *pgconn.PgConn) error {
	before, err := askLSN(ctx, conn)
	if err != nil {
		return err
	}
	s.n++
	c := chaosCommit{session: s.id, n: s.n, branch: s.branch, before: before, after: noEnd, from: time.Now()}
	results, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO journal VALUES (%d, %d, repeat('%d', %d)) RETURNING txid_current()",
		s.id, s.n, s.n, rand.IntN(100))).ReadAll()
	if err == nil {
		c.told, c.to, c.xid = true, time.Now(), string(results[0].Rows[0][0])
		var after uint64
		if after, err = askLSN(ctx, conn); err == nil {
			c.after = after
		}
	}
	s.node.c.journal.note(c)
	return err
}

func askLSN(ctx context.Context, conn *pgconn.PgConn) (uint64, error) {
	results, err := conn.Exec(ctx, "SELECT pg_current_wal_insert_lsn()").ReadAll()
	if err != nil {
		return 0, err
	}
	return lsnOf(string(results[0].Rows[0][0])), nil
}

// key names a row as the judge reads it.
func (c chaosCommit) key() string {
	return strconv.FormatInt(c.session, 10) + "|" + strconv.FormatInt(c.n, 10)
}
