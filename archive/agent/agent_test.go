package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
)

// scripted is a service made of functions.
type scripted struct {
	push func(ctx context.Context, r Request, pgdata, path string) (archive.Result, error)
	get  func(ctx context.Context, r Request, into *os.File) (archive.Got, error)
	data string // where the data directory of every stanza is seen
}

func (s scripted) DataDirectory(string) string { return s.data }

func (s scripted) Push(ctx context.Context, r Request, pgdata, path string) (archive.Result, error) {
	return s.push(ctx, r, pgdata, path)
}

func (s scripted) Get(ctx context.Context, r Request, into *os.File) (archive.Got, error) {
	return s.get(ctx, r, into)
}

// patience is for what happens at once on a machine that is not overloaded.
const patience = time.Minute

// running is a server of a test.
type running struct {
	*Server
	stop  context.CancelFunc
	ended chan error
}

func newServer(t *testing.T, s Service) *Server {
	t.Helper()
	return &Server{Socket: filepath.Join(t.TempDir(), "agent.sock"), Service: s, Code: func(error) int { return 42 }, Processes: 2,
		Log: slog.New(slog.DiscardHandler), Clock: time.Now, Drain: patience, Metrics: &Metrics{}}
}

func start(t *testing.T, s *Server) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{s, cancel, make(chan error, 1)}
	ready := make(chan struct{})
	go func() { r.ended <- s.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-r.ended:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the server and waits for it.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	await(t, r.ended)
	r.ended <- nil
}

func await[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("it does not come")
	}
	return v
}

func (r *running) client() Client { return Client{Socket: r.Socket, Clock: time.Now} }

// dataDirectory makes one with a file in pg_wal.
func dataDirectory(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range append([]string{"global/pg_control"}, names...) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func contains(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v lacks %q", err, w)
		}
	}
}

