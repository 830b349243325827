package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage"
)

// failing is an agent's service whose every request ends with err.
type failing struct{ err error }

func (f *failing) Push(context.Context, agent.Request, string, string) (archive.Result, error) {
	return archive.Result{File: "x"}, f.err
}

func (f *failing) DataDirectory(string) string { return "" }

func (f *failing) Get(context.Context, agent.Request, *os.File) (archive.Got, error) {
	return archive.Got{}, f.err
}

// serve runs an agent over a service until the test ends, and gives its socket.
func serve(t *testing.T, service agent.Service) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s := &agent.Server{Socket: socket, Service: service, Code: generalCode, Processes: 2, Log: slog.New(slog.DiscardHandler), Clock: time.Now, Drain: time.Minute}
	inBackground(t, func(ctx context.Context, ready func()) error { return s.Serve(ctx, ready) })
	return socket
}

// inBackground runs what serves until the test ends, and waits until it is ready.
func inBackground(t *testing.T, run func(ctx context.Context, ready func()) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
}

// TestTheAgentChangesNoExitCode holds the code, the text and the hint of every kind of error
// together with those that it would have had without the agent.
func TestTheAgentChangesNoExitCode(t *testing.T) {
	f := &failing{}
	client := agent.Client{Socket: serve(t, f), Clock: time.Now}
	wal := filepath.Join(t.TempDir(), "pg_wal")
	writeFile(t, filepath.Join(filepath.Dir(wal), "global", "pg_control"), nil)
	writeFile(t, filepath.Join(wal, segmentName), nil)
	for _, err := range []error{
		errors.New("x"), &configError{errors.New("x")}, repo.ErrNotInitialized, repo.ErrNewerFormat, repo.ErrWrongPassphrase, repo.ErrEncrypted,
		repo.ErrNotEncrypted, repo.ErrUnknownStanza, repo.ErrIdentityMismatch, readiness.ErrNotReady, repo.ErrDamaged, storage.ErrNoSpace,
		&storageError{errors.New("x")}, errors.Join(&storageError{errors.New("x")}, &configError{errors.New("y")}), storage.ErrNotExist, archive.ErrAbsent,
		archive.ErrRefused, repo.ErrWALConflict, restore.ErrUnreachable, hint.Wrap(fmt.Errorf("two\nlines: %w", archive.ErrRefused), "do that"),
		errors.New(strings.Repeat("long and \x00 strange \xff ", 10000)),
	} {
		f.err = err
		_, pushErr := client.Push(t.Context(), agent.Request{Path: filepath.Join(wal, segmentName)})
		_, getErr := client.Get(t.Context(), agent.Request{}, filepath.Join(t.TempDir(), "x"))
		for _, o := range []occasion{{archivePushName, false}, {archiveGetName, false}, {archiveGetName, true}} {
			got := pushErr
			if o.command == archiveGetName {
				got = getErr
			}
			if want := exitCode(o, err); exitCode(o, got) != want {
				t.Errorf("%v: %v: exit %d, want %d", o, err, exitCode(o, got), want)
			}
			if len(err.Error()) < 1000 && got.Error() != err.Error() || hint.Of(got) != hint.Of(err) {
				t.Errorf("%v: %v: error %q, hint %q", o, err, got, hint.Of(got))
			}
		}
		if errors.Is(getErr, archive.ErrAbsent) != errors.Is(err, archive.ErrAbsent) {
			t.Errorf("%v: absence is %v", err, errors.Is(getErr, archive.ErrAbsent))
		}
	}
}

