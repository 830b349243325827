package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
)

// Bounds of what is between the network and the disk. Servers send 128 KiB at
// most in a message.
const (
	queuedMessages = 64
	unsyncedBytes  = 8 << 20
)

// inflow is one stream: a goroutine takes messages off the network, another one,
// whose methods these are, writes them, makes them durable and reports. So the
// next messages come in while the disk works, and share the next fsync.
type inflow struct {
	r        *Receiver
	stream   *server.WALStream
	report   *reporter
	asked    chan struct{} // the server wants an answer, which should not wait for the disk
	id       received.Identity
	timeline postgres.Timeline
	queue    chan incoming
	tick     *time.Ticker

	// next is the position of the next byte; every message has to begin there.
	next postgres.LSN
	// durable is the position before which everything is durable, all of it in the
	// directory or further on. It is what the server is told.
	durable  postgres.LSN
	reported postgres.LSN      // what it was told last
	segment  *received.Segment // nil between two
	written  int               // bytes since the last sync
	silent   int               // reports since the last message
}

type incoming struct {
	message server.WALMessage
	err     error
}

// stream receives from a start until the timeline ends there, and says where it
// goes on; both are nil when ctx ended.
func (r *Receiver) stream(ctx context.Context, conn *server.ReplicationConn, id received.Identity, from streamStart) (*server.NextTimeline, error) {
	begin, cancel := context.WithTimeout(ctx, r.pace.answer)
	stream, next, err := conn.StreamWAL(begin, r.o.Slot, from.timeline, from.lsn)
	cancel()
	if err != nil {
		return nil, r.explainStart(err, from)
	}
	if next != nil && next.Begin != from.lsn {
		return nil, fmt.Errorf("the server ends timeline %d at %s, but it was to be sent from %s on", from.timeline, next.Begin, from.lsn)
	}
	if next != nil {
		return next, nil
	}
	r.o.Log.Info("receiving WAL", "timeline", uint32(from.timeline), "from", from.lsn.String(), "slot", r.o.Slot, "directory", r.o.Directory.Path())
	r.streamed = true
	r.state.streams(from)
	in := &inflow{r: r, stream: stream, report: &reporter{stream: stream, clock: r.o.Clock}, asked: make(chan struct{}, 1),
		id: id, timeline: from.timeline, next: from.lsn, durable: from.lsn,
		queue: make(chan incoming, queuedMessages), tick: time.NewTicker(r.pace.status)}
	defer in.tick.Stop()
	left := make(chan struct{})
	var reader, keeper sync.WaitGroup
	reader.Go(func() { in.read(left) })
	keeper.Go(func() { in.keepAlive(left) })
	err = in.run(ctx)
	if in.segment != nil {
		in.segment.Close()
	}
	close(left)
	if errors.Is(err, errTimelineEnded) {
		reader.Wait()
		keeper.Wait()
		next, err = in.end(ctx)
		return next, err
	}
	stream.Abort()
	reader.Wait()
	keeper.Wait()
	return nil, r.explainStart(err, from)
}

// explainStart turns the server's refusal to stream into what a person can act upon.
func (r *Receiver) explainStart(err error, from streamStart) error {
	switch {
	case server.SlotUnusable(err):
		return hint.Wrap(fmt.Errorf("%w: %s: %w", ErrSlotUnusable, r.o.Slot, err),
			"if the server gave its WAL up, drop the slot (SELECT pg_drop_replication_slot('%s')) and run archive-receive with --create-slot; it says then whether WAL is missing.", r.o.Slot)
	case server.WALRemoved(err):
		r.removed = &from
	}
	return err
}

// read takes messages off the network until the stream ends.
func (in *inflow) read(left <-chan struct{}) {
	for {
		m, err := in.stream.Receive()
		if err == nil {
			in.r.state.hear(m)
		}
		if m.ReplyWanted {
			in.ask()
		}
		select {
		case in.queue <- incoming{m, err}:
		case <-left:
			return
		}
		if err != nil || m.Kind == server.WALStreamEnd || m.Kind == server.WALShutdown {
			return
		}
	}
}

// errTimelineEnded ends run when the server has ended the stream.
var errTimelineEnded = errors.New("the stream has ended")

// run is the loop. It returns nil when ctx has ended and all was said.
func (in *inflow) run(ctx context.Context) error {
	if err := in.tell(false); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return in.farewell()
		case m := <-in.queue:
			in.silent = 0
			if err := in.takeAll(ctx, m); err != nil {
				return err
			}
		case <-in.tick.C:
			if in.silent++; in.silent > in.r.pace.silence {
				return fmt.Errorf("nothing was heard from the server for %s", time.Duration(in.silent)*in.r.pace.status)
			}
			if err := in.tell(in.silent > in.r.pace.silence/2); err != nil {
				return err
			}
		}
	}
}