func TestAPushIsOfAFileInThePgWALOfADataDirectory(t *testing.T) {
	var mu sync.Mutex
	var pushed []string
	r := start(t, newServer(t, scripted{push: func(_ context.Context, _ Request, pgdata, path string) (archive.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		pushed = append(pushed, pgdata+" "+path)
		return archive.Result{File: "x", Stored: []archive.Stored{{Repository: "a", RawSize: 3}}, Warnings: []string{"w"}}, nil
	}}))
	dir := dataDirectory(t, "pg_wal/x", "base/x", "pg_wal/sub/x", "pg_wal/pg_wal/x")
	if err := syscall.Mkfifo(filepath.Join(dir, "pg_wal/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "pg_wal/link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"pg_wal/x", filepath.Join(dir, "pg_wal/x"), "pg_wal/../pg_wal/x"} {
		got, err := r.client().Push(t.Context(), Request{Directory: dir, Path: path})
		if err != nil || got.File != "x" || got.Stored[0].RawSize != 3 || got.Warnings[0] != "w" {
			t.Errorf("%s: %+v (%v)", path, got, err)
		}
	}
	for _, p := range pushed {
		if p != dir+" "+dir+"/pg_wal/x" {
			t.Errorf("pushed %s", p)
		}
	}
	for path, why := range map[string]string{
		"base/x": "is not in a directory pg_wal", "pg_wal/sub/x": "is not in a directory pg_wal", "/etc/passwd": "is not in a directory pg_wal",
		"pg_wal/pg_wal/x": "is not in the pg_wal of a data directory", "pg_wal/pipe": "is not a regular file", "pg_wal/link": "is not a regular file",
	} {
		_, err := r.client().Push(t.Context(), Request{Directory: dir, Path: path})
		contains(t, err, archive.ErrRefused.Error(), why)
		if !strings.Contains(hint.Of(err), "own pg_wal") {
			t.Errorf("%s: hint %q", path, hint.Of(err))
		}
	}
	_, err := r.client().Push(t.Context(), Request{Directory: dir, Path: "pg_wal/gone"})
	contains(t, err, "read WAL file", "no such file")
	_, err = r.client().Push(t.Context(), Request{Directory: "data", Path: "pg_wal/x"})
	contains(t, err, "its directory is not said")
	if len(pushed) != 3 {
		t.Errorf("%d pushes, want 3", len(pushed))
	}
}

// TestTheAgentMaySeeTheDataDirectoryElsewhere as a sidecar does that mounts the volume under
// another path: what the client has open tells which file is meant.
func TestTheAgentMaySeeTheDataDirectoryElsewhere(t *testing.T) {
	var pushed []string
	volume, other := dataDirectory(t, "pg_wal/x", "pg_wal/y"), dataDirectory(t, "pg_wal/x")
	s := scripted{data: volume, push: func(_ context.Context, _ Request, pgdata, path string) (archive.Result, error) {
		pushed = append(pushed, pgdata+" "+path)
		return archive.Result{File: filepath.Base(path)}, nil
	}}
	r := start(t, newServer(t, s))
	ask := func(path, opened string) error {
		file, err := os.Open(opened)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		_, err = r.client().ask(t.Context(), Request{Operation: opPush, Directory: "/server/data", Path: path}, file)
		return err
	}
	if err := ask("pg_wal/x", filepath.Join(volume, "pg_wal/x")); err != nil {
		t.Error(err)
	}
	// Another volume is under the server's path.
	if err := ask(filepath.Join(other, "pg_wal/x"), filepath.Join(volume, "pg_wal/x")); err != nil {
		t.Error(err)
	}
	for _, p := range pushed {
		if p != volume+" "+volume+"/pg_wal/x" {
			t.Errorf("pushed %s", p)
		}
	}
	if len(pushed) != 2 {
		t.Errorf("%d pushes, want 2", len(pushed))
	}
	// In neither place is the file that the client has open.
	err := ask("pg_wal/x", filepath.Join(other, "pg_wal/x"))
	contains(t, err, "is not in the pg_wal of a data directory")
	err = ask(filepath.Join(volume, "pg_wal/x"), filepath.Join(other, "pg_wal/x"))
	contains(t, err, "the agent sees another file there than the server")
	if !strings.Contains(hint.Of(err), "the stanza's pgdata") {
		t.Errorf("hint %q", hint.Of(err))
	}
	contains(t, ask("pg_wal/x", filepath.Join(volume, "pg_wal/y")), "is not in the pg_wal of a data directory")
	if len(pushed) != 2 {
		t.Errorf("%d pushes, want 2", len(pushed))
	}
}

func TestTheSameFileIsPushedOnceAtATime(t *testing.T) {
	begun, release := make(chan string, 10), make(chan struct{})
	r := start(t, newServer(t, scripted{push: func(_ context.Context, q Request, _, path string) (archive.Result, error) {
		begun <- q.Stanza
		<-release
		return archive.Result{File: q.Stanza}, nil
	}}))
	dir := dataDirectory(t, "pg_wal/x")
	done := make(chan error, 10)
	ask := func(stanza string) {
		got, err := r.client().Push(context.Background(), Request{Stanza: stanza, Directory: dir, Path: "pg_wal/x"})
		if err == nil && got.File != stanza {
			err = errors.New("the answer is another's: " + got.File)
		}
		done <- err
	}
	go ask("a")
	await(t, begun)
	// One that gives up does not end the push for the others.
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := r.client().Push(ctx, Request{Stanza: "a", Directory: dir, Path: "pg_wal/x"})
		left <- err
	}()
	for range 3 {
		go ask("a")
	}
	cancel()
	if err := await(t, left); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	go ask("b")
	if stanza := await(t, begun); stanza != "b" {
		t.Errorf("a second push for stanza %s", stanza)
	}
	close(release)
	for range 5 {
		if err := await(t, done); err != nil {
			t.Error(err)
		}
	}
}

