package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
)

// ErrRemoteApply says that commits would wait for this receiver to replay WAL,
// which it never does.
var ErrRemoteApply = errors.New("synchronous_commit is remote_apply, and a receiver of WAL applies nothing")

// ErrWALGap says that the server has not got the WAL any more that comes next.
var ErrWALGap = errors.New("the WAL that comes next is not on the server any more")

// ErrSlotUnusable says that the replication slot keeps no WAL any more.
var ErrSlotUnusable = errors.New("the replication slot cannot be used")

// ReceiveOptions say what to receive, and how. All but the flags are required.
type ReceiveOptions struct {
	Stanza    string
	Directory *received.Directory
	// Slot is the physical replication slot that keeps WAL on the server while
	// nobody receives it; CreateSlot makes it where it is missing.
	Slot       string
	CreateSlot bool
	// Name is the application_name under which Connect connects.
	Name string
	// AcceptGap goes on behind WAL that the server has not got any more.
	AcceptGap bool
	// Connect opens a replication session; Inspect one for SQL, of which less is
	// needed: what it cannot tell is not known.
	Connect func(ctx context.Context) (*server.ReplicationConn, error)
	Inspect func(ctx context.Context) (*server.Conn, error)
	// Pusher puts what is complete into the repositories, Processes files at a time;
	// 0 is runtime.GOMAXPROCS.
	Pusher    *Pusher
	Processes int
	Log       *slog.Logger
	Clock     func() time.Time
}

// Receiver streams WAL from a server into a directory, durable at once, and from
// there into the repositories. The two halves do not wait for one another: WAL is
// acknowledged to the server when it is durable in the directory, however the
// repositories fare, and a file leaves the directory only when it is durable in
// every one of them.
type Receiver struct {
	o    ReceiveOptions
	pace receivePace
	// histories are those that the server gave, by timeline.
	histories map[postgres.Timeline]postgres.History
	// removed is where the server had no WAL any more when it was last asked.
	removed *streamStart
	// connected is whether there was a session already, streamed whether one came to its stream.
	connected, streamed bool
	// waited is what was said last of commits that wait.
	waited atomic.Value
	state  receiveState
	// wake tells the other half that a file is complete.
	wake chan struct{}
	// held are the repositories that hold a file of the directory, by the file's name.
	held heldBy
}

// receivePace holds the times, which tests shorten.
type receivePace struct {
	status      time.Duration // between unasked reports
	silence     int           // reports without any answer after which the connection is taken for lost
	alive       time.Duration // between reports while the disk is at work
	disk        time.Duration // after which it is said that the disk does not answer
	look        time.Duration // between looks at the server's settings
	room        time.Duration // between attempts to write on a full disk
	reconnect   time.Duration // the first pause after a lost connection; doubles
	reconnectTo time.Duration
	store       time.Duration // the same after a repository failed
	storeTo     time.Duration
	farewell    time.Duration // how long the server may take to end a stream
	answer      time.Duration // and to let a session come to its stream
}

// NewReceiver returns a Receiver.
func NewReceiver(o ReceiveOptions) (*Receiver, error) {
	if err := server.CheckSlotName(o.Slot); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Pusher.targets = keptOpen(o.Pusher.targets)
	return &Receiver{o: o, histories: map[postgres.Timeline]postgres.History{}, wake: make(chan struct{}, 1), state: receiveState{clock: o.Clock},
		pace: receivePace{status: 10 * time.Second, silence: 6, alive: time.Second, disk: diskPatience, look: 30 * time.Second, room: time.Second, reconnect: time.Second, reconnectTo: 30 * time.Second,
			store: 2 * time.Second, storeTo: time.Minute, farewell: 10 * time.Second, answer: 2 * time.Minute}}, nil
}

// Run receives until ctx ends, which is no error: what was written is then
// durable, the server has been told, and the segment under way is kept. A lost
// connection, a full disk and a repository that fails are waited for. An error is
// something that waiting does not mend.
func (r *Receiver) Run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return r.receive(inner) })
	group.Go(func() error {
		r.store(inner)
		return nil
	})
	return group.Wait()
}