// What ends the agent must not look to PostgreSQL as if it had ended the client:
// 143 of archive-get is taken for a shutdown, 1 to 125 for the end of WAL.
func TestTheEndOfTheAgentIsTroubleForItsClients(t *testing.T) {
	f := &failing{}
	client := agent.Client{Socket: serve(t, f), Clock: time.Now}
	for _, err := range []error{interrupted{syscall.SIGTERM}, interrupted{syscall.SIGINT}, context.Canceled, &usageError{err: errors.New("x")}} {
		f.err = err
		_, got := client.Get(t.Context(), agent.Request{}, filepath.Join(t.TempDir(), "x"))
		for o, want := range map[occasion]int{{archivePushName, false}: exitFailed, {archiveGetName, false}: exitGetTrouble, {archiveGetName, true}: exitStandbyTrouble} {
			if code := exitCode(o, got); code != want {
				t.Errorf("%v: %v: exit %d, want %d", o, err, code, want)
			}
		}
	}
	for code := -1; code < 300; code++ {
		got := exitCode(occasion{command: archivePushName}, &agent.Failure{Code: code})
		if got < 1 || got > 125 {
			t.Errorf("an agent that says %d makes archive-push exit %d", code, got)
		}
		if got := exitCode(occasion{command: archiveGetName}, &agent.Failure{Code: code}); got != exitGetTrouble {
			t.Errorf("an agent that says %d makes archive-get exit %d", code, got)
		}
	}
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

const agentConfigText = plainConfig + "agent: {socket: DIR/agent.sock}\n"

// withAgent is a site with a repository, an agent, and a second configuration
// without one.
type withAgent struct {
	*site
	later  atomic.Int64 // how far the agent's clock is ahead
	frozen atomic.Int64 // the time, in nanoseconds, at which it stands; 0 is not
	plain  string       // the configuration without the agent
}

func newWithAgent(t *testing.T, extra string) *withAgent {
	t.Helper()
	w := &withAgent{site: newSite(t, agentConfigText+extra)}
	w.plain = w.path("plain.yaml")
	w.write(t, "plain.yaml", []byte(strings.ReplaceAll(plainConfig+extra, "DIR", w.dir)))
	w.mustRun(t, "init")
	return w
}

// start runs the agent of the site until the test ends.
func (w *withAgent) start(t *testing.T) *lockedBuffer {
	t.Helper()
	var log lockedBuffer
	a := &app{stdout: &log, stderr: &log, getenv: func(string) string { return "" }, clock: w.clock, directory: "/"}
	a.flags.config, a.log = w.config, slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.runAgent(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	w.awaitAgent(t)
	return &log
}

func (w *withAgent) clock() time.Time {
	if at := w.frozen.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Now().Add(time.Duration(w.later.Load()))
}

// age makes the agent look at its repositories anew.
func (w *withAgent) age() { w.later.Add(int64(2 * warmAge)) }

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (w *withAgent) awaitAgent(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := agent.Client{Socket: w.path("agent.sock"), Clock: time.Now}.Ping(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// both runs a command in the data directory with and without the agent, and gives
// the errors and hints that they print, and their codes.
func (w *withAgent) both(t *testing.T, args ...string) (with, without outcome) {
	t.Helper()
	run := func(config string) outcome {
		var out bytes.Buffer
		t.Chdir(w.path("data"))
		a := &app{stdout: &out, stderr: &out, getenv: func(string) string { return "" }, clock: time.Now, directory: "."}
		code := a.run(t.Context(), append([]string{"--config", config}, args...))
		var said []string
		for _, line := range strings.Split(out.String(), "\n") {
			if _, message, logged := strings.Cut(line, "msg="); logged {
				line = message
			}
			if !strings.Contains(line, "storage failed and is tried again") {
				said = append(said, line)
			}
		}
		return outcome{code: code, stderr: strings.Join(said, "\n")}
	}
	return run(w.config), run(w.plain)
}

func (w *withAgent) writeWAL(t *testing.T) []byte {
	t.Helper()
	_, content := w.writeSegment(t)
	w.write(t, "data/pg_wal/"+segmentName, content)
	return content
}

// TestWithAndWithoutTheAgentTheSameIsSaid compares whole runs.
func TestWithAndWithoutTheAgentTheSameIsSaid(t *testing.T) {
	w := newWithAgent(t, "")
	content := w.writeWAL(t)
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	foreign := bytes.Clone(content)
	foreign[24] ^= 1 // the system identifier
	w.start(t)
	const path = "pg_wal/" + segmentName
	move := func(from, to string) func() {
		return func() {
			if err := os.Rename(w.path(from), w.path(to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		title  string
		before func()
		args   []string
		code   int
	}{
		{"absent", func() {}, []string{"archive-get", segmentName, "pg_wal/RECOVERYXLOG"}, exitFailed},
		{"foreign", func() { w.write(t, "data/"+path, foreign) }, []string{"archive-push", path}, exitWALRefused},
		{"stored", func() { w.write(t, "data/"+path, content) }, []string{"archive-push", path}, exitOK},
		{"there", func() {}, []string{"archive-push", path}, exitOK},
		{"fetched", func() {}, []string{"archive-get", segmentName, "pg_wal/RECOVERYXLOG"}, exitOK},
		{"conflict", func() { w.write(t, "data/"+path, other) }, []string{"archive-push", path}, exitWALRefused},
		{"a wrong name", func() {}, []string{"archive-get", "x", "pg_wal/RECOVERYXLOG"}, exitGetTrouble},
		{"an identity that is not there", func() {}, []string{"archive-get", "--identity", "7", segmentName, "pg_wal/RECOVERYXLOG"}, exitOK},
		{"the stanza is away", move("repo/stanzas", "stanzas"), []string{"archive-push", path}, exitRepository},
		{"the stanza is away from archive-get", func() {}, []string{"archive-get", segmentName, "pg_wal/RECOVERYXLOG"}, exitGetTrouble},
		{"the repository is away", move("repo", "away"), []string{"archive-push", path}, exitRepository},
		{"the repository is away from a standby", func() {}, []string{"archive-get", "--standby", segmentName, "pg_wal/RECOVERYXLOG"}, exitStandbyTrouble},
	} {
		c.before()
		w.age()
		with, without := w.both(t, c.args...)
		if c.title == "stored" {
			without.stderr = with.stderr // it was there by then
		}
		for _, text := range []*string{&with.stderr, &without.stderr} {
			*text = strings.ReplaceAll(*text, w.path("data")+"/pg_wal", "pg_wal")
		}
		if with.code != c.code || without != with {
			t.Errorf("%s: with the agent exit %d\n%s\nwithout exit %d, want %d\n%s", c.title, with.code, with.stderr, without.code, c.code, without.stderr)
		}
	}
	got, err := os.ReadFile(w.path("data/pg_wal/RECOVERYXLOG"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("archive-get wrote %d bytes, not those of the segment (%v)", len(got), err)
	}
	left, err := filepath.Glob(w.path("data/pg_wal/.pgbak*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q (%v)", left, err)
	}
}

// TestARepositoryThatWasMadeAnewIsNoticed: what is sealed with the keys of the
// repository that was there before could never be read.
func TestARepositoryThatWasMadeAnewIsNoticed(t *testing.T) {
	w := newWithAgent(t, "")
	for _, config := range []string{w.config, w.plain} {
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.Replace(text, []byte("/repo\n"), []byte("/sealed\n    encryption: {passphrase-file: "+w.path("passphrase")+"}\n"), 1)
		if err := os.WriteFile(config, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "passphrase", []byte("correct horse battery staple"))
	w.mustRun(t, "init")
	content := w.writeWAL(t)
	w.start(t)
	const path, dest = "pg_wal/" + segmentName, "pg_wal/RECOVERYXLOG"
	for round := range 3 {
		if with, _ := w.both(t, "archive-push", path); with.code != exitOK {
			t.Fatalf("round %d: %+v", round, with)
		}
		with, without := w.both(t, "archive-get", segmentName, dest)
		if with.code != exitOK || without.code != exitOK {
			t.Fatalf("round %d: with the agent %+v, without %+v", round, with, without)
		}
		if got, err := os.ReadFile(w.path("data/" + dest)); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("round %d: %d bytes (%v)", round, len(got), err)
		}
		if err := os.Rename(w.path("sealed"), w.path(fmt.Sprint("sealed.", round))); err != nil {
			t.Fatal(err)
		}
		w.mustRun(t, "init")
	}
}

// TestByTheAgentTooAFileIsKept that segments wait behind which may be dropped: else
// PostgreSQL would ask for it until its disk is full.
func TestByTheAgentTooAFileIsKept(t *testing.T) {
	w := newWithAgent(t, "archive: {spool: DIR/spool, queue-max: 16MiB}\n")
	if err := os.Mkdir(w.path("spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.writeWAL(t)
	const history = "00000002.history"
	w.write(t, "data/pg_wal/"+history, []byte("1\t0/3000000\tno recovery target specified\n"))
	for _, name := range []string{history, segmentName, "000000010000000000000004"} {
		w.write(t, "data/pg_wal/archive_status/"+name+".ready", nil)
	}
	w.start(t)
	if err := os.Rename(w.path("repo"), w.path("away")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		with, without := w.both(t, "archive-push", "pg_wal/"+history)
		if with.code != exitOK || without.code != exitOK || !strings.Contains(with.stderr, history+" is kept in the spool") {
			t.Errorf("with the agent %+v\nwithout %+v", with, without)
		}
	}
}

func TestWithoutTheAgent(t *testing.T) {
	w := newWithAgent(t, "")
	w.writeWAL(t)
	const path = "pg_wal/" + segmentName
	away, _ := w.both(t, "archive-push", path)
	if away.code != exitFailed {
		t.Errorf("exit %d", away.code)
	}
	contains(t, away.stderr, "pgbak: the agent does not answer: ", "no such file or directory", "hint: start it (systemctl start pgbak-agent)")
	for args, code := range map[string]int{"archive-get a b": exitGetTrouble, "archive-get --standby a b": exitStandbyTrouble} {
		if away, _ := w.both(t, strings.Fields(args)...); away.code != code {
			t.Errorf("pgbak %s: exit %d, want %d", args, away.code, code)
		}
	}
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "pgbak.yaml", bytes.Replace(text, []byte("agent.sock}"), []byte("agent.sock, when-absent: fallback}"), 1))
	fallback, _ := w.both(t, "archive-push", path)
	if fallback.code != exitOK {
		t.Errorf("exit %d", fallback.code)
	}
	contains(t, fallback.stderr, `"working without the agent" error="the agent does not answer: `)
	fallback, _ = w.both(t, "archive-get", segmentName, "pg_wal/RECOVERYXLOG")
	if fallback.code != exitOK {
		t.Errorf("exit %d\n%s", fallback.code, fallback.stderr)
	}
}

// TestWhatTheAgentKnowsOfAStanzaRefusesNothing: after pg_upgrade the first file of the new cluster
// is taken, and found, though the agent has just looked at the stanza.
func TestWhatTheAgentKnowsOfAStanzaRefusesNothing(t *testing.T) {
	upgraded := sample(t, 18, "pg_control.production.gz")
	w := newWithAgent(t, "")
	w.writeWAL(t)
	// Nothing grows old, and no deadline passes.
	w.frozen.Store(time.Now().Add(time.Hour).UnixNano())
	w.start(t)
	if with, _ := w.both(t, "archive-push", "pg_wal/"+segmentName); with.code != exitOK {
		t.Fatalf("%+v", with)
	}
	if with, _ := w.both(t, "archive-get", segmentName, "pg_wal/RECOVERYXLOG"); with.code != exitOK {
		t.Fatalf("%+v", with)
	}
	w.write(t, "data/global/pg_control", upgraded)
	w.mustRun(t, "init", "--upgrade")
	w.write(t, "data/pg_wal/00000002.history", []byte("1\t0/3000000\tno recovery target specified\n"))
	if with, _ := w.both(t, "archive-push", "pg_wal/00000002.history"); with.code != exitOK {
		t.Errorf("%+v", with)
	}
	if with, _ := w.both(t, "archive-get", "00000002.history", "pg_wal/RECOVERYHISTORY"); with.code != exitOK {
		t.Errorf("%+v", with)
	}
	if got, err := os.ReadFile(w.path("data/pg_wal/RECOVERYHISTORY")); err != nil || !bytes.HasPrefix(got, []byte("1\t0/3000000")) {
		t.Errorf("it came back as %q (%v)", got, err)
	}
}

// TestAChangedConfigurationCounts holds the agent to the configuration that its callers read.
// A standby at the end of the archive asks every 5 seconds for the history of the
// next timeline and for the next segment.
func TestAStandbyThatWaitsCostsTheAgentOneLook(t *testing.T) {
	w := newWithAgent(t, "")
	w.frozen.Store(time.Now().UnixNano())
	a := &app{getenv: func(string) string { return "" }, clock: w.clock, directory: "/", log: slog.New(slog.DiscardHandler)}
	a.flags.config = w.config
	c, err := a.loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	s := newAgentService(a, c, nil)
	defer s.close()
	into, err := os.Create(w.path("destination"))
	if err != nil {
		t.Fatal(err)
	}
	defer into.Close()
	operations := func() (n int64) {
		for _, c := range s.set.get.counters {
			shot := c.store.Snapshot()
			n += int64(shot.Get.Calls + shot.List.Calls + shot.Stat.Calls)
		}
		return n
	}
	for poll := range 4 {
		before := operations()
		for _, name := range []string{"00000002.history", segmentName} {
			_, err := s.Get(t.Context(), agent.Request{Stanza: "main", Repositories: []string{"local"}, Directory: "/d", Name: name, Path: "pg_wal/RECOVERYXLOG"}, into)
			if !errors.Is(err, archive.ErrAbsent) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		// For each file one look at the repository and the stanza (4), the file, and the proof that the stanza is there.
		if n := operations() - before; poll > 0 && n > 12 {
			t.Errorf("poll %d: %d operations", poll, n)
		}
		w.frozen.Add(int64(5 * time.Second))
	}
}

func TestAChangedConfigurationCounts(t *testing.T) {
	w := newWithAgent(t, "")
	w.writeWAL(t)
	log := w.start(t)
	const path = "pg_wal/" + segmentName
	if with, _ := w.both(t, "archive-push", path); with.code != exitOK {
		t.Fatalf("%+v", with)
	}
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.Replace(text, []byte("stanzas:"), []byte("  - name: second\n    url: file://"+w.dir+"/second\nstanzas:"), 1)
	w.write(t, "pgbak.yaml", second)
	if with, _ := w.both(t, "archive-push", path); with.code != exitRepository {
		t.Errorf("%+v", with)
	} else {
		contains(t, with.stderr, `repository "second"`)
	}
	w.mustRun(t, "init")
	if with, _ := w.both(t, "archive-push", path); with.code != exitOK {
		t.Errorf("%+v", with)
	}
	contains(t, log.String(), "the configuration was read again")
	if with, _ := w.both(t, "--repo", "second", "archive-get", segmentName, "pg_wal/RECOVERYXLOG"); with.code != exitOK {
		t.Errorf("%+v", with)
	}
	// A caller with other repositories than the agent's is told.
	_, err = agent.Client{Socket: w.path("agent.sock"), Clock: time.Now}.Push(t.Context(),
		agent.Request{Stanza: "main", Repositories: []string{"local", "third"}, Directory: w.path("data"), Path: path})
	if err == nil || exitCode(occasion{command: archivePushName}, err) != exitConfiguration || hint.Of(err) != "agent and server must be configured with the same repositories." {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	w.write(t, "pgbak.yaml", []byte("nonsense: 1\n"))
	_, err = agent.Client{Socket: w.path("agent.sock"), Clock: time.Now}.Push(t.Context(),
		agent.Request{Stanza: "main", Repositories: []string{"local"}, Directory: w.path("data"), Path: path})
	if exitCode(occasion{command: archivePushName}, err) != exitConfiguration {
		t.Errorf("error %v", err)
	}
	w.write(t, "pgbak.yaml", second)
}