// TestTheAnswersOfAJoinedPushAreCutApart: each is cut to fit its message, out of one
// result. It tells by the race detector.
func TestTheAnswersOfAJoinedPushAreCutApart(t *testing.T) {
	result := archive.Result{Kept: true, Warnings: []string{strings.Repeat("w", 2*maxWarning)}}
	release := make(chan struct{})
	r := start(t, newServer(t, scripted{push: func(context.Context, Request, string, string) (archive.Result, error) {
		<-release
		return result, nil
	}}))
	dir := dataDirectory(t, "pg_wal/x")
	got := make(chan archive.Result, 4)
	for range 4 {
		go func() {
			one, _ := r.client().Push(context.Background(), Request{Directory: dir, Path: "pg_wal/x"})
			got <- one
		}()
	}
	close(release)
	for range 4 {
		if one := await(t, got); !one.Kept || len(one.Warnings) != 1 || len(one.Warnings[0]) > maxWarning+len(" ...") {
			t.Errorf("%+v", one)
		}
	}
	if len(result.Warnings[0]) != 2*maxWarning {
		t.Error("the result itself was cut")
	}
}

func TestAFileThatIsAnotherByNowIsNotJoined(t *testing.T) {
	begun, release := make(chan string, 10), make(chan struct{})
	r := start(t, newServer(t, scripted{push: func(_ context.Context, _ Request, _, path string) (archive.Result, error) {
		content, err := os.ReadFile(path)
		begun <- string(content)
		<-release
		return archive.Result{File: string(content)}, err
	}}))
	dir := dataDirectory(t, "pg_wal/x")
	files := make(chan string, 2)
	ask := func() {
		got, _ := r.client().Push(context.Background(), Request{Directory: dir, Path: "pg_wal/x"})
		files <- got.File
	}
	go ask()
	await(t, begun)
	if err := os.Remove(filepath.Join(dir, "pg_wal/x")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pg_wal/x"), []byte("pg_wal/y"), 0o600); err != nil {
		t.Fatal(err)
	}
	go ask()
	if got := await(t, begun); got != "pg_wal/y" {
		t.Errorf("pushed %q", got)
	}
	close(release)
	await(t, files)
	await(t, files)
}

func TestAGetWritesOnlyWhereTheClientMay(t *testing.T) {
	r := start(t, newServer(t, scripted{get: func(_ context.Context, q Request, into *os.File) (archive.Got, error) {
		if q.Name == "absent" {
			_, _ = into.WriteString("half")
			return archive.Got{}, archive.ErrAbsent
		}
		_, err := into.WriteString("content of " + q.Name)
		return archive.Got{Repository: "a", Warnings: []string{"w"}}, err
	}}))
	dir := t.TempDir()
	dest := filepath.Join(dir, "RECOVERYXLOG")
	got, err := r.client().Get(t.Context(), Request{Name: "x"}, dest)
	if err != nil || got.Repository != "a" || got.Warnings[0] != "w" {
		t.Errorf("%+v (%v)", got, err)
	}
	if _, err := r.client().Get(t.Context(), Request{Name: "absent"}, dest); !errors.Is(err, archive.ErrAbsent) {
		t.Errorf("error %v", err)
	}
	content, err := os.ReadFile(dest)
	if entries, _ := os.ReadDir(dir); err != nil || string(content) != "content of x" || len(entries) != 1 {
		t.Errorf("%q, %d files (%v)", content, len(entries), err)
	}
	// A descriptor that the client itself could not write by gives it nothing.
	readOnly, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	directory, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for why, file := range map[string]*os.File{"was not opened for writing": readOnly, "is not a regular file": directory, "no destination": nil} {
		_, err := r.client().ask(t.Context(), Request{Operation: opGet, Name: "y"}, file)
		contains(t, err, why)
	}
	_, err = r.client().ask(t.Context(), Request{Operation: opGet, Name: "y"}, null)
	contains(t, err, "is not a regular file")
	if content, err := os.ReadFile(dest); err != nil || string(content) != "content of x" {
		t.Errorf("%q (%v)", content, err)
	}
}

