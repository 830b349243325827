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

// aheadSite is a site with a spool, whose data directory is the working
// directory, and 8 segments in the repository.
type aheadSite struct {
	*site
	spool string
}

func ahead(t *testing.T) *aheadSite {
	t.Helper()
	spool := t.TempDir()
	if err := os.Chmod(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &aheadSite{newSite(t, plainConfig+"archive: {spool: "+spool+", prefetch: 64MiB}\n"), spool}
	s.mustRun(t, "init")
	_, content := s.writeSegment(t)
	for n := uint64(3); n < 11; n++ {
		name := fmt.Sprintf("0000000100000000%08X", n)
		s.write(t, name, segmentAt(content, n))
		s.mustRun(t, "archive-push", s.path(name))
		remove(t, s.path(name))
	}
	s.write(t, "global/pg_control", sample(t, 17, "pg_control.production.gz"))
	s.write(t, "pg_wal/x", nil)
	return s
}

// segmentAt is a segment with the address of number n.
func segmentAt(content []byte, n uint64) []byte {
	c := bytes.Clone(content)
	address := n * uint64(len(c))
	for i := range 8 {
		c[8+i] = byte(address >> (8 * i))
	}
	return c
}

// prefetching finds the process that fetches ahead for the site; 0 if there is none.
func (s *site) prefetching(t *testing.T) int {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		line, err := os.ReadFile(path)
		words := strings.Split(string(line), "\x00")
		if err == nil && len(words) > 5 && words[5] == archivePrefetchName && strings.HasPrefix(words[2], s.dir+"/") {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// endPrefetching asks the process to end and waits until it has.
func (s *site) endPrefetching(t *testing.T) {
	t.Helper()
	until(t, "the prefetcher ended", func() bool {
		pid := s.prefetching(t)
		if pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		return pid == 0
	})
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain that %s", what)
		}
	}
}

func (s *aheadSite) queued(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.spool, "main/get/*/0*-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestArchiveGetStartsAProcessThatFetchesAhead(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	contains(t, s.mustRun(t, "--log-level", "debug", "archive-get", "000000010000000000000003", "pg_wal/RECOVERYXLOG").stderr, "ahead=false", "fetching ahead")
	until(t, "the queue were full", func() bool { return s.queued(t) == 4 })
	pid := s.prefetching(t)
	if session, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0); errno != 0 || int(session) != pid {
		t.Errorf("process %d is in session %d", pid, session)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != "/" {
		t.Errorf("it works in %s, %v", dir, err)
	}
	for fd := range 3 {
		if file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err != nil || file != os.DevNull {
			t.Errorf("its file %d is %s, %v", fd, file, err)
		}
	}
	for n := 4; n < 11; n++ {
		o := s.mustRun(t, "--log-level", "debug", "archive-get", fmt.Sprintf("0000000100000000%08X", n), "pg_wal/RECOVERYXLOG")
		contains(t, o.stderr, "ahead=true")
	}
	if p := s.prefetching(t); p != pid {
		t.Errorf("process %d does the work of %d", p, pid)
	}
	if o := s.run(t, "archive-get", "00000001000000000000000B", "pg_wal/RECOVERYXLOG"); o.code != exitFailed {
		t.Errorf("behind the last: exit %d\n%s", o.code, o.stderr)
	}
}

// The same cluster has been restored to the past, has gone another way and has
// archived that under the same url; this copy of it is restored from there now.
func TestACopyThatIsRestoredAnewIsNotServedFromTheOldQueue(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	s.write(t, "PG_VERSION", []byte("17\n"))
	s.mustRun(t, "archive-get", "000000010000000000000003", "pg_wal/RECOVERYXLOG")
	until(t, "the queue were full", func() bool { return s.queued(t) == 4 })

	remove(t, s.path("PG_VERSION"))
	s.write(t, "PG_VERSION", []byte("17\n"))
	const name = "000000010000000000000004"
	if err := os.RemoveAll(s.path("repo")); err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, "init")
	_, content := s.writeSegment(t)
	content = segmentAt(content, 4)
	content[len(content)-1] ^= 1
	s.write(t, name, content)
	s.mustRun(t, "archive-push", s.path(name))
	s.mustRun(t, "archive-get", name, "pg_wal/RECOVERYXLOG")
	if got, err := os.ReadFile(s.path("pg_wal/RECOVERYXLOG")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s came from the archive of before (%v)", name, err)
	}
}

