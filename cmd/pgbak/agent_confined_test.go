package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// confine is run by sh in namespaces of its own for mounts and processes, with the test's
// directory, the data directory and where it is seen instead, and the command. Only
// three directories can be written.
const confine = `set -e
dir=$1 data=$2 volume=$3 user=$4 group=$5
shift 5
mount --make-rprivate /
mount --bind "$data" "$volume"
mount -o remount,bind,ro "$volume"
mount -t tmpfs -o ro none "$data"
for d in run spool repo; do mount --bind "$dir/$d" "$dir/$d"; done
mount -o remount,bind,ro /
exec setpriv --reuid "$user" --regid "$user" --groups "$group" --no-new-privs --bounding-set=-all --inh-caps=-all -- env -i "$@"
`

// TestTheAgentInAContainer runs the agent as a sidecar does that shares as little as possible
// with the server: a user of its own that has no name and no home, no environment, a root
// that is read-only, no capabilities, process 1 of its own process namespace, and the
// data directory, read-only, under another path. The two have one group in common.
func TestTheAgentInAContainer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: only root makes namespaces with other mounts")
	}
	const user = 64999
	dir, program := pgtest.TempDir(t), pgtest.BuildPgbak(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, config := range map[string]string{"server.yaml": strings.Replace(plainConfig, "DIR/repo", "/nowhere", 1), "agent.yaml": strings.Replace(plainConfig, "DIR/data", "DIR/volume", 1)} {
		config += "agent: {socket: DIR/run/agent.sock, listen: \"127.0.0.1:0\"}\narchive: {spool: DIR/spool}\n"
		if err := os.WriteFile(at(name), []byte(strings.ReplaceAll(config, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := pgtest.Start(t, pgtest.Options{Major: 17, SegmentSizeMB: 1, Dir: at("data"),
		Config: map[string]string{"archive_mode": "on", "archive_command": fmt.Sprintf("%s --config %s --log-level debug archive-push %%p", program, at("server.yaml"))}})
	c.Stop(t, "fast")
	group := groupReads(t, c.DataDir)
	c.Start(t)
	for name, mode := range map[string]os.FileMode{"volume": 0o755, "repo": 0o700, "spool": 0o700, "run": 0o770 | os.ModeSetgid} {
		err := os.Mkdir(at(name), 0o700)
		if err == nil && name != "volume" {
			err = os.Chown(at(name), user, group)
		}
		if err == nil {
			err = os.Chmod(at(name), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) *exec.Cmd {
		all := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", confine, "confine", dir, c.DataDir, at("volume"), strconv.Itoa(user), strconv.Itoa(group)}
		cmd := exec.Command("unshare", append(append(all, program, "--config", at("agent.yaml")), args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		return cmd
	}
	if out, err := run("init").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := runAgentProcess(t, run("agent"), at("run/agent.sock"))
	c.Exec(t, "CREATE TABLE t AS SELECT n, repeat('x', 200) AS filler FROM generate_series(1, 20000) n")
	last := c.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t", 2*time.Minute)
	if n := p.metric(t, "pgbak_agent_pushed_files_total"); n < 4 {
		t.Errorf("the agent stored %v files", n)
	}
	if names, err := filepath.Glob(at("spool/main/push/*")); err != nil || len(names) < 4 {
		t.Errorf("%d acknowledgements are in the spool (%v)", len(names), err)
	}
	// What was fetched for the server's user lies where only the agent's user could have taken it: it comes by descriptor.
	for _, name := range []string{last, "00000001.history"} {
		cmd := pgtest.Command(t, program, "--config", at("server.yaml"), archiveGetName, name, "pg_wal/RECOVERYXLOG")
		cmd.Dir = c.DataDir
		out, err := cmd.CombinedOutput()
		if absent := name != last; absent != (cmd.ProcessState.ExitCode() == exitFailed) || !absent && err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	want, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", last))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal/RECOVERYXLOG")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s came back with %d bytes (%v)", last, len(got), err)
	}
	if n := p.metric(t, "pgbak_agent_fetched_files_total"); n != 1 {
		t.Errorf("the agent fetched %v files, want 1", n)
	}
	p.endsByTERM(t)
}

// groupReads lets the group of a data directory read it, as initdb -g does, and
// gives that group.
func groupReads(t *testing.T, data string) (group int) {
	t.Helper()
	if out, err := exec.Command("chmod", "-R", "g=rX", data).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Gid)
}

// endsByTERM ends an agent that is process 1 below another process.
func (p *agentProcess) endsByTERM(t *testing.T) {
	t.Helper()
	pid := p.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(child, syscall.SIGTERM)
	}
	if err == nil {
		err = p.cmd.Wait()
	}
	if err != nil {
		t.Errorf("the agent's end: %v\n%s", err, p.log.String())
	}
	contains(t, p.log.String(), "the agent has ended")
}
