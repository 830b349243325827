package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// TestTheAgentOnEveryMajor is the law about archiving and recovery where both go by the
// agent: every other file is pushed by it, the rest without, and all are fetched by
// it. It is killed before a recovery, and before a standby's start.
func TestTheAgentOnEveryMajor(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			testAgentOn(t, major)
		})
	}
}

func testAgentOn(t *testing.T, major int) {
	program := pgtest.BuildPgbak(t)
	var p *agentProcess
	var config string
	begin := func() { p = startAgent(t, program, config, filepath.Join(filepath.Dir(config), "agent.sock")) }
	a := newArchivedBy(t, major,
		"case %%f in *[02468ACE]) %[1]s --config %[2]s/agent.yaml archive-push %%p;; *) %[1]s --config %[2]s/pgbak.yaml archive-push %%p;; esac",
		func(dir string) { config = agentBeside(t, dir); begin() })
	if n := p.metric(t, "pgbak_agent_push_requests_total"); n < 4 {
		t.Errorf("the agent was asked to push %v times", n)
	}
	if n := p.metric(t, "pgbak_agent_pushed_files_total"); n < 4 {
		t.Errorf("the agent stored %v files", n)
	}
	a.restoreCommand = fmt.Sprintf(`%s --config %s --log-level debug archive-get %%f "%%p"`, program, config)
	killed := func(*testing.T) func() { p.kill(); return begin }
	t.Run("recovery ends with every row", func(t *testing.T) {
		c := a.recover(t, "recovery.signal")
		c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
		if rows := c.Query(t, "SELECT count(*) FROM t"); rows != a.rows {
			t.Errorf("%s rows, want %s", rows, a.rows)
		}
		// The rest the client itself took out of the spool.
		if p.metric(t, "pgbak_agent_fetched_files_total") == 0 || p.metric(t, "pgbak_agent_absent_files_total") == 0 {
			t.Error("the agent fetched nothing, or nothing was absent")
		}
		contains(t, c.Log(), "ahead=true")
	})
	t.Run("without the agent recovery stops", func(t *testing.T) { a.stops(t, killed) })
	t.Run("without the repository recovery stops", func(t *testing.T) { a.stops(t, a.breakStorage) })
	t.Run("a standby outlives the agent", func(t *testing.T) { a.waits(t, killed) })
	if p.metric(t, "pgbak_agent_fetched_files_total") == 0 {
		t.Error("the standby did not ask the agent that came back")
	}
}

// agentBeside makes pgbak.yaml in dir into agent.yaml, with a spool and an agent.
func agentBeside(t *testing.T, dir string) (config string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pgbak.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	asServer(t, "/bin/mkdir", "-m", "700", filepath.Join(dir, "spool"))
	config = filepath.Join(dir, "agent.yaml")
	text = fmt.Appendf(text, "agent: {socket: %s/agent.sock, listen: \"127.0.0.1:0\"}\narchive: {spool: %s/spool, prefetch: 4MiB}\n", dir, dir)
	if err := os.WriteFile(config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return config
}