func TestWhatIsOpenInTheServerIsNotOpenInThePrefetcher(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	cmd := exec.Command("sh", "-c", `exec 7<pgbak.yaml; "$0" --config pgbak.yaml archive-get 000000010000000000000003 pg_wal/RECOVERYXLOG`, s.program)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	until(t, "the queue were full", func() bool { return s.queued(t) == 4 })
	pid := s.prefetching(t)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil && file == s.config {
			t.Errorf("file %s is %s", fd.Name(), file)
		}
	}
}

func TestNothingIsFetchedAheadForOthersThanRecovery(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	get := func(dest string) string {
		return s.mustRun(t, "--log-level", "debug", "archive-get", "000000010000000000000003", dest).stderr
	}
	s.write(t, "postmaster.pid", []byte("17\n"+s.dir+"\n"))
	// pg_rewind:
	if log := get("pg_wal/000000010000000000000003"); strings.Contains(log, "fetching ahead") || s.prefetching(t) != 0 || s.queued(t) != 0 {
		t.Errorf("process %d\n%s", s.prefetching(t), log)
	}
	contains(t, get("pg_wal/RECOVERYXLOG"), "fetching ahead")
}

// TestWherePostgreSQLIsProcess1TheCallItselfFetchesAhead, and leaves nobody behind.
func TestWherePostgreSQLIsProcess1TheCallItselfFetchesAhead(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	s.write(t, "postmaster.pid", []byte("1\n"+s.dir+"\n"))
	filled := 0
	for n := 3; n < 11; n++ {
		o := s.mustRun(t, "--log-level", "debug", "archive-get", fmt.Sprintf("0000000100000000%08X", n), "pg_wal/RECOVERYXLOG")
		contains(t, o.stderr, fmt.Sprint("ahead=", n > 3))
		if strings.Contains(o.stderr, "WARN") {
			t.Error(o.stderr)
		}
		if strings.Contains(o.stderr, "before the end of this call") {
			filled++
		}
		if pid := s.prefetching(t); pid != 0 {
			t.Errorf("process %d was left behind", pid)
		}
		if want := min(4, 10-n); n == 3 && s.queued(t) != want {
			t.Errorf("behind %d the queue holds %d, want %d", n, s.queued(t), want)
		}
	}
	if filled == 0 || filled == 8 {
		t.Errorf("%d of 8 calls filled the queue", filled)
	}
	if o := s.run(t, "archive-get", "00000001000000000000000B", "pg_wal/RECOVERYXLOG"); o.code != exitFailed {
		t.Errorf("behind the last: exit %d\n%s", o.code, o.stderr)
	}
}