func TestAGetEndsWithItsClient(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	r := start(t, newServer(t, scripted{get: func(ctx context.Context, _ Request, _ *os.File) (archive.Got, error) {
		close(begun)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return archive.Got{}, context.Cause(ctx)
	}}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := r.client().Get(ctx, Request{}, filepath.Join(t.TempDir(), "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := await(t, ended); !errors.Is(err, errLeft) {
		t.Errorf("the get ended by %v", err)
	}
}

func TestTheEndWaitsForWhatWasAccepted(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := start(t, newServer(t, scripted{push: func(context.Context, Request, string, string) (archive.Result, error) {
		close(begun)
		<-release
		return archive.Result{File: "x"}, nil
	}}))
	dir := dataDirectory(t, "pg_wal/x")
	// One who is connected and says nothing is not waited for.
	idle, err := net.Dial("unix", r.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	done := make(chan error, 1)
	go func() {
		got, err := r.client().Push(context.Background(), Request{Directory: dir, Path: "pg_wal/x"})
		if err == nil && got.File != "x" {
			err = errors.New("another answer")
		}
		done <- err
	}()
	await(t, begun)
	r.stop()
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("who asked for nothing got an answer")
	}
	for { // until the socket is gone
		err := r.client().Ping(t.Context())
		if errors.Is(err, ErrAway) {
			break
		}
	}
	if _, err := os.Lstat(r.Socket); err == nil {
		t.Error("the socket is still there")
	}
	select {
	case err := <-r.ended:
		t.Fatalf("the agent ended with work to do (%v)", err)
	default:
	}
	close(release)
	if err := await(t, done); err != nil {
		t.Error(err)
	}
	await(t, r.ended)
	r.ended <- nil
}

func TestTheDrainIsBounded(t *testing.T) {
	begun := make(chan struct{})
	s := newServer(t, scripted{push: func(ctx context.Context, _ Request, _, _ string) (archive.Result, error) {
		close(begun)
		<-ctx.Done()
		return archive.Result{}, ctx.Err()
	}})
	s.Drain = 10 * time.Millisecond
	r := start(t, s)
	dir := dataDirectory(t, "pg_wal/x")
	done := make(chan error, 1)
	go func() {
		_, err := r.client().Push(context.Background(), Request{Directory: dir, Path: "pg_wal/x"})
		done <- err
	}()
	await(t, begun)
	r.end(t)
	err := await(t, done)
	contains(t, err, "the agent is ending: context canceled")
	if !errors.As(err, new(*Failure)) {
		t.Errorf("error %T", err)
	}
}

func TestTheSocketOfAKilledAgentIsTakenOverAndNoOther(t *testing.T) {
	s := newServer(t, scripted{})
	r := start(t, s)
	again := *s
	if err := again.Serve(t.Context(), func() {}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second agent: %v", err)
	}
	if err := r.client().Ping(t.Context()); err != nil {
		t.Errorf("after that the first: %v", err)
	}
	r.end(t)

	// A killed process leaves its socket, on which nobody listens.
	leaveSocket(t, s.Socket)
	if err := (Client{Socket: s.Socket, Clock: time.Now}).Ping(t.Context()); !errors.Is(err, ErrAway) {
		t.Errorf("a socket without an agent: %v", err)
	}
	second := *s
	start(t, &second)

	// Something that answers there is left alone, whoever it is, and so is a file.
	other := filepath.Join(t.TempDir(), "other.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	third := *s
	third.Socket = other
	if err := third.Serve(t.Context(), func() {}); !errors.Is(err, ErrRunning) {
		t.Errorf("another program's socket: %v", err)
	}
	third.Socket = filepath.Join(dataDirectory(t), "global/pg_control")
	contains(t, third.Serve(t.Context(), func() {}), "is there and is not a socket")
	third.Socket = filepath.Join(t.TempDir(), "nowhere", "agent.sock")
	if err := third.Serve(t.Context(), func() {}); !strings.Contains(hint.Of(err), "RuntimeDirectory") {
		t.Errorf("without a directory: %v, hint %q", err, hint.Of(err))
	}
}

func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhoMayAsk(t *testing.T) {
	for _, c := range []struct {
		peer peer
		want bool
	}{
		{peer{uid: 26, groups: nil}, true},
		{peer{uid: 0, groups: nil}, true},
		{peer{uid: 1000, groups: []uint32{5, 70}}, true},
		{peer{uid: 1000, groups: []uint32{5, 26, 0}}, false},
	} {
		if got := c.peer.mayAsk(26, 70); got != c.want {
			t.Errorf("%+v: %v", c.peer, got)
		}
	}
	r := start(t, newServer(t, scripted{}))
	info, err := os.Stat(r.Socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	file := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := peerOf(conn.(*net.UnixConn))
	own, groupsErr := os.Getgroups()
	if err != nil || groupsErr != nil || p.uid != uint32(os.Geteuid()) || len(p.groups) != len(own)+1 {
		t.Errorf("peer %+v (%v), own groups %v (%v)", p, err, own, groupsErr)
	}
}

// hanging is a socket on which somebody listens and does as told.
func hanging(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	return path
}

func TestAnAgentThatHangsOrDiesIsAway(t *testing.T) {
	stay := hanging(t, func(net.Conn) {})
	_, err := Client{Socket: stay, Clock: time.Now, silence: 50 * time.Millisecond}.Push(t.Context(), Request{})
	if !errors.Is(err, ErrAway) {
		t.Errorf("error %v", err)
	}
	contains(t, err, "no sign of life for 50ms")
	die := hanging(t, func(c net.Conn) { _ = c.Close() })
	err = Client{Socket: die, Clock: time.Now}.Ping(t.Context())
	if !errors.Is(err, ErrAway) || hint.Of(err) != startAdvice {
		t.Errorf("error %v", err)
	}
	contains(t, err, "it ended before it had answered")
	other := hanging(t, func(c net.Conn) {
		message, _ := encode(answer{Version: protocolVersion + 1})
		_, _ = c.Write(message)
		_ = c.Close()
	})
	err = Client{Socket: other, Clock: time.Now}.Ping(t.Context())
	if !errors.Is(err, ErrAway) || hint.Of(err) != restartAdvice {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	contains(t, err, "it speaks version 2 of its protocol, this program version 1")
}

// TestWhoeverListensWhereEverybodyMayIsNotBelieved: his "archived" would have
// PostgreSQL throw WAL away that is nowhere.
func TestWhoeverListensWhereEverybodyMayIsNotBelieved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can listen as another user")
	}
	dir, err := os.MkdirTemp("", "agent") // t.TempDir lets no other user in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	listening := make(chan net.Listener, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
		var l net.Listener
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0))
		if errno == 0 {
			l, _ = net.Listen("unix", path)
		}
		listening <- l
	}()
	l := await(t, listening)
	if l == nil {
		t.Fatal("nobody listens")
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			saved, _ := encode(answer{Version: protocolVersion, File: "x"})
			_, _ = conn.Write(saved)
		}
	}()
	c := Client{Socket: path, Clock: time.Now}
	_, err = c.Push(t.Context(), Request{})
	if contains(t, err, "user 65534", dir); !errors.Is(err, ErrAway) || !strings.Contains(hint.Of(err), "agent.socket") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	// Where not everybody may, it is for those who may to say whose the agent is.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Push(t.Context(), Request{}); err != nil {
		t.Error(err)
	}
}

