package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// haltedBackup starts a backup with enough content that the first pack is stored
// long before the copy ends, and halts it there by SIGSTOP. args are further flags.
func haltedBackup(t *testing.T, h *host, args ...string) *process {
	t.Helper()
	packs := func() int {
		found, _ := filepath.Glob(filepath.Join(h.repo, "packs", "*", "*")) // fails on a bad pattern only
		return len(found)
	}
	before := packs()
	p := h.start(t, append([]string{"backup", "--output", "json", "--archive-timeout", "30s"}, args...)...)
	t.Cleanup(func() { _ = p.Process.Kill() })
	for deadline := time.Now().Add(time.Minute); packs() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no pack was stored")
		}
	}
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid)); err == nil && strings.Contains(string(stat), ") T ") {
			if len(h.sessions(t)) != 1 {
				t.Fatalf("the sessions are %q, want that of the backup", h.sessions(t))
			}
			return p
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the backup was not halted during the copy")
	return nil
}

// sessions are the process ids of the other sessions on the server.
func (h *host) sessions(t *testing.T) []string {
	t.Helper()
	return strings.Fields(h.Query(t, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'pgbench'"))
}

func (p *process) goOn(t *testing.T) outcome {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	return p.end()
}

// newBallastHost is a host whose backup takes several packs.
func newBallastHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t, hostOptions{})
	ballast(t, h.DataDir, "ballast", 192<<20)
	return h
}

func TestABackupThatIsHaltedForAWhileIsRight(t *testing.T) {
	t.Parallel()
	h := newBallastHost(t)
	pgtest.Pgbench(t, h.Cluster, "-i", "-q")
	p := haltedBackup(t, h)
	w := startTraffic(t, h.Cluster, "-c", "2", "-R", "300")
	h.Exec(t, "CREATE TABLE made_meanwhile AS SELECT n, md5(n::text) FROM generate_series(1, 10000) n")
	h.Exec(t, "CHECKPOINT")
	time.Sleep(time.Second)
	w.mustMove(t)
	o := p.goOn(t)
	w.stop(t)
	if o.code != codeOK {
		t.Fatalf("exit %d\n%s", o.code, o.stderr)
	}
	b := parseTaken(t, o).Backup
	if b.ErrorCount != 0 || b.Stop.Time.Sub(b.Start.Time) < time.Second {
		t.Errorf("backup %+v", b)
	}
	want := committed(t, h.Cluster)
	switchWAL(t, h.Cluster)
	for _, target := range [][]string{nil, {"--type", "immediate", "--target-action", "promote"}} {
		into := filepath.Join(pgtest.TempDir(t), "data")
		h.expect(t, codeOK, append([]string{"restore", "--target-dir", into, "--archive-mode", "off"}, target...)...)
		verifyBackup(t, into)
		c := pgtest.Open(t, into, h.Major, nil)
		c.WaitFor(t, inRecovery, "f", time.Minute)
		if target == nil {
			sameText(t, "the committed state", committed(t, c), want)
		}
		if n := c.Query(t, "SELECT count(*) FROM made_meanwhile"); n != "10000" {
			t.Errorf("the table that was made during the copy has %s rows", n)
		}
		balanced(t, c)
		c.Exec(t, "CREATE EXTENSION amcheck")
		checkStructure(t, c)
		c.Stop(t, "immediate")
	}
}

// TestABackupFailsWhenItsServerOrSessionIsLost: the files of a server that was
// started again do not belong to the backup that was begun before.
func TestABackupFailsWhenItsServerOrSessionIsLost(t *testing.T) {
	t.Parallel()
	h := newBallastHost(t)
	for _, c := range []struct {
		title  string
		strike func(t *testing.T)
	}{
		{"the server crashes", func(t *testing.T) { h.Kill(t) }},
		{"the server crashes and is started again", func(t *testing.T) { h.Kill(t); h.Start(t) }},
		{"the server is stopped and started again", func(t *testing.T) { h.Restart(t) }},
		{"the session is terminated", func(t *testing.T) {
			if done := h.Query(t, "SELECT pg_terminate_backend("+h.sessions(t)[0]+")"); done != "t" {
				t.Fatalf("the session was not terminated: %s", done)
			}
		}},
	} {
		t.Run(c.title, func(t *testing.T) {
			if !h.Running() {
				h.Start(t)
			}
			// As a collector would: else it resumes the one that failed, and stores next to nothing.
			if err := os.RemoveAll(filepath.Join(h.repo, "pins")); err != nil {
				t.Fatal(err)
			}
			p := haltedBackup(t, h)
			c.strike(t)
			o := p.goOn(t)
			if o.code != codeServer {
				t.Errorf("exit %d, want %d", o.code, codeServer)
			}
			says(t, o.stderr, "pgbak: ", "the session with the server is lost", "\nhint: ")
			if strings.Contains(o.stderr, "goroutine") || strings.Contains(o.stderr, "panic") {
				t.Error("that is no plain error")
			}
			if n := len(h.backups(t)); n != 0 {
				t.Errorf("%d backups are listed", n)
			}
		})
	}
	if !h.Running() {
		h.Start(t)
	}
	h.backup(t)
}

// TestAnInterruptedBackupEndsAtOnceAndLeavesNothing is Ctrl-C.
func TestAnInterruptedBackupEndsAtOnceAndLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newBallastHost(t)
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		p := haltedBackup(t, h)
		if err := p.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if o := p.goOn(t); o.code != code {
			t.Errorf("%v: exit %d, want %d\n%s", signal, o.code, code, o.stderr)
		}
		h.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0", 10*time.Second)
		if n := len(h.backups(t)); n != 0 {
			t.Errorf("%d backups are listed", n)
		}
	}
	h.backup(t)
}
