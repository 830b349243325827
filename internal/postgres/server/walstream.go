package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgbak/pgbak/internal/postgres"
)

// WALStream is WAL that a server sends as it flushes it. One goroutine calls
// Receive, another one may call Report and Stop meanwhile.
type WALStream struct {
	c *ReplicationConn
	// stopped is set when this side has ended its half of the copy; it belongs to
	// the goroutine that calls Report.
	stopped bool
	// heard is set by Receive once the server has sent anything: then it has the WAL
	// that was asked for.
	heard atomic.Bool
}

// NextTimeline is where a server says that the WAL goes on after the end of a timeline.
type NextTimeline struct {
	Timeline postgres.Timeline
	// Begin is the switch point: the first position that is not the old timeline's.
	Begin postgres.LSN
}

const (
	startingStream = "start the stream of WAL"
	receivingWAL   = "receive WAL"
	endingStream   = "end the stream of WAL"
	// reportPatience bounds how long a status may take to leave: it is some bytes,
	// and only a connection on which nothing moves makes it wait.
	reportPatience = 30 * time.Second
)

// StreamWAL asks for the WAL of a timeline from start on, through a slot. If the
// timeline ends there the stream is nil, and next says where to go on. After an
// error that is the server's answer the session can be used again.
func (c *ReplicationConn) StreamWAL(ctx context.Context, slot string, tli postgres.Timeline, start postgres.LSN) (s *WALStream, next *NextTimeline, err error) {
	if err := CheckSlotName(slot); err != nil {
		return nil, nil, err
	}
	c.conn.Frontend().SetMaxBodyLen(maxWALMessage)
	c.conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %d", slot, start, tli)})
	if err := c.conn.Frontend().Flush(); err != nil {
		return nil, nil, replicationError(startingStream, err)
	}
	m, err := c.receive(ctx, startingStream)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return nil, nil, errors.Join(replicationError(startingStream, answer), c.ready(ctx))
	}
	if err != nil {
		return nil, nil, err
	}
	switch m.(type) {
	case *pgproto3.CopyBothResponse:
		return &WALStream{c: c}, nil, nil
	case *pgproto3.RowDescription:
		next, err := c.nextTimeline(ctx)
		if err == nil && next == nil {
			err = fmt.Errorf("%s: timeline %d has ended, and the server does not say where the WAL goes on", startingStream, tli)
		}
		return nil, next, err
	}
	return nil, nil, fmt.Errorf("%s: the server sent %T where a copy was to begin", startingStream, m)
}

// Receive waits for the next message. It has no time limit: who loses patience
// calls Abort from another goroutine. After WALStreamEnd, WALShutdown or an error
// it must not be called again.
func (s *WALStream) Receive() (WALMessage, error) {
	for {
		m, err := s.c.conn.ReceiveMessage(context.Background())
		if err != nil {
			return WALMessage{}, replicationError(receivingWAL, err)
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			wal, err := parseWALMessage(m.Data)
			if !s.heard.Swap(true) {
				wal.ReplyWanted = true // nothing could be reported until now
			}
			return wal, err
		case *pgproto3.CopyDone:
			return WALMessage{Kind: WALStreamEnd}, nil
		case *pgproto3.CommandComplete:
			return WALMessage{Kind: WALShutdown}, nil
		case *pgproto3.ErrorResponse:
			return WALMessage{}, replicationError(receivingWAL, pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return WALMessage{}, fmt.Errorf("%s: the server sent %T in the middle of a copy", receivingWAL, m)
		}
	}
}

// Report tells the server up to where WAL is durable, and asks for a sign of life
// if replyWanted. Nothing is said after Stop. Until the server has sent something it
// is only asked for that: it moves the slot to any position that it is told, back as
// well, before it finds out that it has not got the WAL from there on, and then the
// slot is lost.
func (s *WALStream) Report(flushed postgres.LSN, now time.Time, replyWanted bool) error {
	if s.stopped {
		return nil
	}
	if !s.heard.Load() {
		flushed, replyWanted = 0, true
	}
	return s.send(&pgproto3.CopyData{Data: statusMessage(flushed, now, replyWanted)})
}

// Stop ends this side's half of the copy. The server answers with WALStreamEnd,
// after what it had sent already.
func (s *WALStream) Stop() error {
	if s.stopped {
		return nil
	}
	s.stopped = true
	return s.send(&pgproto3.CopyDone{})
}

// send writes a message without the frontend's buffer, which belongs to the
// goroutine that receives.
func (s *WALStream) send(m pgproto3.FrontendMessage) error {
	raw, err := m.Encode(nil)
	if err != nil {
		return fmt.Errorf("report to the server: %w", err)
	}
	conn := s.c.conn.Conn()
	if err := conn.SetWriteDeadline(time.Now().Add(reportPatience)); err != nil {
		return replicationError("report to the server", err)
	}
	if _, err := conn.Write(raw); err != nil {
		return replicationError("report to the server", err)
	}
	return nil
}

// Abort breaks the connection, so that Receive returns.
func (s *WALStream) Abort() { _ = s.c.conn.Conn().Close() }

// Finish is to be called after WALStreamEnd, by the one goroutine that is left. It
// says where the WAL goes on if the timeline has ended, and nil if it has not. The
// session can then be used for another command.
func (s *WALStream) Finish(ctx context.Context) (*NextTimeline, error) {
	if err := s.Stop(); err != nil {
		return nil, err
	}
	return s.c.nextTimeline(ctx)
}

// nextTimeline reads the result after a stream, up to the readiness for another command.
func (c *ReplicationConn) nextTimeline(ctx context.Context) (*NextTimeline, error) {
	if err := c.conn.Conn().SetWriteDeadline(time.Time{}); err != nil {
		return nil, replicationError(endingStream, err)
	}
	var next *NextTimeline
	for {
		m, err := c.receive(ctx, endingStream)
		if err != nil {
			return nil, answered(endingStream, err)
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if next, err = parseNextTimeline(m.Values); err != nil {
				return nil, err
			}
		case *pgproto3.ReadyForQuery:
			return next, nil
		case *pgproto3.CopyData, *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.RowDescription:
		default:
			return nil, fmt.Errorf("%s: the server sent %T", endingStream, m)
		}
	}
}

func parseNextTimeline(cells [][]byte) (*NextTimeline, error) {
	if len(cells) != 2 {
		return nil, fmt.Errorf("%s: a row of %d columns", endingStream, len(cells))
	}
	tli, err := strconv.ParseUint(string(cells[0]), 10, 32)
	if err != nil || tli == 0 {
		return nil, fmt.Errorf("%s: %.20q is not a timeline", endingStream, cells[0])
	}
	begin, err := postgres.ParseLSN(string(cells[1]))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endingStream, err)
	}
	return &NextTimeline{Timeline: postgres.Timeline(tli), Begin: begin}, nil
}
