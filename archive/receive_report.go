package archive

import (
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
)

// A server that hears nothing for wal_sender_timeout gives the connection up. While
// the disk is at work nobody has anything new to say, and a disk may hang in a sync
// for minutes, as network storage does when it moves. The connection would be lost
// then, and WAL come again that has come, each time. So somebody else repeats what
// was said.

// reporter is who tells the server up to where WAL is durable. It says only what it
// was given by who has seen the sync succeed, or the same again.
type reporter struct {
	stream *server.WALStream
	clock  func() time.Time

	mu     sync.Mutex // held while something is said
	said   postgres.LSN
	begun  bool // something was said
	broken error
}

// report says that everything before durable is durable.
func (r *reporter) report(durable postgres.LSN, replyWanted bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.begun = durable, true
	return r.say(replyWanted)
}

// say needs the lock. A message that was written in part must not be followed by another.
func (r *reporter) say(replyWanted bool) error {
	if r.broken == nil {
		r.broken = r.stream.Report(r.said, r.clock(), replyWanted)
	}
	return r.broken
}

// repeat says again what was said last, unless something is being said just now. It
// tells whether there is anything left to say.
func (r *reporter) repeat() bool {
	if !r.mu.TryLock() {
		return true
	}
	defer r.mu.Unlock()
	return !r.begun || r.say(false) == nil
}

// stop ends this side's half of the stream.
func (r *reporter) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.broken = r.stream.Stop()
	}
	return r.broken
}

// keepAlive repeats what was said while the disk is at work, until left is closed:
// every moment, and when the server asks.
func (in *inflow) keepAlive(left <-chan struct{}) {
	tick := time.NewTicker(in.r.pace.alive)
	defer tick.Stop()
	silent := false
	for {
		asked := false
		select {
		case <-left:
			return
		case <-in.asked:
			asked = true
		case <-tick.C:
		}
		busy := in.r.state.busyFor()
		if silent && busy == 0 {
			silent = false
			in.r.o.Log.Info("the disk for received WAL answers again", "directory", in.r.o.Directory.Path())
		}
		if busy == 0 || busy < in.r.pace.alive && !asked {
			continue
		}
		if busy > in.r.pace.disk && !silent && !in.r.isFull() {
			silent = true
			in.r.o.Log.Error("the disk for received WAL does not answer: nothing more is acknowledged until it does, and commits that wait for this receiver wait too",
				"directory", in.r.o.Directory.Path(), "seconds", busy.Seconds())
		}
		if !in.report.repeat() {
			return
		}
	}
}

// ask lets an answer be given at once that the server wants while the disk is at work.
func (in *inflow) ask() {
	select {
	case in.asked <- struct{}{}:
	default:
	}
}
