package archive

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Bounds of one run. The number and the time count from when the file that was
// asked for is done: PostgreSQL waits for the run, and so does its shutdown.
const (
	aheadFiles  = 64
	aheadTime   = 5 * time.Second
	failingTime = 30 * time.Second // where the file asked for failed: PostgreSQL would pause anyway
	openTime    = 3 * time.Second  // for which files that nobody asked for wait for a repository that is not open yet
)

// Batch pushes the file that PostgreSQL asks for and, in the same run, the others
// that it has marked ready, in parallel. What it leaves in a spool lets the next
// calls return at once. It is safe for concurrent use; of two runs with one
// spool, in whatever processes, only one pushes what nobody has asked for.
//
// The law is that of Pusher.Push: no success before the content that the file
// has now is durable in every repository, be it by this run or by the word of an
// earlier one. The exception is QueueMax.
type Batch struct {
	// Processes is how many files are pushed at the same time; 0 is runtime.GOMAXPROCS.
	// Together they compress so many frames at the same time, or as many as the
	// Pusher does if those are more.
	Processes int
	// QueueMax, in bytes, is how much WAL may wait. Of what exceeds it the oldest
	// segments are given up when PostgreSQL asks for them, see Result.Dropped;
	// other files that stand before them wait in the spool instead. 0 is without
	// bound.
	QueueMax int64
	// Host is the name of this host, for events.
	Host string
	// Each, if it is not nil, is told of every file that a run has pushed, or
	// failed to, one at a time: of the file asked for as soon as it is done, which
	// may be long before Push returns.
	Each func(Pushed)

	pusher *Pusher
	spool  *Spool // nil is none
	clock  func() time.Time
	bounds bounds
}

// bounds are the constants above, but in tests.
type bounds struct {
	files                int
	ahead, failing, open time.Duration
}

// Pushed is one file of a run.
type Pushed struct {
	Result
	Err      error
	Asked    bool // PostgreSQL waits for this one
	Duration time.Duration
}

// Unasked tells that Err says of no repository that it failed. It is no answer for
// PostgreSQL, which asks for a file that was pushed ahead to some of them only.
func (p Pushed) Unasked() bool {
	return len(p.Failed) > 0 && !slices.ContainsFunc(p.Failed, func(f Failed) bool { return !f.Unasked() })
}

// NewBatch returns a Batch that pushes by p, which must not be changed any more.
// Without a spool it pushes only what it is asked for.
func NewBatch(p *Pusher, spool *Spool, clock func() time.Time) *Batch {
	return &Batch{pusher: p, spool: spool, clock: clock,
		bounds: bounds{files: aheadFiles, ahead: aheadTime, failing: failingTime, open: openTime}}
}

// Push stores the file at path as Pusher.Push does, and returns when the run is
// over: the result and the error are those of this file. What goes wrong with the
// others is for the log, and comes up again when PostgreSQL asks for them. When
// ctx ends the others are given up. Where the spool cannot be used the file is
// pushed by itself, with a warning.
func (b *Batch) Push(ctx context.Context, path string) (Result, error) {
	r := b.newRun(path)
	if b.spool != nil {
		if result, ok := r.acknowledged(); ok {
			return result, nil
		}
	}
	if b.QueueMax > 0 {
		if result, dropped := r.drop(ctx); dropped {
			return result, nil
		}
	}
	// What still runs when the file is done must not outlive this call.
	defer r.opening.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.begin(ctx)
	result, err := r.some(ctx)
	if r.spoolErr != nil {
		result.Warnings = append(result.Warnings, r.spoolErr.Error())
	}
	return result, err
}

// some pushes the file that was asked for, and the others if no other run does.
func (r *pushRun) some(ctx context.Context) (Result, error) {
	if r.spool == nil {
		return r.pushAsked(ctx)
	}
	unlock, err := r.spool.lock(spoolPush)
	if err != nil {
		if !errors.Is(err, errLocked) {
			r.spoolFailed(err)
		}
		return r.pushAsked(ctx)
	}
	defer unlock()
	return r.run(ctx)
}

// pushRun is one call of Push.
type pushRun struct {
	*Batch
	wal     string // directory
	asked   string // name
	control *postgres.Control
	// certain tells that control is what the server's directory says, be it nil.
	certain bool
	targets []*runTarget
	buffers *walBuffers

	mu       sync.Mutex
	queue    []readyFile         // not yet begun
	done     chan struct{}       // closed when answered
	begun    map[string]bool     // in this run
	missing  map[string][]string // by file: places that do not hold it, by word of the spool
	later    map[string][]string // by file that is on its way: places whose turn it is not, which get it when it comes again
	came     chan struct{}       // closed, and made anew, when one of later has come
	ahead    int                 // files begun since the file asked for is done
	answered bool                // the file asked for is done
	unsettle error               // the file asked for failed with this
	stop     context.Context     // ends when no file is begun any more; valid once answered
	cleaned  bool
	spoolErr error // the first

	telling sync.Mutex
	total   runTotal
	warned  []string // repositories

	opening  sync.WaitGroup
	patience context.Context // ends when files that nobody asked for stop to wait for a repository to open
}

// runTotal is what a run has stored.
type runTotal struct {
	files         int
	bytes, stored int64
}

func (b *Batch) newRun(path string) *pushRun {
	r := &pushRun{Batch: b, wal: filepath.Dir(path), asked: filepath.Base(path), certain: true,
		done: make(chan struct{}), begun: map[string]bool{}, missing: map[string][]string{},
		later: map[string][]string{}, came: make(chan struct{})}
	for _, t := range b.pusher.targets {
		r.targets = append(r.targets, newRunTarget(t))
	}
	frames := max(cmp.Or(b.pusher.Processes, runtime.GOMAXPROCS(0)), r.processes())
	r.buffers = &walBuffers{compressors: repo.NewWALCompressors(frames), unsummed: b.spool == nil}
	if b.pusher.Control != nil {
		var err error
		r.control, err = b.pusher.Control()
		r.certain = err == nil
	}
	return r
}

func (r *pushRun) path(name string) string { return filepath.Join(r.wal, name) }

func (r *pushRun) places() []string {
	var places []string
	for _, t := range r.targets {
		places = append(places, t.key)
	}
	return places
}

// holders gives who holds a file by word of the spool, as far as that counts.
func (r *pushRun) holders(a acknowledgement) []holder {
	if !r.certain {
		return nil
	}
	known := map[string]holder{}
	for _, t := range r.targets {
		if h, ok := t.holder(); ok {
			known[t.key] = h
		}
	}
	return a.counting(r.places(), known, r.control, r.clock())
}

// acknowledged tells whether the content that the file has now is in every
// repository by word of the spool. It opens none.
func (r *pushRun) acknowledged() (Result, bool) {
	a, err := r.spool.readAcknowledgement(r.asked)
	if err != nil || len(r.holders(a)) < len(r.targets) {
		return Result{}, false
	}
	if !a.isOf(r.path(r.asked)) {
		return Result{}, false
	}
	result := Result{File: r.asked, Acknowledged: true}
	for _, t := range r.targets {
		result.Stored = append(result.Stored, Stored{Repository: t.Name, Outcome: repo.WALAlreadyThere, RawSize: a.Size})
	}
	return result, true
}

func (r *pushRun) processes() int {
	if r.Processes > 0 {
		return r.Processes
	}
	return runtime.GOMAXPROCS(0)
}
