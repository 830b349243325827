package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// recoveryOf is a recovery with a queue: a data directory, a spool, a store with
// segments, and what was asked of it.
type recoveryOf struct {
	id      repo.Identity
	spool   *Spool
	queue   *PrefetchQueue
	dir     string // the data directory
	store   *faulty.Store
	stanza  *repo.Stanza
	filled  int // how often the queue was to be filled
	trouble []error
	mu      sync.Mutex
	now     time.Time
}

const queueLength = 4 // segments in the queue

func newRecovery(t *testing.T, segments ...postgres.WALFile) *recoveryOf {
	t.Helper()
	return recoveryFrom(t, archiveOf(t, segments...))
}

// archiveOf is a store in which these segments are archived.
func archiveOf(t *testing.T, segments ...postgres.WALFile) *mem.Store {
	t.Helper()
	base := mem.New()
	s := newStanza(t, base, testIdentity(17))
	for _, f := range segments {
		if _, err := pushContent(t, s, f.Name(segmentSize), segment(s.Current(), f)); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func recoveryFrom(t *testing.T, base *mem.Store) *recoveryOf {
	t.Helper()
	r := &recoveryOf{id: testIdentity(17), dir: t.TempDir(), now: time.Now()}
	r.store = faulty.OnOp(base, func(string, string) error { return nil })
	var err error
	if r.stanza, err = openStanza(t, r.store); err != nil {
		t.Fatal(err)
	}
	r.spool = openSpool(t, t.TempDir())
	r.queue = r.newQueue(t, r.dir)
	return r
}

func openSpool(t *testing.T, dir string) *Spool {
	t.Helper()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSpool(dir, "main")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *recoveryOf) newQueue(t *testing.T, dir string) *PrefetchQueue {
	t.Helper()
	of := Recovery{Directory: dir, SystemID: r.id.SystemID, Major: r.id.Major, SegmentSize: segmentSize, Sources: "local"}
	q, err := NewPrefetchQueue(r.spool, of, queueLength*segmentSize, r.clock)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func (r *recoveryOf) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *recoveryOf) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *recoveryOf) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = append(r.trouble, err)
}

func (r *recoveryOf) source() Source { return takeFrom("local", r.stanza, r.stanza.Current()) }

func (r *recoveryOf) getter(t *testing.T) *PrefetchGetter {
	t.Helper()
	g, err := NewGetter(r.source())
	if err != nil {
		t.Fatal(err)
	}
	return NewPrefetchGetter(g, r.queue, func() error { r.filled++; return nil })
}

// get asks as recovery does, and returns the content.
func (r *recoveryOf) get(t *testing.T, f postgres.WALFile) (Got, []byte, error) {
	t.Helper()
	dest := filepath.Join(r.dir, recoveryFile)
	_ = os.Remove(dest)
	got, err := r.getter(t).Get(t.Context(), f.Name(segmentSize), dest)
	if err != nil {
		if _, statErr := os.Stat(dest); statErr == nil {
			t.Errorf("%s: the destination is there after %v", f.Name(segmentSize), err)
		}
		return got, nil, err
	}
	content, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	return got, content, nil
}

// mustGet gets a segment, and says whether it had been fetched ahead.
func (r *recoveryOf) mustGet(t *testing.T, f postgres.WALFile) (ahead bool, warnings []string) {
	t.Helper()
	got, content, err := r.get(t, f)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content, segment(r.id, f)) {
		t.Fatalf("%s came with other content", f.Name(segmentSize))
	}
	return got.Repository == "", got.Warnings
}

// prefetch runs a Prefetcher; end ends it and gives its error.
func (r *recoveryOf) prefetch(t *testing.T, sources ...Source) (end func() error) {
	t.Helper()
	if len(sources) == 0 {
		sources = []Source{r.source()}
	}
	p, err := NewPrefetcher(r.queue, 2, r.note, sources...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-ended
	}
}

