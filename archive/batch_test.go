package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// walServer is what a batch sees of a PostgreSQL server: its pg_wal.
type walServer struct {
	wal      string
	contents map[string][]byte
}

// newServer has segments 1 to n, all ready.
func newServer(t *testing.T, n int) *walServer {
	t.Helper()
	s := &walServer{wal: t.TempDir(), contents: map[string][]byte{}}
	if err := os.Mkdir(filepath.Join(s.wal, "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s.write(t, segmentNumber(i+1), segment(testIdentity(17), walFileOf(uint64(i+1))))
	}
	return s
}

func segmentNumber(i int) string { return walFileOf(uint64(i)).Name(segmentSize) }

// write makes a file and marks it ready.
func (s *walServer) write(t *testing.T, name string, content []byte) {
	t.Helper()
	s.contents[name] = content
	for path, data := range map[string][]byte{s.path(name): content, s.status(name): nil} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *walServer) path(name string) string { return filepath.Join(s.wal, name) }
func (s *walServer) status(name string) string {
	return filepath.Join(s.wal, "archive_status", name+".ready")
}

// done is what PostgreSQL does with a file that is archived.
func (s *walServer) done(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(s.status(name)); err != nil {
		t.Fatal(err)
	}
}

func (s *walServer) mustBeIn(t *testing.T, stanza *repo.Stanza, names ...string) {
	t.Helper()
	for _, name := range names {
		mustHold(t, stanza, name, s.contents[name])
	}
}

func newSpool(t *testing.T) *Spool {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSpool(dir, "main")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTestBatch(t *testing.T, spool *Spool, targets ...PushTarget) *Batch {
	t.Helper()
	p, err := NewPusher(targets...)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBatch(p, spool, clock)
	b.Processes = 2
	return b
}

func logInto(b *Batch, out *bytes.Buffer) {
	b.pusher.Log = slog.New(slog.NewTextHandler(out, nil))
}

// closed is a target that must not be asked.
func closed(t *testing.T, name string) PushTarget {
	return PushTarget{Name: name, Open: func(context.Context) (*repo.Stanza, error) {
		t.Errorf("repository %s was opened", name)
		return nil, errors.New("it is closed")
	}}
}

// puts are the names of the WAL files that were put, in order.
func puts(st *faulty.Store) (names []string) {
	for _, op := range st.Trace() {
		if key, ok := strings.CutPrefix(op, faulty.OpPutIfAbsent+" "); ok && isWALFile(filepath.Base(key)) {
			names = append(names, filepath.Base(key))
		}
	}
	return names
}

func traced(st storage.Store) *faulty.Store {
	return faulty.OnOp(st, func(string, string) error { return nil })
}

func TestARunPushesAllThatIsReadyAndTheNextCallsOpenNoRepository(t *testing.T) {
	base := mem.New()
	stanza := newStanza(t, base, testIdentity(17))
	s, spool := newServer(t, 10), newSpool(t)
	s.write(t, "00000002.history", []byte("1\t0/2000000\tno reason\n"))
	var log bytes.Buffer
	var told []Pushed
	b := newTestBatch(t, spool, pushTo("local", stanza))
	b.pusher.Control = func() (*postgres.Control, error) {
		return &postgres.Control{SystemID: testIdentity(17).SystemID, Major: 17, WALSegmentSize: segmentSize}, nil
	}
	logInto(b, &log)
	b.Each = func(p Pushed) { told = append(told, p) }
	result, err := b.Push(t.Context(), s.path(segmentNumber(1)))
	if err != nil || result.Acknowledged || len(result.Warnings) != 0 || len(result.Stored) != 1 || result.Stored[0].Outcome != repo.WALStored {
		t.Fatalf("%+v, %v", result, err)
	}
	if len(told) != 11 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), `msg="archived a batch" files=11`) {
		t.Errorf("told of %d files, log %q", len(told), log.String())
	}
	shut := newTestBatch(t, spool, closed(t, "local"))
	shut.pusher.Control = b.pusher.Control
	for name := range s.contents {
		s.mustBeIn(t, stanza, name)
		result, err := shut.Push(t.Context(), s.path(name))
		if err != nil || !result.Acknowledged || result.File != name || len(result.Stored) != 1 || result.Stored[0].RawSize != int64(len(s.contents[name])) {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
		s.done(t, name)
	}
	s.write(t, segmentNumber(11), segment(testIdentity(17), walFileOf(11)))
	if _, err := b.Push(t.Context(), s.path(segmentNumber(11))); err != nil {
		t.Fatal(err)
	}
	if left := spooled(t, spool); !slices.Equal(left, []string{segmentNumber(11)}) {
		t.Errorf("acknowledgements are left: %q", left)
	}
}

func spooled(t *testing.T, s *Spool) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.part(spoolPush))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestTheOthersArePushedInPostgreSQLsOrderAndTheirNumberIsBounded(t *testing.T) {
	st := traced(mem.New())
	stanza := newStanza(t, st, testIdentity(17))
	s := newServer(t, 20)
	s.write(t, "00000002.history", []byte("1\t0/2000000\tno reason\n"))
	// What is not PostgreSQL's is left alone.
	for _, name := range []string{"x.ready", "..ready", ".ready", segmentNumber(3) + ".done", "00000001000000000000000G.ready"} {
		if err := os.WriteFile(filepath.Join(s.wal, "archive_status", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
	b.Processes, b.bounds.files = 1, 5
	if _, err := b.Push(t.Context(), s.path(segmentNumber(4))); err != nil {
		t.Fatal(err)
	}
	want := []string{segmentNumber(4), "00000002.history", segmentNumber(1), segmentNumber(2), segmentNumber(3), segmentNumber(5)}
	if got := puts(st); !slices.Equal(got, want) {
		t.Errorf("pushed were %q, want %q", got, want)
	}
}

func TestFilesThatBecomeReadyDuringARunArePushedByIt(t *testing.T) {
	stanza := memStanza(t)
	s := newServer(t, 2)
	b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
	next := 3
	b.Each = func(Pushed) {
		if next <= 6 {
			s.write(t, segmentNumber(next), segment(testIdentity(17), walFileOf(uint64(next))))
			next++
		}
	}
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	for name := range s.contents {
		s.mustBeIn(t, stanza, name)
	}
}

// dead is a repository that cannot be opened.
func dead(name string, opened *atomic.Int32) PushTarget {
	return PushTarget{Name: name, Open: func(context.Context) (*repo.Stanza, error) {
		opened.Add(1)
		return nil, fmt.Errorf("repository %q: no route", name)
	}}
}

func TestADeadRepositoryKeepsNothingFromTheOthers(t *testing.T) {
	id := testIdentity(17)
	first, second := traced(mem.New()), traced(mem.New())
	a, b := newStanza(t, first, id), newStanza(t, second, id)
	s, spool := newServer(t, 200), newSpool(t)
	var opened atomic.Int32
	var log bytes.Buffer
	failing := newTestBatch(t, spool, pushTo("a", a), dead("b", &opened))
	logInto(failing, &log)
	result, err := failing.Push(t.Context(), s.path(segmentNumber(1)))
	contains(t, err, `repository "b": no route`)
	if opened.Load() != 1 || len(result.Stored) != 1 || result.Stored[0].Repository != "a" || len(result.Failed) != 1 || result.Failed[0].Repository != "b" {
		t.Errorf("opened %d times, result %+v", opened.Load(), result)
	}
	if n := len(puts(first)); n != 200 {
		t.Errorf("%d of 200 files reached the repository that works", n)
	}
	if lines := strings.Count(log.String(), "\n"); lines > 2 {
		t.Errorf("the server's log gets %d lines:\n%s", lines, log.String())
	}
	// Again: nothing is asked of the one that has all.
	if result, err = newTestBatch(t, spool, closed(t, "a"), dead("b", &opened)).Push(t.Context(), s.path(segmentNumber(1))); err == nil || opened.Load() != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	if len(result.Stored) != 1 || result.Stored[0].Repository != "a" {
		t.Errorf("result %+v", result)
	}
	// New WAL still reaches the one that works.
	s.write(t, segmentNumber(201), segment(id, walFileOf(201)))
	if _, err := failing.Push(t.Context(), s.path(segmentNumber(1))); err == nil || len(puts(first)) != 201 {
		t.Errorf("%d files, %v", len(puts(first)), err)
	}
	// It is back: everything goes there, and only there.
	back := newTestBatch(t, spool, closed(t, "a"), pushTo("b", b))
	for i := 1; i <= 201; i++ {
		if _, err := back.Push(t.Context(), s.path(segmentNumber(i))); err != nil {
			t.Fatal(err)
		}
		s.done(t, segmentNumber(i))
	}
	if n := len(puts(second)); n != 201 {
		t.Errorf("%d puts to the repository that is back", n)
	}
	s.mustBeIn(t, a, segmentNumber(1), segmentNumber(200))
	s.mustBeIn(t, b, segmentNumber(1), segmentNumber(201))
}

func TestARepositoryThatHangsWhileItIsOpenedKeepsNothingFromTheOthers(t *testing.T) {
	first := traced(mem.New())
	a := newStanza(t, first, testIdentity(17))
	s := newServer(t, 30)
	there := make(chan struct{})
	hangs := PushTarget{Name: "b", Open: func(ctx context.Context) (*repo.Stanza, error) {
		select {
		case <-there:
			return nil, errors.New(`repository "b": no route`)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Minute):
			return nil, errors.New("the others have to wait for it")
		}
	}}
	b := newTestBatch(t, newSpool(t), pushTo("a", a), hangs)
	b.bounds.open = 10 * time.Millisecond
	n := 0
	b.Each = func(p Pushed) {
		if n++; n == 29 {
			close(there)
		}
	}
	_, err := b.Push(t.Context(), s.path(segmentNumber(1)))
	contains(t, err, "no route")
	if len(puts(first)) != 30 {
		t.Errorf("%d of 30 files reached the repository that works", len(puts(first)))
	}
}

func TestARepositoryThatIsOpenLateIsServedInTheSameRun(t *testing.T) {
	id := testIdentity(17)
	first, second := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	s := newServer(t, 8)
	there := make(chan struct{})
	late := PushTarget{Name: "b", Open: func(ctx context.Context) (*repo.Stanza, error) {
		select {
		case <-there:
		case <-time.After(time.Minute):
			t.Error("the others have to wait for it")
		}
		return second, nil
	}}
	// The other one is open only after a file has stopped to wait for it, too.
	early, tried := pushTo("a", first), make(chan struct{})
	early.Open = func(context.Context) (*repo.Stanza, error) {
		select {
		case <-tried:
		case <-time.After(5 * time.Second): // no file was begun in time
		}
		return first, nil
	}
	b := newTestBatch(t, newSpool(t), early, late)
	b.bounds.open = 100 * time.Millisecond
	n, without := 0, 0
	b.Each = func(p Pushed) {
		if len(p.Stored) == 0 {
			if without++; without == 1 {
				close(tried)
			}
		} else if n++; n == 7 {
			close(there)
		}
	}
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	for name := range s.contents {
		s.mustBeIn(t, first, name)
		s.mustBeIn(t, second, name)
	}
}

func TestTheErrorOfAnotherFileIsAWarningAndComesUpWhenItIsAskedFor(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 5), newSpool(t)
	if err := os.WriteFile(s.path(segmentNumber(3)), segment(testIdentity(17), walFileOf(4)), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := newTestBatch(t, spool, pushTo("local", stanza))
	logInto(b, &log)
	result, err := b.Push(t.Context(), s.path(segmentNumber(1)))
	if err != nil || len(result.Warnings) != 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	if text := log.String(); strings.Count(text, "could not be archived ahead") != 1 || !strings.Contains(text, segmentNumber(3)) {
		t.Errorf("log %q", text)
	}
	s.mustBeIn(t, stanza, segmentNumber(2), segmentNumber(4), segmentNumber(5))
	if _, err := b.Push(t.Context(), s.path(segmentNumber(3))); !errors.Is(err, ErrRefused) {
		t.Errorf("asked for: %v", err)
	}
}

func TestARunThatIsStoppedEndsSoonAndKeepsItsWord(t *testing.T) {
	base := mem.New()
	newStanza(t, base, testIdentity(17))
	s, spool := newServer(t, 20), newSpool(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	slow := faulty.New(base, nil, func(ctx context.Context, op faulty.Op) error {
		if op.Name == faulty.OpPutIfAbsent && filepath.Base(op.Key) != segmentNumber(1) {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	})
	b := newTestBatch(t, spool, opens(t, "local", slow))
	b.Each = func(p Pushed) {
		if !p.Asked {
			t.Errorf("told of %s, which was given up: %v", p.File, p.Err)
		}
		stop()
	}
	if _, err := b.Push(ctx, s.path(segmentNumber(1))); err != nil {
		t.Errorf("the file asked for is durable, and the error is %v", err)
	}
	if left := spooled(t, spool); !slices.Equal(left, []string{segmentNumber(1)}) {
		t.Errorf("acknowledged are %q", left)
	}
	ctx, stop = context.WithCancel(t.Context())
	stop()
	if _, err := b.Push(ctx, s.path(segmentNumber(2))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestOfTwoRunsOnePushesAhead(t *testing.T) {
	st := traced(mem.New())
	stanza := newStanza(t, st, testIdentity(17))
	s, spool := newServer(t, 5), newSpool(t)
	unlock, err := spool.lock(spoolPush)
	if err != nil {
		t.Fatal(err)
	}
	b := newTestBatch(t, spool, pushTo("local", stanza))
	result, err := b.Push(t.Context(), s.path(segmentNumber(2)))
	if err != nil || len(result.Warnings) != 0 || !slices.Equal(puts(st), []string{segmentNumber(2)}) {
		t.Errorf("%+v, %v, %q", result, err, puts(st))
	}
	unlock()
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil || len(puts(st)) != 5 {
		t.Errorf("%v, %q", err, puts(st))
	}
}

func TestASpoolThatCannotBeWrittenIsAWarning(t *testing.T) {
	stanza := memStanza(t)
	for title, spoil := range map[string]func(*Spool) error{
		"the part for acknowledgements is gone": func(s *Spool) error { return os.RemoveAll(s.part(spoolPush)) },
		"the lock cannot be taken": func(s *Spool) error {
			return os.Mkdir(filepath.Join(s.dir, spoolPush+".lock"), 0o700)
		},
		"all is gone": func(s *Spool) error { return os.RemoveAll(s.dir) },
	} {
		t.Run(title, func(t *testing.T) {
			s, spool := newServer(t, 3), newSpool(t)
			if err := spoil(spool); err != nil {
				t.Fatal(err)
			}
			result, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(1)))
			if err != nil || len(result.Warnings) == 0 || !strings.Contains(strings.Join(result.Warnings, " "), spool.dir) {
				t.Errorf("%+v, %v", result, err)
			}
			s.mustBeIn(t, stanza, segmentNumber(1))
		})
	}
}

func TestAFullSpoolIsAWarning(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 3), newSpool(t)
	dir := smallFileSystem(t, 64<<10)
	full := filepath.Join(dir, "fill")
	if err := os.Mkdir(filepath.Join(dir, "push"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	spool.dir = dir
	result, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(1)))
	if err != nil || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "no space left") {
		t.Errorf("%+v, %v", result, err)
	}
	for name := range s.contents {
		s.mustBeIn(t, stanza, name)
	}
}

func isWALFile(name string) bool {
	_, ok := walKind(name)
	return ok
}

// closedQuietly fails to open.
func closedQuietly(context.Context) (*repo.Stanza, error) {
	return nil, errors.New("no route")
}

// TestBuffersAreReusedOnlyByWhatIsNotReadAnyMore pushes many files through few
// buffers, and content that is stored as it is.
func TestBuffersAreReusedOnlyByWhatIsNotReadAnyMore(t *testing.T) {
	none, err := repo.ParseCompression("none")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Create(t.Context(), mem.New(), repo.Options{Clock: clock, Compression: none})
	if err != nil {
		t.Fatal(err)
	}
	stanza, err := r.CreateStanza(t.Context(), "main", testIdentity(17))
	if err != nil {
		t.Fatal(err)
	}
	other := memStanza(t)
	s := newServer(t, 40)
	target := pushTo("none", stanza)
	target.Compression = none
	b := newTestBatch(t, newSpool(t), target, pushTo("zstd", other))
	b.Processes = 4
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	for name := range s.contents {
		s.mustBeIn(t, stanza, name)
		s.mustBeIn(t, other, name)
	}
}

// TestALinkIsNotPushed: who may ask an agent, and marks a link as ready in a directory
// of his own, could fetch what only the agent can read, such as its keys.
func TestALinkIsNotPushed(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 1), newSpool(t)
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("correct horse battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := segmentNumber(1) + ".00000028.backup"
	s.write(t, name, nil)
	if err := errors.Join(os.Remove(s.path(name)), os.Symlink(secret, s.path(name))); err != nil {
		t.Fatal(err)
	}
	b := newTestBatch(t, spool, pushTo("local", stanza))
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	mustLack(t, stanza, name)
	_, err := b.Push(t.Context(), s.path(name))
	if contains(t, err, "is not a regular file"); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
}