// receive begins one session after the other.
func (r *Receiver) receive(ctx context.Context) error {
	wait := r.pace.reconnect
	for {
		began := r.o.Clock()
		err := r.session(ctx)
		r.state.change(func(s *ReceiveStatus) { s.Streaming = false })
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				r.o.Log.Warn("the stream of WAL did not end as it should", "error", oneLine(err))
			}
			return nil
		}
		r.state.failed(err)
		if r.hopeless(err) {
			return err
		}
		if r.o.Clock().Sub(began) > r.pace.reconnectTo {
			wait = r.pace.reconnect
		}
		r.state.change(func(s *ReceiveStatus) { s.Interruptions++ })
		r.o.Log.Warn("the stream of WAL was interrupted; it is begun again", "error", oneLine(err), "next-in", wait.String())
		if pause.For(ctx, wait) != nil {
			return nil
		}
		wait = min(2*wait, r.pace.reconnectTo)
	}
}

// hopeless tells what stays as it is when the session is tried again.
func (r *Receiver) hopeless(err error) bool {
	for _, target := range []error{ErrRefused, ErrRemoteApply, ErrWALGap, ErrSlotUnusable, server.ErrNoSlot, received.ErrDiffers, received.ErrDirectory} {
		if errors.Is(err, target) {
			return true
		}
	}
	return !r.connected && server.Refused(err)
}

// session connects, finds out where to go on, and receives until something ends it.
func (r *Receiver) session(ctx context.Context) error {
	// Commits may wait for this receiver: a server that says nothing is given up.
	begin, cancel := context.WithTimeout(ctx, r.pace.answer)
	defer cancel()
	conn, err := r.o.Connect(begin)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.pace.farewell)
		defer cancel()
		_ = conn.Close(ctx) // what matters has been said
	}()
	id, system, err := r.identify(begin, conn)
	if err != nil {
		return err
	}
	r.connected = true
	slot, err := r.preflight(begin, conn)
	if err != nil {
		return err
	}
	history, err := r.follow(begin, conn, system.Timeline)
	if err != nil {
		return err
	}
	from, err := r.start(ctx, id, system, slot, history)
	defer r.watch(ctx)()
	for err == nil {
		var next *server.NextTimeline
		if next, err = r.stream(ctx, conn, id, from); err != nil || next == nil {
			return err
		}
		from, err = r.switched(ctx, conn, id, from, *next)
	}
	return err
}

// identify asks whose WAL it is, and makes sure that it belongs into the
// directory, and a new directory's into the stanza.
func (r *Receiver) identify(ctx context.Context, conn *server.ReplicationConn) (received.Identity, server.System, error) {
	system, err := conn.IdentifySystem(ctx)
	if err != nil {
		return received.Identity{}, system, err
	}
	text, err := conn.Show(ctx, "wal_segment_size")
	if err != nil {
		return received.Identity{}, system, err
	}
	size, err := parseSegmentSize(text)
	if err != nil {
		return received.Identity{}, system, err
	}
	id := received.Identity{Stanza: r.o.Stanza, SystemID: system.SystemID, Major: conn.Major(), SegmentSize: size}
	if _, err := r.o.Directory.Identity(); err != nil {
		if err := r.checkStanza(ctx, id); err != nil {
			return id, system, err
		}
	}
	return id, system, r.o.Directory.Claim(id)
}

// checkStanza asks every repository whether its stanza is of the cluster.
func (r *Receiver) checkStanza(ctx context.Context, id received.Identity) error {
	for _, t := range r.o.Pusher.targets {
		s, err := t.Open(ctx)
		if err != nil {
			return err
		}
		if now := s.Current(); now.SystemID != id.SystemID || now.Major != id.Major || now.SegmentSize != id.SegmentSize {
			return hint.Wrap(&refused{text: fmt.Sprintf("the server has system identifier %d (PostgreSQL %d, WAL segments of %d bytes), stanza %s in repository %s holds %s",
				id.SystemID, id.Major, id.SegmentSize, s.Name(), t.Name, now)}, "check the stanza and its connection; after pg_upgrade run pgbak init --upgrade.")
		}
	}
	return nil
}

// parseSegmentSize reads what SHOW wal_segment_size answers, such as 16MB.
func parseSegmentSize(text string) (int64, error) {
	for unit, bytes := range map[string]int64{"MB": 1 << 20, "GB": 1 << 30} {
		var n int64
		digits, ok := strings.CutSuffix(text, unit)
		if _, err := fmt.Sscanf(digits, "%d", &n); !ok || err != nil || n < 1 || n > 1024 {
			continue
		}
		if size := n * bytes; postgres.ValidSegmentSize(size) {
			return size, nil
		}
	}
	return 0, fmt.Errorf("the server's wal_segment_size is %.20q", text)
}

// oneLine makes a message of it that is one line of a log.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
