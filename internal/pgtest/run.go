package pgtest

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Start starts the server again after Stop or Kill, with the same sockets, and waits until it accepts connections.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	c.launch(t)
	c.WaitReady(t, readyTimeout)
}

// Restart stops the server (fast) and starts it.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t, "fast")
	c.Start(t)
}

// launch starts the postmaster and does not wait for it to become ready.
func (c *Cluster) launch(t testing.TB) {
	t.Helper()
	if c.Running() {
		t.Fatalf("PostgreSQL %d in %s runs already", c.Major, c.DataDir)
	}
	// On the command line these win over whatever configuration a restored directory brings along.
	args := append([]string{
		"-D", c.DataDir,
		"-c", "unix_socket_directories=" + c.SocketDir,
		"-c", "port=" + strconv.Itoa(c.Port),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "logging_collector=off",
		"-c", "log_destination=stderr",
		// Files in the data directory go with it; those in /dev/shm stay when a server is killed.
		"-c", "dynamic_shared_memory_type=mmap",
	}, c.flags...)
	p, err := startPostmaster(Command(t, filepath.Join(c.binDir, "postgres"), args...), c.logPath())
	if err != nil {
		t.Fatalf("start PostgreSQL %d in %s: %v", c.Major, c.DataDir, err)
	}
	c.postmaster = p
	c.postmasters = append(c.postmasters, p.cmd.Process.Pid)
}

// Running tells whether the postmaster lives. It may be starting or stopping.
func (c *Cluster) Running() bool {
	return c.postmaster != nil && !c.postmaster.exited()
}

// WaitReady waits until the server accepts connections, in recovery too if it is a hot standby, and fails the test
// if it ends before or takes longer.
func (c *Cluster) WaitReady(t testing.TB, timeout time.Duration) {
	t.Helper()
	c.poll(t, timeout, "accept connections", func() (bool, string) {
		_, err := c.TryQuery("select 1")
		if err == nil {
			return true, ""
		}
		return false, err.Error()
	})
}

// WaitFor waits until the query gives the wanted answer, in the form of Query, and fails the test if the
// server ends before or it takes longer. A query that fails (the server may still be starting) is asked again.
func (c *Cluster) WaitFor(t testing.TB, sql, want string, timeout time.Duration) {
	t.Helper()
	c.poll(t, timeout, "answer "+strconv.Quote(want)+" to "+sql, func() (bool, string) {
		got, err := c.TryQuery(sql)
		if err != nil {
			return false, err.Error()
		}
		return got == want, "it answers " + strconv.Quote(got)
	})
}

// poll asks until done says yes, the server has ended, or time is over.
func (c *Cluster) poll(t testing.TB, timeout time.Duration, what string, done func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		ended := !c.Running() // before asking, so that a server that answers and ends is not taken for one that did not
		ok, why := done()
		switch {
		case ok:
			return
		case ended:
			t.Fatalf("PostgreSQL %d in %s ended and will not %s", c.Major, c.DataDir, what)
		case time.Now().After(deadline):
			t.Fatalf("PostgreSQL %d in %s did not %s within %v: %s", c.Major, c.DataDir, what, timeout, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// WaitExit waits until the server ends by itself and returns the postmaster's exit status, or -1 if a signal ended it.
func (c *Cluster) WaitExit(t testing.TB, timeout time.Duration) int {
	t.Helper()
	if c.postmaster == nil {
		t.Fatalf("PostgreSQL %d in %s was never started", c.Major, c.DataDir)
	}
	if !c.postmaster.wait(timeout) {
		t.Fatalf("PostgreSQL %d in %s still runs after %v", c.Major, c.DataDir, timeout)
	}
	return c.postmaster.exitStatus()
}

// Stop stops the server in pg_ctl's mode smart, fast or immediate, and waits until it is gone. A server that is not
// running is left alone.
func (c *Cluster) Stop(t testing.TB, mode string) {
	t.Helper()
	signals := map[string]syscall.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}
	sig, known := signals[mode]
	if !known {
		t.Fatalf("unknown shutdown mode %q (smart, fast, immediate)", mode)
	}
	if !c.Running() {
		return
	}
	c.postmaster.signal(sig)
	if !c.postmaster.wait(readyTimeout) {
		t.Fatalf("PostgreSQL %d in %s did not stop (%s) within %v", c.Major, c.DataDir, mode, readyTimeout)
	}
}

// Kill ends the postmaster and all processes below it, running archive commands included, with SIGKILL, as a
// crash would, and waits until they are gone. Start then begins with crash recovery.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if !c.Running() {
		t.Fatalf("PostgreSQL %d in %s does not run", c.Major, c.DataDir)
	}
	if left := c.postmaster.kill(); len(left) > 0 {
		t.Fatalf("PostgreSQL %d in %s: processes %v survived SIGKILL", c.Major, c.DataDir, left)
	}
}

// Promote ends the recovery of a standby and waits until it is a primary.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	// A query that waits for the promotion can be what replay waits for: a conflict with its snapshot.
	if got := c.Query(t, "select pg_promote(false)"); !strings.HasPrefix(got, "t") {
		t.Fatalf("PostgreSQL %d in %s was not promoted", c.Major, c.DataDir)
	}
	c.WaitFor(t, "select pg_is_in_recovery()", "f", readyTimeout)
}
