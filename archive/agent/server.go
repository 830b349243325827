package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
)

// Service does the work of requests; safe for concurrent use.
type Service interface {
	// Push stores the file at path, which lies in the pg_wal of the data directory
	// pgdata, in every repository that the request names, and returns without error
	// only when it is durable in all of them.
	Push(ctx context.Context, r Request, pgdata, path string) (archive.Result, error)
	// Get writes the file that the request names into an open file, whole, verified
	// and durable. Its error wraps archive.ErrAbsent only for proven absence.
	Get(ctx context.Context, r Request, into *os.File) (archive.Got, error)
	// DataDirectory is where this process sees the data directory of a stanza, by its
	// configuration; "" is not known.
	DataDirectory(stanza string) string
}

// Server serves a socket.
type Server struct {
	Socket  string
	Service Service
	// Code gives the exit code that an error has by itself.
	Code func(error) int
	// Processes is how many pushes, and how many gets, run at the same time.
	Processes int
	Log       *slog.Logger
	Clock     func() time.Time
	// Drain is how long, once the context of Serve has ended, what was accepted may go on.
	Drain time.Duration
	// Metrics counts what was done.
	Metrics *Metrics

	heartbeat time.Duration // of signs of life to those who wait; 0 is the default
}

const (
	// maxConnections bounds goroutines and descriptors; who comes above that waits
	// in the socket's queue.
	maxConnections = 256
	// requestTime is how long a client may take to say what it wants, or to take
	// its answer.
	requestTime = 10 * time.Second
	// heartbeatTime is much less than Silence.
	heartbeatTime = 5 * time.Second
)

// serving is a Server at work.
type serving struct {
	*Server
	work    context.Context // of requests; ends after the drain
	stopped <-chan struct{} // closed when nothing more is accepted
	group   uint32          // of the socket
	pushes  joined
	turns   map[string]chan struct{} // by operation: as many at once as there is room
	running sync.WaitGroup
}

// Serve listens and serves until ctx ends, then drains: what was accepted is
// finished, or ended when Drain is over. ready is called once the socket is there.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	l, unlock, err := listen(s.Socket)
	if err != nil {
		return err
	}
	defer unlock()
	defer l.Close()
	group, err := groupOf(s.Socket)
	if err != nil {
		return err
	}
	work, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	v := &serving{Server: s, work: work, stopped: ctx.Done(), group: group,
		turns: map[string]chan struct{}{opPush: make(chan struct{}, s.Processes), opGet: make(chan struct{}, s.Processes)}}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	ready()
	err = v.accept(ctx, l)
	_ = l.Close() // removes the socket: who comes now finds no agent
	timer := time.AfterFunc(s.Drain, func() { end(errEnding) })
	defer timer.Stop()
	v.running.Wait()
	return err
}

// errEnding is why requests fail that were not done when the drain was over.
var errEnding = errors.New("the agent is ending")

func (v *serving) accept(ctx context.Context, l *net.UnixListener) error {
	room := make(chan struct{}, maxConnections)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("agent socket: %w", err)
		}
		if err != nil {
			// Too many open files, for instance: those who wait are served later.
			v.Log.Error("accept a connection", "error", err)
			pauseOr(ctx, time.Second)
			<-room
			continue
		}
		v.running.Go(func() {
			defer func() { <-room }()
			v.serve(conn)
		})
	}
}

func pauseOr(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// serve answers the one request of a connection.
func (v *serving) serve(conn *net.UnixConn) {
	defer conn.Close()
	p, err := peerOf(conn)
	if err == nil && !p.mayAsk(uint32(os.Geteuid()), v.group) {
		err = fmt.Errorf("user %d is neither the agent's nor in the group %d of its socket", p.uid, v.group)
	}
	if err != nil {
		v.Log.Warn("a connection was refused", "error", err)
		v.send(conn, v.failure(hint.Wrap(err, "run the agent as the user who runs PostgreSQL, or give the socket's directory the group of both.")))
		return
	}
	from := &passing{conn: conn}
	defer from.close()
	var r Request
	_ = conn.SetReadDeadline(v.Clock().Add(requestTime))
	// At the end nobody is waited for who has not said what he wants.
	asked := make(chan struct{})
	go func() {
		select {
		case <-v.stopped:
			_ = conn.SetReadDeadline(v.Clock())
		case <-asked:
		}
	}()
	err = decode(from, &r)
	close(asked)
	if err != nil && v.ending() {
		return // without an answer: nothing was accepted
	}
	if err != nil {
		v.Log.Debug("a request was not understood", "error", err)
		v.send(conn, v.failure(err))
		return
	}
	v.send(conn, v.answer(conn, r, from.file))
}

// answer does what is asked for, and meanwhile tells the client that it does.
func (v *serving) answer(conn *net.UnixConn, r Request, file *os.File) *answer {
	if r.Version != protocolVersion {
		return v.failure(hint.Wrap(fmt.Errorf("the agent speaks version %d of its protocol, the request is of version %d", protocolVersion, r.Version), "%s", restartAdvice))
	}
	ctx, leave := context.WithCancelCause(v.work)
	defer leave(nil)
	done := make(chan *answer, 1)
	go func() { done <- v.do(ctx, r, file) }()
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		// Nothing more is to come but the end of the connection.
		_, _ = conn.Read(make([]byte, 1))
		leave(errLeft)
	}()
	every := v.heartbeat
	if every == 0 {
		every = heartbeatTime
	}
	beat := time.NewTicker(every)
	defer beat.Stop()
	for {
		select {
		case a := <-done:
			return a
		case <-beat.C:
			v.send(conn, &answer{Working: true})
		}
	}
}

var errLeft = errors.New("the client has left")

// do is what the request asks for. A push does not end with ctx.
func (v *serving) do(ctx context.Context, r Request, file *os.File) *answer {
	switch r.Operation {
	case opPing:
		return &answer{}
	case opPush:
		return v.push(r, file)
	case opGet:
		return v.get(ctx, r, file)
	default:
		return v.failure(fmt.Errorf("operation %.40q is unknown", r.Operation))
	}
}

// turn waits until there is room for one more operation of the kind.
func (v *serving) turn(ctx context.Context, operation string) (release func(), err error) {
	select {
	case v.turns[operation] <- struct{}{}:
		return func() { <-v.turns[operation] }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (v *serving) ending() bool {
	select {
	case <-v.stopped:
		return true
	default:
		return false
	}
}

func (v *serving) failure(err error) *answer {
	if v.work.Err() != nil && !errors.Is(err, errEnding) && !errors.Is(err, archive.ErrAbsent) {
		err = fmt.Errorf("%w: %w", errEnding, err)
	}
	return &answer{Failure: &Failure{Code: v.Code(err), Absent: errors.Is(err, archive.ErrAbsent), Text: err.Error(), Hint: hint.Of(err)}}
}

// send writes an answer; a client that has left misses it.
func (v *serving) send(conn *net.UnixConn, a *answer) {
	a.Version = protocolVersion
	message, err := encode(a.bounded())
	if err != nil {
		// So many repositories that their names do not fit; the outcome does.
		message, err = encode(&answer{Version: protocolVersion, Failure: a.Failure, File: a.File, From: a.From})
	}
	if err != nil {
		v.Log.Error("an answer could not be written", "error", err)
		return
	}
	_ = conn.SetWriteDeadline(v.Clock().Add(requestTime))
	if _, err := conn.Write(message); err != nil {
		v.Log.Debug("a client did not wait for its answer", "error", err)
	}
}