// TestWhatFailsInTheBackgroundIsToldByTheNextCall: the prefetcher's own words go nowhere.
func TestWhatFailsInTheBackgroundIsToldByTheNextCall(t *testing.T) {
	s := ahead(t)
	t.Cleanup(func() { s.endPrefetching(t) })
	found, err := filepath.Glob(s.path("repo/wal/*/*/*/*/000000010000000000000005"))
	if err != nil || len(found) != 1 {
		t.Fatalf("objects %q, %v", found, err)
	}
	content, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.Chmod(found[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(found[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(n int) outcome {
		return s.run(t, "archive-get", fmt.Sprintf("0000000100000000%08X", n), "pg_wal/RECOVERYXLOG")
	}
	if o := get(3); o.code != exitOK || o.stderr != "" {
		t.Errorf("exit %d\n%s", o.code, o.stderr)
	}
	until(t, "the failure were noted", func() bool {
		found, err := filepath.Glob(filepath.Join(s.spool, "main/get/*/trouble"))
		return err == nil && len(found) == 1
	})
	s.endPrefetching(t)
	o := get(4)
	contains(t, o.stderr, "level=WARN", "fetching ahead: at 20", "get 000000010000000000000005 from repository ", "damaged")
	if o.code != exitOK || strings.Count(strings.TrimSpace(o.stderr), "\n") != 0 {
		t.Errorf("exit %d, not one line\n%s", o.code, o.stderr)
	}
}

func TestASpoolThatCannotBeUsedIsAWarning(t *testing.T) {
	s := ahead(t)
	if err := os.Chmod(s.spool, 0o777); err != nil {
		t.Fatal(err)
	}
	o := s.mustRun(t, "archive-get", "000000010000000000000003", "pg_wal/RECOVERYXLOG")
	contains(t, o.stderr, "nothing is fetched ahead", "can be written by others")
	s.write(t, "pgbak.yaml", []byte(strings.ReplaceAll(plainConfig+"archive: {spool: DIR/spool}\n", "DIR", s.dir)))
	o = s.mustRun(t, "archive-get", "000000010000000000000003", "pg_wal/RECOVERYXLOG")
	contains(t, o.stderr, "nothing is fetched ahead", "is in the data directory")
	if s.prefetching(t) != 0 {
		t.Error("something is fetched ahead")
	}
}

// TestRecoveryOutlivesAPrefetcherThatIsKilled kills it again and again while a
// server recovers, and its storage stays what it is.
func TestRecoveryOutlivesAPrefetcherThatIsKilled(t *testing.T) {
	a := newArchived(t, 17).withSpool(t)
	s := &site{dir: a.dir}
	kills := 0
	for round := range 3 {
		c := a.recover(t, "recovery.signal")
		for delay := time.Duration(round) * time.Millisecond; ; delay += 3 * time.Millisecond {
			if pid := s.prefetching(t); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
			if out, err := c.TryQuery("SELECT pg_is_in_recovery()"); err == nil && out == "f" {
				break
			}
			time.Sleep(delay % (40 * time.Millisecond))
		}
		if rows := c.Query(t, "SELECT count(*) FROM t"); rows != a.rows {
			t.Errorf("%s rows, want %s", rows, a.rows)
		}
		c.Stop(t, "fast")
	}
	if kills == 0 {
		t.Error("none was killed")
	}
	t.Logf("%d were killed", kills)
}

// TestRecoveryThroughATimelineSwitchIsServedAhead has a server promote, archive and
// write on timeline 2, and recovers the first copy once more, along both timelines.
func TestRecoveryThroughATimelineSwitchIsServedAhead(t *testing.T) {
	a := newArchived(t, 16)
	b := a.withSpool(t)
	data := filepath.Join(a.dir, "promoted")
	a.copyTo(t, a.copy, data)
	signal := filepath.Join(data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, signal)
	c := pgtest.Open(t, data, a.major, map[string]string{"restore_command": a.restoreCommand, "archive_mode": "on",
		"archive_command": strings.Replace(a.restoreCommand, `get %f "%p"`, "push %p", 1)})
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	c.Exec(t, "INSERT INTO t SELECT n, repeat('y', 100) FROM generate_series(1, 40000) n")
	c.Exec(t, "SELECT pg_switch_wal()")
	rows := c.Query(t, "SELECT count(*) FROM t")
	c.Stop(t, "fast") // and all is archived

	again := b.recover(t, "recovery.signal")
	again.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if got := again.Query(t, "SELECT count(*) FROM t"); got != rows {
		t.Errorf("%s rows, want %s", got, rows)
	}
	if tli := again.Query(t, "SELECT timeline_id FROM pg_control_checkpoint()"); tli == "1" {
		t.Error("it did not follow timeline 2")
	}
	for _, timeline := range []string{"00000001", "00000002"} {
		served := 0
		for line := range strings.Lines(again.Log()) {
			if strings.Contains(line, "file="+timeline+"0") && strings.Contains(line, "ahead=true") {
				served++
			}
		}
		t.Logf("%d segments of timeline %s were served ahead", served, timeline)
		if served == 0 {
			t.Errorf("no segment of timeline %s was served ahead", timeline)
		}
	}
	again.Stop(t, "fast")
	until(t, "the prefetcher ended with recovery", func() bool { return (&site{dir: a.dir}).prefetching(t) == 0 })
}