func TestSignsOfLifeKeepAClientWaiting(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, scripted{push: func(context.Context, Request, string, string) (archive.Result, error) {
		<-release
		return archive.Result{File: "x"}, nil
	}})
	s.heartbeat = time.Millisecond
	r := start(t, s)
	c := r.client()
	beats := 0
	c.Clock = func() time.Time { // is asked once for the request, and once for each sign
		if beats++; beats == 20 {
			close(release)
		}
		return time.Now()
	}
	if _, err := c.Push(t.Context(), Request{Directory: dataDirectory(t, "pg_wal/x"), Path: "pg_wal/x"}); err != nil || beats < 20 {
		t.Errorf("after %d signs of life: %v", beats, err)
	}
}

func TestARequestThatIsNotUnderstoodIsAnswered(t *testing.T) {
	r := start(t, newServer(t, scripted{}))
	for text, send := range map[string]func(*net.UnixConn){
		"decode message":            func(c *net.UnixConn) { _, _ = c.Write([]byte("\x00\x00\x00\x03{]}")) },
		"at most 65536 are allowed": func(c *net.UnixConn) { _, _ = c.Write([]byte("\xff\xff\xff\xff")) },
		"unexpected EOF":            func(c *net.UnixConn) { _, _ = c.Write([]byte("\x00\x00\x00\x09{}")); _ = c.CloseWrite() },
		"read message: EOF":         func(c *net.UnixConn) { _ = c.CloseWrite() },
		"the agent speaks version 1 of its protocol, the request is of version 0": func(c *net.UnixConn) { _, _ = c.Write([]byte("\x00\x00\x00\x02{}")) },
		`operation "x" is unknown`: func(c *net.UnixConn) {
			message, _ := encode(Request{Version: protocolVersion, Operation: "x"})
			// More descriptors than one are closed, and none is used.
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Error(err)
				return
			}
			defer null.Close()
			fd := int(null.Fd())
			_, _, _ = c.WriteMsgUnix(message, unix.UnixRights(fd, fd, fd), nil)
		},
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.Socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		send(conn)
		var a answer
		if err := decode(conn, &a); err != nil || a.Failure == nil {
			t.Fatalf("%s: %+v (%v)", text, a, err)
		}
		contains(t, a.Failure, text)
		_ = conn.Close()
	}
	if err := r.client().Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAnAnswerAlwaysFits: whatever an error says, its code and proof arrive.
