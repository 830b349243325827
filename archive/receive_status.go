package archive

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// ReceiveStatus is how a Receiver fares at a moment. It has no text that came from a
// server or a repository, so that it can be shown to everybody.
type ReceiveStatus struct {
	// Streaming is whether the server sends WAL now.
	Streaming bool
	Timeline  postgres.Timeline // of the last stream; 0 before the first
	// Server is up to where the server has WAL, by its last word. Received is behind
	// the last byte that was written, Flushed what the server was told to be durable, Stored
	// behind what is in every repository without a hole; each is 0 if not known.
	Server, Received, Flushed, Stored postgres.LSN
	// Lag is how old the oldest WAL is that is known to be on the server and is not
	// durable here. While there is no stream it grows from the server's last word on.
	Lag time.Duration
	// Waiting are complete segments and histories that are not in every repository, with their bytes.
	Waiting      int
	WaitingBytes int64
	// ReceivedBytes counts what came, and again what came again.
	ReceivedBytes int64
	// Interruptions counts the streams that were to go on, and did not.
	Interruptions int
	// Errors counts them by kind; LastError is the last one's.
	Errors      map[string]int
	LastError   string
	LastErrorAt time.Time
	// DiskFull is whether nothing more is acknowledged for want of room, and DiskBusy for
	// how long the disk has been at work on what it was given last.
	DiskFull bool
	DiskBusy time.Duration
	// RemoteApply is whether commits wait for this receiver to replay WAL, see ErrRemoteApply.
	RemoteApply bool
	// Repositories counts what was stored, by the repository's name.
	Repositories map[string]ReceiveStored
}

// ReceiveStored counts files that a repository got, with their bytes there and before.
type ReceiveStored struct {
	Files, Bytes, StoredBytes int64
}

// diskPatience is after which time a disk is said not to answer.
const diskPatience = 40 * time.Second

// Problem says in a few words why commits that wait for the receiver would wait in
// vain, nil if they would not. Repositories do not matter to that.
func (s ReceiveStatus) Problem() error {
	switch {
	case s.RemoteApply:
		return ErrRemoteApply
	case s.DiskFull:
		return errors.New("the disk for received WAL is full")
	case s.DiskBusy > diskPatience:
		return errors.New("the disk for received WAL does not answer")
	case !s.Streaming && s.LastError != "":
		return errors.New("no WAL is received; the last error was of kind " + s.LastError)
	case !s.Streaming:
		return errors.New("no WAL is received yet")
	}
	return nil
}

// receiveState is a ReceiveStatus that is kept, safe for concurrent use.
type receiveState struct {
	clock func() time.Time

	mu    sync.Mutex
	now   ReceiveStatus
	heard time.Time // the server's last word
	busy  time.Time // since when the disk is at work; zero if it is not
	marks []lagMark // in ascending order
}

// lagMark says when the server was first known to have WAL that ends at end.
type lagMark struct {
	end postgres.LSN
	at  time.Time
}

const (
	lagStep  = time.Second // words of the server within it share a mark, the older one's
	lagMarks = 1000
)

// change alters the state.
func (s *receiveState) change(alter func(*ReceiveStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	alter(&s.now)
}

// hear notes a message of the server.
func (s *receiveState) hear(m server.WALMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = s.clock()
	s.now.ReceivedBytes += int64(len(m.Data))
	if m.End <= s.now.Server {
		return
	}
	s.now.Server = m.End
	if n := len(s.marks); n > 0 && (s.heard.Sub(s.marks[n-1].at) < lagStep || n >= lagMarks) {
		s.marks[n-1].end = m.End
	} else {
		s.marks = append(s.marks, lagMark{m.End, s.heard})
	}
}

// flushed notes what the server was told.
func (s *receiveState) flushed(received, durable postgres.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Received, s.now.Flushed = received, durable
	s.marks = slices.DeleteFunc(s.marks, func(m lagMark) bool { return m.end <= durable })
}

// streams notes that a stream has begun. A server that was put back has less than the
// one before.
func (s *receiveState) streams(from streamStart) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Streaming, s.now.DiskFull, s.now.Timeline = true, false, from.timeline
	s.now.Server, s.marks, s.heard = from.lsn, nil, s.clock()
}

// works notes that the disk gets something to do, or has done it.
func (s *receiveState) works(busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = time.Time{}
	if busy {
		s.busy = s.clock()
	}
}

// busyFor is for how long the disk has been at work.
func (s *receiveState) busyFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy.IsZero() {
		return 0
	}
	return s.clock().Sub(s.busy)
}

// failed counts an error.
func (s *receiveState) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Errors == nil {
		s.now.Errors = map[string]int{}
	}
	s.now.LastError, s.now.LastErrorAt = receiveErrorKind(err), s.clock()
	s.now.Errors[s.now.LastError]++
}

// stored counts what a repository got.
func (s *receiveState) stored(p Stored) {
	if p.Outcome != repo.WALStored {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Repositories == nil {
		s.now.Repositories = map[string]ReceiveStored{}
	}
	sum := s.now.Repositories[p.Repository]
	s.now.Repositories[p.Repository] = ReceiveStored{sum.Files + 1, sum.Bytes + p.RawSize, sum.StoredBytes + p.StoredSize}
}

// receiveErrorKind is a word for an error that tells nothing of its text.
func receiveErrorKind(err error) string {
	for _, kind := range []struct {
		of   error
		word string
	}{{ErrRemoteApply, "remote-apply"}, {ErrWALGap, "gap"}, {ErrSlotUnusable, "slot"}, {server.ErrNoSlot, "slot"}, {received.ErrDiffers, "differs"},
		{received.ErrDirectory, "directory"}, {errNotDurable, "disk"}, {errOfRepository, "repository"}, {repo.ErrWALConflict, "conflict"}, {ErrRefused, "refused"}} {
		if errors.Is(err, kind.of) {
			return kind.word
		}
	}
	switch {
	case isFull(err):
		return "disk"
	case server.Refused(err):
		return "login"
	}
	return "connection"
}

// Status tells how it fares. It lists the directory, and asks nobody else.
func (r *Receiver) Status() ReceiveStatus {
	r.state.mu.Lock()
	s := r.state.snapshot()
	r.state.mu.Unlock()
	r.addWaiting(&s)
	return s
}

// snapshot needs the lock.
func (s *receiveState) snapshot() ReceiveStatus {
	now, at := s.now, s.clock()
	now.Errors, now.Repositories = maps.Clone(now.Errors), maps.Clone(now.Repositories)
	if len(s.marks) > 0 {
		now.Lag = at.Sub(s.marks[0].at)
	}
	if !now.Streaming && !s.heard.IsZero() {
		now.Lag = max(now.Lag, at.Sub(s.heard))
	}
	if !s.busy.IsZero() {
		now.DiskBusy = at.Sub(s.busy)
	}
	return now
}
