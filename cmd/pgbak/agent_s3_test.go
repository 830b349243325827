package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// agentOnS3 is a server that archives by an agent, which alone has the credentials.
type agentOnS3 struct {
	*hosted
	store *s3test.Server
	proxy *s3test.Proxy
	agent *agentProcess
	// Configurations: the agent's, and the same without an agent.
	config, plain string
	secrets       string
}

func newAgentOnS3(t *testing.T) *agentOnS3 {
	t.Helper()
	a := &agentOnS3{store: s3test.MinIO(t, s3test.Options{})}
	a.proxy = s3test.NewProxy(t, a.store)
	bucket := newBucket(t, a.store)
	entry := bucket.repository("s3", a.proxy.URL, "    retry: {attempts: 2, time: 5s}\n")
	a.secrets = bucket.dir + "/secrets"
	entry = strings.ReplaceAll(entry, bucket.dir+"/", a.secrets+"/")
	a.hosted = hostWith(t, configOf(strings.ReplaceAll(entry, a.secrets, "/nowhere"))+
		"agent: {socket: DIR/agent.sock, listen: \"127.0.0.1:0\"}\narchive: {spool: DIR/spool, prefetch: 4MiB}\n", map[string]string{"wal_keep_size": "2GB"})
	asServer(t, "/bin/mkdir", "-m", "700", filepath.Join(a.dir, "spool"))
	if err := os.Mkdir(a.secrets, 0o755); err != nil {
		t.Fatal(err)
	}
	a.mount(t)
	text, err := os.ReadFile(a.hosted.config)
	if err != nil {
		t.Fatal(err)
	}
	a.config, a.plain = filepath.Join(a.dir, "agent.yaml"), filepath.Join(a.dir, "plain.yaml")
	all := strings.ReplaceAll(string(text), "/nowhere", a.secrets)
	plain, _, _ := strings.Cut(all, "agent: ")
	for path, text := range map[string]string{a.config: all, a.plain: plain} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	asServer(t, a.program, "--config", a.config, "init")
	a.begin(t)
	t.Cleanup(func() { a.proxy.On(nil) })
	return a
}

// mount puts the credentials that the store has now into files in the way of a
// kubelet: a link to a directory of the moment is replaced.
func (a *agentOnS3) mount(t *testing.T) {
	t.Helper()
	moment := fmt.Sprintf("..%d", time.Now().UnixNano())
	for name, content := range map[string]string{"key": a.store.AccessKey, "secret": a.store.SecretKey} {
		path := filepath.Join(a.secrets, moment, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+name, filepath.Join(a.secrets, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(moment, filepath.Join(a.secrets, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(a.secrets, "..data_tmp"), filepath.Join(a.secrets, "..data")); err != nil {
		t.Fatal(err)
	}
}

func (a *agentOnS3) begin(t *testing.T) {
	t.Helper()
	a.agent = startAgent(t, a.program, a.config, filepath.Join(a.dir, "agent.sock"))
}

// write makes some segments of WAL.
func (a *agentOnS3) write(t *testing.T) {
	t.Helper()
	a.Exec(t, "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n")
	a.Exec(t, "SELECT pg_switch_wal()")
}

// drained waits until nothing waits to be archived. The server, which pauses for a
// minute after three failures, is woken by more WAL.
func (a *agentOnS3) drained(t *testing.T) {
	t.Helper()
	last := a.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	for deadline := time.Now().Add(3 * time.Minute); a.Query(t, "SELECT coalesce(last_archived_wal, '') >= '"+last+"' FROM pg_stat_archiver") != "t"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not archived\n%s", last, a.Log())
		}
		a.Exec(t, "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()")
	}
}

// said waits for words in the server's log that were not there before.
func (a *agentOnS3) said(t *testing.T, before int, words string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(a.Log()[before:], words); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server does not say %q", words)
		}
	}
}

func (a *agentOnS3) awaitReadiness(t *testing.T, status int) (body string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got, body := a.agent.ask(t, "/readyz")
		if got == status {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent's readiness stays %d: %s", got, body)
		}
	}
}