// takeAll takes a message and those that have come behind it, up to a bound, and
// makes all of them durable by one sync.
func (in *inflow) takeAll(ctx context.Context, first incoming) error {
	replyWanted, err, failed := in.keep(ctx, first)
	if failed == nil && !errors.Is(err, received.ErrDiffers) && (replyWanted || in.durable != in.reported) {
		failed = in.tell(false)
	}
	if failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// keep is what the disk has to do for takeAll: err ends the stream, but what came
// before it is kept, and the server may as well know; failed says why it was not.
func (in *inflow) keep(ctx context.Context, first incoming) (replyWanted bool, err, failed error) {
	in.r.state.works(true)
	defer in.r.state.works(false)
	began := in.next
	err = in.take(ctx, first, &replyWanted)
	// Not in.written: it begins anew with every segment, and these may be small.
	for more := true; err == nil && more && in.next-began < unsyncedBytes; {
		select {
		case m := <-in.queue:
			err = in.take(ctx, m, &replyWanted)
		default:
			more = false
		}
	}
	if errors.Is(err, received.ErrDiffers) {
		return replyWanted, err, nil
	}
	return replyWanted, err, in.sync()
}

func (in *inflow) take(ctx context.Context, m incoming, replyWanted *bool) error {
	if m.err != nil {
		return m.err
	}
	switch m.message.Kind {
	case server.WALStreamEnd:
		return errTimelineEnded
	case server.WALShutdown:
		return errors.New("the server shuts down")
	case server.WALData:
		if m.message.Start != in.next {
			return fmt.Errorf("the server sends WAL from %s, but %s comes next", m.message.Start, in.next)
		}
		return in.write(ctx, m.message.Data)
	}
	*replyWanted = *replyWanted || m.message.ReplyWanted
	return nil
}

// write puts WAL into its segments. On a full disk it waits for room, and the
// server is told nothing new meanwhile.
func (in *inflow) write(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		n, err := in.writeSome(data)
		data, in.next, in.written = data[n:], in.next+postgres.LSN(n), in.written+n
		switch {
		case err == nil && in.r.isFull():
			in.r.state.change(func(s *ReceiveStatus) { s.DiskFull = false })
			in.r.o.Log.Info("there is room for WAL again", "directory", in.r.o.Directory.Path())
		case isFull(err):
			if err := in.waitForRoom(ctx, err); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// writeSome writes up to the end of a segment, and completes it.
func (in *inflow) writeSome(data []byte) (int, error) {
	if in.segment == nil {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: in.timeline, Segment: in.next.Segment(in.id.SegmentSize)}
		before, shared := in.r.sharedWith(f, in.id.SegmentSize)
		s, err := in.r.o.Directory.Begin(in.id, f, before, shared)
		if err != nil {
			return 0, err
		}
		in.segment = s
	}
	n, err := in.segment.Write(data)
	if err != nil || !in.segment.Full() {
		return n, err
	}
	if err := in.segment.Complete(); err != nil {
		// Not an error of the write: what could not be made durable is begun anew.
		return n, fmt.Errorf("%w: %s", errNotDurable, oneLine(err))
	}
	in.segment = nil
	in.durable, in.written = in.next+postgres.LSN(n), 0
	in.r.rouse()
	return n, nil
}

// errNotDurable says that a sync has failed: after that the file is not asked
// again, see package received.
var errNotDurable = errors.New("received WAL could not be made durable")

func isFull(err error) bool {
	return (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, errNotDurable)
}

// waitForRoom waits a moment on a full disk. The connection is kept alive meanwhile, see keepAlive.
func (in *inflow) waitForRoom(ctx context.Context, cause error) error {
	if !in.r.isFull() {
		in.r.state.change(func(s *ReceiveStatus) { s.DiskFull = true })
		in.r.state.failed(cause)
		in.r.o.Log.Error("the disk for received WAL is full: nothing more is acknowledged until there is room, and commits that wait for this receiver wait too",
			"directory", in.r.o.Directory.Path(), "durable-up-to", in.durable.String(), "error", oneLine(cause))
	}
	if err := in.sync(); err != nil {
		return err
	}
	if in.durable != in.reported {
		if err := in.tell(false); err != nil {
			return err
		}
	}
	return pause.For(ctx, in.r.pace.room)
}

func (r *Receiver) isFull() bool {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return r.state.now.DiskFull
}

// sync makes what is written durable.
func (in *inflow) sync() error {
	if in.segment == nil || in.written == 0 {
		return nil
	}
	if err := in.segment.Sync(); err != nil {
		return fmt.Errorf("%w: %s", errNotDurable, oneLine(err))
	}
	in.durable, in.written = in.segment.Durable(), 0
	return nil
}

// tell tells the server what is durable.
func (in *inflow) tell(replyWanted bool) error {
	in.reported = in.durable
	err := in.report.report(in.durable, replyWanted)
	in.r.state.flushed(in.next, in.durable)
	return err
}

// farewell ends a stream that could go on: what has come is written, the server
// told, and its answer waited for.
func (in *inflow) farewell() error {
	ctx, cancel := context.WithTimeout(context.Background(), in.r.pace.farewell)
	defer cancel()
	stopped := false
	for {
		select {
		case m := <-in.queue:
			if err := in.takeAll(ctx, m); err != nil {
				if errors.Is(err, errTimelineEnded) {
					return nil
				}
				return err
			}
		case <-ctx.Done():
			return errors.New("the server did not end the stream")
		default:
			if stopped {
				select {
				case m := <-in.queue:
					if m.err != nil || m.message.Kind == server.WALStreamEnd || m.message.Kind == server.WALShutdown {
						return nil // said is said; what comes now will be sent again
					}
				case <-ctx.Done():
					return errors.New("the server did not end the stream")
				}
				continue
			}
			stopped = true
			if err := errors.Join(in.sync(), in.tell(false), in.report.stop()); err != nil {
				return err
			}
		}
	}
}

// end asks where the WAL goes on after the server has ended the stream.
func (in *inflow) end(ctx context.Context) (*server.NextTimeline, error) {
	next, err := in.stream.Finish(ctx)
	if err != nil {
		return nil, err
	}
	if next == nil {
		return nil, errors.New("the server has ended the stream")
	}
	if next.Begin != in.next {
		return nil, fmt.Errorf("the server ends timeline %d at %s, but has sent it up to %s", in.timeline, next.Begin, in.next)
	}
	return next, nil
}