// holds waits until the queue holds these segments and nothing else but the one
// that recovery asked for: that may have been on its way when it was fetched directly, and
// goes with the next question.
func (r *recoveryOf) holds(t *testing.T, want ...postgres.WALFile) {
	t.Helper()
	var names []string
	for _, f := range want {
		names = append(names, f.Name(segmentSize))
	}
	slices.Sort(names)
	eventually(t, func() error {
		var got []string
		files, err := r.queue.files()
		if err != nil {
			return err
		}
		asked, _ := r.queue.asked()
		for _, f := range files {
			if f.segment != asked || slices.Contains(want, asked) {
				got = append(got, f.segment.Name(segmentSize))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, names) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return fmt.Errorf("the queue holds %q, want %q; recovery asked for %v; trouble %v", got, names, asked, r.trouble)
		}
		return nil
	})
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func run(tli postgres.Timeline, from, to uint64) []postgres.WALFile {
	var out []postgres.WALFile
	for n := from; n <= to; n++ {
		out = append(out, postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n})
	}
	return out
}

// gets counts how often an object of a segment was asked for.
func (r *recoveryOf) gets(f postgres.WALFile) int {
	n := 0
	for _, op := range r.store.Trace() {
		if strings.HasPrefix(op, "get wal/") && strings.HasSuffix(op, "/"+f.Name(segmentSize)) {
			n++
		}
	}
	return n
}