// killWhile lets the first request of a kind for a WAL object hang, and kills the agent meanwhile.
func (a *agentOnS3) killWhile(t *testing.T, method string) (killed <-chan struct{}) {
	t.Helper()
	done, hanging := make(chan struct{}), make(chan struct{})
	var begun atomic.Bool
	a.proxy.On(func(r s3test.Request) s3test.Fault {
		if r.Method != method || !strings.Contains(r.Path, "/wal/") || strings.Contains(r.Path, "history") {
			return s3test.None
		}
		if begun.CompareAndSwap(false, true) {
			close(hanging)
		}
		return s3test.Hang
	})
	p := a.agent
	go func() {
		defer close(done)
		<-hanging
		p.kill()
		a.proxy.On(nil)
	}()
	return done
}

// TestTheAgentOnS3 lets happen to an agent what happens: its store goes and comes back, its
// credentials are replaced, and it is killed with a request on its way.
func TestTheAgentOnS3(t *testing.T) {
	a := newAgentOnS3(t)
	a.Stop(t, "fast")
	stopped := filepath.Join(a.dir, "copy")
	(&archived{}).copyTo(t, a.DataDir, stopped)
	a.Start(t)
	a.Exec(t, "CREATE TABLE t (n int, filler text)")
	a.write(t)
	a.drained(t)
	if n := a.agent.metric(t, "pgbak_agent_pushed_files_total"); n < 4 {
		t.Errorf("the agent stored %v files", n)
	}
	// The server itself could not have.
	if o := a.run(t, "repo", "check"); o.code == exitOK {
		t.Error("the server has credentials")
	} else {
		contains(t, o.stderr, "credentials: stat /nowhere/")
	}
	a.awaitReadiness(t, http.StatusOK)

	at := len(a.Log())
	a.store.Stop()
	a.write(t)
	a.said(t, at, "archive command failed with exit code 7")
	contains(t, a.awaitReadiness(t, http.StatusServiceUnavailable), `repository "s3"`)
	a.store.Start()
	a.drained(t)

	at = len(a.Log())
	a.store.Stop()
	a.store.AccessKey, a.store.SecretKey = "AK-the-second-one", "the-second-secret-key"
	a.store.Start()
	a.write(t)
	a.said(t, at, "InvalidAccessKeyId")
	a.mount(t)
	a.drained(t)
	a.awaitReadiness(t, http.StatusOK) // by the same agent, with other credentials

	at = len(a.Log())
	killed := a.killWhile(t, http.MethodPut)
	a.write(t)
	<-killed
	a.said(t, at, "the agent does not answer")
	a.begin(t)
	a.drained(t)
	rows := a.Query(t, "SELECT count(*) FROM t")
	a.Stop(t, "immediate")
	for _, secret := range []string{a.store.SecretKey, a.store.AccessKey} {
		if strings.Contains(a.Log()+a.agent.log.String(), secret) {
			t.Errorf("the credential %s is in a log", secret)
		}
	}
	if n := compareAcknowledged(t, a.DataDir, a.plain); n < 12 {
		t.Errorf("only %d files were archived", n)
	}
	a.recovers(t, stopped, rows)
}

// recovers starts a server on a copy; the agent is killed in the middle of a get.
func (a *agentOnS3) recovers(t *testing.T, data, rows string) {
	t.Helper()
	signal := filepath.Join(data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, signal)
	settings := map[string]string{"archive_mode": "off",
		"restore_command": fmt.Sprintf(`%s --config %s --log-level debug archive-get %%f "%%p"`, a.program, a.hosted.config)}
	killed := a.killWhile(t, http.MethodGet)
	c := pgtest.Open(t, data, 17, settings)
	<-killed
	if c.WaitExit(t, 2*time.Minute) == 0 {
		t.Error("the server ended as if it had been asked to")
	}
	if tli := timelineOf(t, data); tli != 1 {
		t.Errorf("the server promoted to timeline %d", tli)
	}
	contains(t, c.Log(), "the agent does not answer")
	a.begin(t)
	c = pgtest.Open(t, data, 17, settings)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 2*time.Minute)
	if got := c.Query(t, "SELECT count(*) FROM t"); got != rows {
		t.Errorf("%s rows came back, want %s", got, rows)
	}
	if a.agent.metric(t, "pgbak_agent_fetched_files_total") == 0 {
		t.Error("the agent fetched nothing")
	}
	contains(t, c.Log(), "ahead=true")
}