func TestAnAnswerAlwaysFits(t *testing.T) {
	long := strings.Repeat("\x00\x01<>&\"", 100_000)
	var warnings []string
	var stored []archive.Stored
	for range 1000 {
		warnings, stored = append(warnings, long), append(stored, archive.Stored{Repository: long[:1000]})
	}
	r := start(t, newServer(t, scripted{push: func(context.Context, Request, string, string) (archive.Result, error) {
		return archive.Result{File: "x", Stored: stored, Warnings: warnings}, hint.Wrap(errors.New(long), "%s", long)
	}}))
	got, err := r.client().Push(t.Context(), Request{Directory: dataDirectory(t, "pg_wal/x"), Path: "pg_wal/x"})
	var f *Failure
	if !errors.As(err, &f) || f.Code != 42 || got.File != "x" {
		t.Errorf("%+v (%.100v)", got, err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	whole, err := encode(Request{Version: 1, Operation: opPush, Stanza: "main", Repositories: []string{"a"}, Directory: "/d", Path: "pg_wal/x", Cluster: &Cluster{SystemID: 1, Major: 17, SegmentSize: 1 << 24}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:10])
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x7f\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if err := decode(bytes.NewReader(data), &r); err != nil {
			return
		}
		again, err := encode(r)
		if err != nil {
			return // JSON may grow when it is written by the rules
		}
		var second Request
		if err := decode(bytes.NewReader(again), &second); err != nil {
			t.Errorf("%+v does not come back: %v", r, err)
		}
		if _, _, _, err := locate(r.Directory, r.Path); err == nil && !strings.Contains(filepath.Join(r.Directory, r.Path), "pg_wal") {
			t.Errorf("%+v is no file of a server's", r)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	whole, err := encode((&answer{Version: 1, Failure: &Failure{Code: 7, Text: "x", Hint: "y"}, Warnings: []string{"w"}}).bounded())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("\x00\x00\x00\x10{\"working\":true}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a answer
		if decode(bytes.NewReader(data), &a) == nil {
			if _, err := encode((&answer{Failure: a.Failure, Warnings: a.Warnings}).bounded()); err != nil {
				t.Errorf("what was bounded does not fit: %v", err)
			}
		}
	})
}