func TestRecoveryIsServedAheadAndEachSegmentIsFetchedOnce(t *testing.T) {
	all := run(1, 1, 12)
	r := newRecovery(t, all...)
	if ahead, _ := r.mustGet(t, all[0]); ahead || r.filled != 1 {
		t.Fatalf("the first came ahead: %v; the queue was to be filled %d times", ahead, r.filled)
	}
	end := r.prefetch(t)
	for i, f := range all[1:] {
		r.holds(t, all[i+1:min(i+1+queueLength, len(all))]...)
		if ahead, warnings := r.mustGet(t, f); !ahead || len(warnings) > 0 {
			t.Errorf("%s: ahead %v, warnings %q", f.Name(segmentSize), ahead, warnings)
		}
	}
	if r.filled != 1 {
		t.Errorf("it was to be filled %d times though somebody does", r.filled)
	}
	if _, _, err := r.get(t, walFileOf(13)); !errors.Is(err, ErrAbsent) {
		t.Errorf("behind the last: %v", err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	for _, f := range all {
		if n := r.gets(f); n != 1 {
			t.Errorf("%s was fetched %d times", f.Name(segmentSize), n)
		}
	}
	if len(r.trouble) > 0 {
		t.Error(r.trouble)
	}
}

func TestASegmentThatIsArchivedLaterIsNotTakenForAbsent(t *testing.T) {
	r := newRecovery(t, run(1, 1, 2)...)
	r.mustGet(t, walFileOf(1))
	defer r.prefetch(t)()
	r.holds(t, walFileOf(2))
	eventually(t, func() error { // the prefetcher has asked in vain
		if r.gets(walFileOf(3)) == 0 {
			return errors.New("nobody looked for 3")
		}
		return nil
	})
	if _, err := pushContent(t, r.stanza, walFileOf(3).Name(segmentSize), segment(r.id, walFileOf(3))); err != nil {
		t.Fatal(err)
	}
	r.mustGet(t, walFileOf(3))
}

func TestOnlyRecoveryIsServedAhead(t *testing.T) {
	r := newRecovery(t, run(1, 1, 4)...)
	r.mustGet(t, walFileOf(1))
	end := r.prefetch(t)
	r.holds(t, run(1, 2, 4)...)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	r.filled = 0
	name := walFileOf(2).Name(segmentSize)
	for _, dest := range []string{filepath.Join(r.dir, name), filepath.Join(r.dir, "RECOVERYXLOG.x"), filepath.Join(r.dir, "RECOVERYHISTORY")} {
		got, err := r.getter(t).Get(t.Context(), name, dest)
		if err != nil || got.Repository != "local" || r.filled != 0 {
			t.Errorf("to %s: %+v, %v; to be filled %d times", dest, got, err, r.filled)
		}
	}
	if asked, _ := r.queue.asked(); asked != walFileOf(1) {
		t.Errorf("the prefetcher was told of %v", asked)
	}
	r.holds(t, run(1, 2, 4)...)
}

func TestRecoveryFromAnEarlierOrALaterPointGetsItsOwnSegments(t *testing.T) {
	r := newRecovery(t, run(1, 1, 30)...)
	defer r.prefetch(t)()
	for _, start := range []uint64{10, 3, 20, 19} {
		for n := start; n < start+3; n++ {
			r.mustGet(t, walFileOf(n))
		}
		r.holds(t, run(1, start+3, start+2+queueLength)...)
	}
}

func TestAQueueOfAnotherPlaceOrTimelineIsFilledAnew(t *testing.T) {
	all := run(1, 1, 30)
	r := newRecovery(t, append(all, run(2, 20, 25)...)...)
	end := r.prefetch(t)
	r.mustGet(t, all[0])
	r.holds(t, all[1:5]...)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		title string
		ask   postgres.WALFile
		want  int
	}{
		{"it is full", all[0], 0},
		{"recovery is elsewhere", all[20], 1},
		{"half of it is ahead", all[2], 0},
		{"recovery is on another timeline", run(2, 20, 20)[0], 1},
	} {
		if r.filled = 0; c.want == 0 {
			r.mustGet(t, c.ask)
		} else if ahead, _ := r.mustGet(t, c.ask); ahead {
			t.Errorf("%s: it was fetched ahead", c.title)
		}
		if r.filled != c.want {
			t.Errorf("%s: to be filled %d times, want %d", c.title, r.filled, c.want)
		}
	}
}

func TestThePrefetcherEndsWhenRecoveryAsksForNothingOrHasEnded(t *testing.T) {
	for _, signal := range []string{"", "recovery.signal", "standby.signal"} {
		r := newRecovery(t, run(1, 1, 9)...)
		if signal != "" {
			if err := os.WriteFile(filepath.Join(r.dir, signal), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r.mustGet(t, walFileOf(1))
		p, err := NewPrefetcher(r.queue, 2, r.note, r.source())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Run(t.Context()) }()
		r.holds(t, run(1, 2, 1+queueLength)...)
		if !r.queue.isServed() {
			t.Error("nobody has the lock")
		}
		left := run(1, 2, 1+queueLength)
		if signal == "" {
			r.pass(prefetchIdle + time.Second)
		} else {
			if err := os.Remove(filepath.Join(r.dir, signal)); err != nil {
				t.Fatal(err)
			}
			r.pass(busyFor + time.Second)
			left = nil
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.holds(t, left...)
		if r.queue.isServed() {
			t.Error("the lock is still held")
		}
	}
}

func TestOfTwoPrefetchersOneWorks(t *testing.T) {
	r := newRecovery(t, run(1, 1, 9)...)
	r.mustGet(t, walFileOf(1))
	defer r.prefetch(t)()
	r.holds(t, run(1, 2, 1+queueLength)...)
	p, err := NewPrefetcher(r.queue, 2, r.note, r.source())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTwoClustersWithOneSpoolDoNotDisturbEachOther(t *testing.T) {
	r := newRecovery(t, run(1, 1, 9)...)
	other := &recoveryOf{id: r.id, spool: r.spool, dir: t.TempDir(), store: r.store, stanza: r.stanza, now: r.now}
	other.queue = other.newQueue(t, other.dir)
	for _, c := range []*recoveryOf{r, other} {
		c.mustGet(t, walFileOf(1))
		defer c.prefetch(t)()
	}
	for n := uint64(2); n < 6; n++ {
		r.holds(t, run(1, n, min(9, n-1+queueLength))...)
		if ahead, _ := r.mustGet(t, walFileOf(n)); !ahead {
			t.Errorf("segment %d was not ahead", n)
		}
	}
	other.holds(t, run(1, 2, 1+queueLength)...)
}

func TestQueuesThatNobodyUsesAnyMoreAreRemoved(t *testing.T) {
	r := newRecovery(t, run(1, 1, 9)...)
	old := r.newQueue(t, t.TempDir())
	young := r.newQueue(t, t.TempDir())
	for _, q := range []*PrefetchQueue{old, young} {
		if err := q.note(walFileOf(1)); err != nil {
			t.Fatal(err)
		}
	}
	past := r.now.Add(-maxPrefetchAge - time.Minute)
	if err := os.Chtimes(filepath.Join(old.dir, askedName), past, past); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(r.queue.dir, walFileOf(3).Name(segmentSize)+fetchingSuffix)
	if err := os.WriteFile(torn, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.mustGet(t, walFileOf(1))
	defer r.prefetch(t)()
	r.holds(t, run(1, 2, 1+queueLength)...)
	if _, err := os.Stat(old.dir); !os.IsNotExist(err) {
		t.Errorf("the old queue: %v", err)
	}
	if _, err := os.Stat(young.dir); err != nil {
		t.Errorf("the young queue: %v", err)
	}
	if _, err := os.Stat(torn); !os.IsNotExist(err) {
		t.Errorf("what a killed prefetcher left: %v", err)
	}
}

// TestWhatIsBeingFetchedIsWaitedFor holds the prefetcher in the middle of a segment.
func TestWhatIsBeingFetchedIsWaitedFor(t *testing.T) {
	r := newRecovery(t, run(1, 1, 2)...)
	r.mustGet(t, walFileOf(1))
	reading, goOn := make(chan struct{}), make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() {
		select {
		case <-goOn:
		default:
			close(goOn)
		}
	}))
	slow := takeFrom("local", nil)
	slow.Open = func(context.Context) (*repo.Stanza, []repo.Identity, error) {
		once := sync.OnceFunc(func() { close(reading); <-goOn })
		s, err := openStanza(t, faulty.OnOp(r.store.Inner(), func(op, key string) error {
			if op == faulty.OpRead && strings.HasSuffix(key, walFileOf(2).Name(segmentSize)) {
				once()
			}
			return nil
		}))
		return s, s.Identities(), err
	}
	defer r.prefetch(t, slow)()
	<-reading
	if !r.queue.isFetched(walFileOf(2)) {
		t.Error("nobody could know that it is being fetched")
	}
	type answer struct {
		ahead bool
	}
	done := make(chan answer, 1)
	go func() {
		ahead, _ := r.mustGet(t, walFileOf(2))
		done <- answer{ahead}
	}()
	select {
	case a := <-done:
		t.Errorf("it was not waited for: %+v", a)
	case <-time.After(200 * time.Millisecond): // a machine that is slower proves less, and fails nothing
	}
	close(goOn)
	if a := <-done; !a.ahead || r.gets(walFileOf(2)) != 0 {
		t.Error("it was fetched twice")
	}
}

func TestWhatAKilledPrefetcherWasFetchingIsFetchedAtOnce(t *testing.T) {
	r := newRecovery(t, run(1, 1, 2)...)
	if err := os.WriteFile(r.queue.fetchingPath(walFileOf(2)), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ahead, _ := r.mustGet(t, walFileOf(2)); ahead {
		t.Error("a torn file was served")
	}
}

func TestServedFromAnotherFileSystem(t *testing.T) {
	r := newRecovery(t, run(1, 1, 3)...)
	r.mustGet(t, walFileOf(1))
	defer r.prefetch(t)()
	r.holds(t, run(1, 2, 3)...)
	dir := smallFileSystem(t, segmentSize*2)
	dest := filepath.Join(dir, recoveryFile)
	if err := os.Rename(filepath.Join(r.queue.dir, askedName), filepath.Join(dir, "x")); err == nil {
		t.Fatal("it is the same file system")
	}
	got, err := r.getter(t).Get(t.Context(), walFileOf(2).Name(segmentSize), dest)
	if err != nil || got.Repository != "" || len(got.Warnings) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if content, err := os.ReadFile(dest); err != nil || !bytes.Equal(content, segment(r.id, walFileOf(2))) {
		t.Errorf("other content, %v", err)
	}
	r.holds(t, walFileOf(3))
	// No room for a second one: the error is that of the destination, and nothing is torn.
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, segmentSize/2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.getter(t).Get(t.Context(), walFileOf(3).Name(segmentSize), filepath.Join(dir, "y", recoveryFile)); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestGetInto(t *testing.T) {
	r := newRecovery(t, run(1, 1, 3)...)
	for i, f := range run(1, 1, 3) {
		file, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(make([]byte, 2*segmentSize)); err != nil { // longer than what comes
			t.Fatal(err)
		}
		got, err := r.getter(t).GetInto(t.Context(), f.Name(segmentSize), "pg_wal/RECOVERYXLOG", file)
		if err != nil || (got.Repository == "") != (i > 0) {
			t.Fatalf("%+v, %v", got, err)
		}
		if content, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(content, segment(r.id, f)) {
			t.Errorf("%s: other content, %v", f.Name(segmentSize), err)
		}
		if i == 0 {
			defer r.prefetch(t)()
		}
		r.holds(t, run(1, f.Segment+1, 3)...)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := r.getter(t).GetInto(t.Context(), walFileOf(4).Name(segmentSize), "pg_wal/RECOVERYXLOG", file); !errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
}

// TestGetIntoNeverKeepsWhatWasNotProved: what is spoiled shows only when it was copied.
func TestGetIntoNeverKeepsWhatWasNotProved(t *testing.T) {
	for _, at := range []int64{25, segmentSize / 2, segmentSize - 1} {
		r := filled(t)
		flipByte(t, r.queued(t, walFileOf(2)).path, at)
		file, err := os.Create(filepath.Join(t.TempDir(), "x"))
		must(t, err)
		defer file.Close()
		got, err := r.getter(t).GetInto(t.Context(), walFileOf(2).Name(segmentSize), "pg_wal/RECOVERYXLOG", file)
		if err != nil || got.Repository != "local" || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "segment in the queue") {
			t.Errorf("byte %d: %+v, %v", at, got, err)
		}
		if content, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(content, segment(r.id, walFileOf(2))) {
			t.Errorf("byte %d: other content, %v", at, err)
		}
		if q, err := r.queue.find(walFileOf(2)); q != nil || err != nil {
			t.Errorf("byte %d: it is still there: %v, %v", at, q, err)
		}
	}
}

// TestAFaultAtAnyOperationOfRecoveryWithAQueueIsNeverAbsence lets the n-th
// operation on the storage fail, of whoever makes it, for every n.
func TestAFaultAtAnyOperationOfRecoveryWithAQueueIsNeverAbsence(t *testing.T) {
	all := run(1, 1, 4)
	archived := archiveOf(t, all...)
	for title, fault := range faults() {
		t.Run("operation n "+title, func(t *testing.T) {
			ahead := 0
			for n := 1; ; n++ {
				if n > tooMany {
					t.Fatal("the fault never stopped to fire")
				}
				r := recoveryFrom(t, archived.Clone())
				faulted := fault(r.store.Inner(), n)
				opens := Source{Name: "local", Open: func(context.Context) (*repo.Stanza, []repo.Identity, error) {
					s, err := openStanza(t, faulted)
					if err != nil {
						return nil, nil, err
					}
					return s, s.Identities(), nil
				}}
				ahead += r.replay(t, all, opens, faulted)
				if !faulted.Fired() {
					break
				}
			}
			if ahead == 0 {
				t.Error("nothing was ever served ahead")
			}
		})
	}
}

// replay asks for all segments as a server does that is started again after trouble.
func (r *recoveryOf) replay(t *testing.T, all []postgres.WALFile, source Source, faulted *faulty.Store) (ahead int) {
	t.Helper()
	g, err := NewGetter(source)
	if err != nil {
		t.Fatal(err)
	}
	end := r.prefetch(t, source)
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	getter := NewPrefetchGetter(g, r.queue, func() error { return nil })
	for _, f := range all {
		dest := filepath.Join(r.dir, recoveryFile)
		got, err := getter.Get(t.Context(), f.Name(segmentSize), dest)
		if errors.Is(err, ErrAbsent) || err != nil && !faulted.Fired() {
			t.Fatalf("%s: %v", f.Name(segmentSize), err)
		}
		if err != nil {
			return ahead
		}
		if content, err := os.ReadFile(dest); err != nil || !bytes.Equal(content, segment(r.id, f)) {
			t.Fatalf("%s: other content, %v", f.Name(segmentSize), err)
		}
		if got.Repository == "" {
			ahead++
		}
	}
	if _, err := getter.Get(t.Context(), walFileOf(5).Name(segmentSize), filepath.Join(r.dir, recoveryFile)); err == nil || !faulted.Fired() && !errors.Is(err, ErrAbsent) {
		t.Fatalf("behind the last: %v", err)
	}
	return ahead
}
