package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// TestAReceiverThatIsKilledLeavesNoGap kills archive-receive at random moments
// under load, while the repository comes and goes, and compares in the end every
// segment with the server's own.
func TestAReceiverThatIsKilledLeavesNoGap(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "2GB"}}})
	pgtest.Pgbench(t, h.Cluster, "-i", "-q")
	dir := pgtest.TempDir(t)
	r := h.receive(t, dir)
	// The first segment of which the receiver has all is the one that it began with.
	first := h.Query(t, "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE slot_name = 'receiver'")
	w := startTraffic(t, h.Cluster, "-c", "2")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	for n := range 8 {
		away := n%3 == 1
		if away {
			h.repositoryIs(t, false)
		}
		h.Exec(t, "SELECT pg_switch_wal()") // otherwise a round has no segment that is complete
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		if err := r.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if o := r.end(); o.code != -1 {
			t.Fatalf("archive-receive was not killed, it ended with %d:\n%s", o.code, o.stderr)
		}
		if away {
			h.repositoryIs(t, true)
		}
		r = h.receive(t, dir)
	}
	w.mustMove(t)
	w.stop(t)
	last := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	h.sameSegments(t, first, last)
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if o := r.end(); o.code != codeOK {
		t.Errorf("archive-receive ended with %d:\n%s", o.code, o.stderr)
	}
}

// repositoryIs takes the right to enter the repository away, or gives it back. To
// move it away would not do: who has it open goes on in the moved directory.
func (h *host) repositoryIs(t *testing.T, there bool) {
	t.Helper()
	mode := os.FileMode(0)
	if there {
		mode = 0o750
	}
	if err := os.Chmod(h.repo, mode); err != nil {
		t.Fatal(err)
	}
}

// sameSegments waits until the last segment is archived, and compares all from
// first on with the server's.
func (h *host) sameSegments(t *testing.T, first, last string) {
	t.Helper()
	dest := filepath.Join(pgtest.TempDir(t), "segment")
	names := strings.Fields(h.Query(t, fmt.Sprintf("SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name BETWEEN '%s' AND '%s' ORDER BY 1", first, last)))
	if len(names) < 8 {
		t.Errorf("there are %d segments only", len(names))
	}
	deadline := time.Now().Add(2 * time.Minute)
	for _, name := range names {
		for {
			p := h.start(t, "archive-get", name, dest)
			if o := p.end(); o.code == codeOK {
				break
			} else if o.code != codeFailed || time.Now().After(deadline) {
				t.Fatalf("%s is not archived: exit %d\n%s", name, o.code, o.stderr)
			}
			time.Sleep(100 * time.Millisecond)
		}
		got, err1 := os.ReadFile(dest)
		want, err2 := os.ReadFile(filepath.Join(h.DataDir, "pg_wal", name))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is archived with other content than the server's", name)
		}
	}
}

// TestReceivedWALIsRestoredAcrossAPromotion has the new timeline, its history and
// all of its WAL in the receiver's directory only.
func TestReceivedWALIsRestoredAcrossAPromotion(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			p := newHost(t, hostOptions{cluster: pgtest.Options{Major: major}})
			p.Exec(t, "CREATE TABLE rows (name text)")
			s := withStandby(t, p)
			p.backup(t)
			s.Exec(t, "SELECT 1")
			s.follow(t, p.config, s.DSN(), "postgres")
			dir := pgtest.TempDir(t)
			r := s.receive(t, dir)
			p.Exec(t, "INSERT INTO rows VALUES ('archived')")
			switchWAL(t, p.Cluster)
			p.repositoryIs(t, false)
			p.Exec(t, "INSERT INTO rows VALUES ('old timeline')")
			s.WaitFor(t, "SELECT count(*) FROM rows", "2", time.Minute) // it does not wait for the standby
			p.Kill(t)
			s.Promote(t)
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
			s.Exec(t, "INSERT INTO rows VALUES ('new timeline')")
			s.Exec(t, "SELECT pg_switch_wal()")
			s.Exec(t, "INSERT INTO rows VALUES ('partial segment')")
			s.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()", "1", time.Minute)
			target := filepath.Join(pgtest.TempDir(t), "restored")
			o := s.expect(t, codeRefused, "restore", "--target-dir", target, "--received", dir)
			says(t, o.stderr, "is used by another process", "hint: ", "stop it first")
			s.Kill(t)
			_ = r.Process.Kill()
			_ = r.end()
			p.repositoryIs(t, true)

			s.restoredRows(t, "archived,old timeline,new timeline,partial segment", "--received", dir)
			s.restoredRows(t, "archived,old timeline,new timeline,partial segment", "--received", dir, "--target-timeline", "2")
			s.restoredRows(t, "archived", "--target-timeline", "current")
			says(t, s.restoredRows(t, "archived,old timeline", "--received", dir, "--target-timeline", "current").stdout,
				"on timeline 2, which is not on the way to timeline 1", "--target-timeline 2 follows it")
			if major != slices.Max(pgtest.Majors()) {
				return
			}
			other := newHost(t, hostOptions{cluster: pgtest.Options{Major: major}})
			other.backup(t)
			o = other.expect(t, codeRefused, "restore", "--target-dir", target, "--received", dir)
			says(t, o.stderr, "holds WAL of another cluster", "hint: ", "leave --received out")
			if exists(target) {
				t.Errorf("a restore that was refused has made %s", target)
			}
		})
	}
}

// restoredRows restores, and looks which rows are there.
func (h *host) restoredRows(t *testing.T, want string, args ...string) outcome {
	t.Helper()
	target := filepath.Join(pgtest.TempDir(t), "restored")
	o := h.expect(t, codeOK, append([]string{"restore", "--target-dir", target}, args...)...)
	c := pgtest.Open(t, target, h.Major, map[string]string{"archive_mode": "off"})
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 2*time.Minute)
	if got := c.Query(t, "SELECT string_agg(name, ',') FROM rows"); got != want {
		t.Errorf("%v: rows %q, want %q\n%s", args, got, want, o.stdout)
	}
	c.Stop(t, "immediate")
	return o
}

// TestThePrimaryDiesWhileItsFirstSegmentIsReceivedAgain is about the segment in which
// a timeline begins. It comes again from its first byte, and what of it was
// acknowledged on the old timeline is in the old one's partial file meanwhile.
func TestThePrimaryDiesWhileItsFirstSegmentIsReceivedAgain(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{})
	p.Exec(t, "CREATE TABLE rows (name text)")
	s := withStandby(t, p)
	p.backup(t)
	s.Exec(t, "SELECT 1")
	s.follow(t, p.config, s.DSN(), "postgres")
	dir := pgtest.TempDir(t)
	r := s.receive(t, dir)
	p.Exec(t, "INSERT INTO rows VALUES ('archived')")
	switchWAL(t, p.Cluster)
	p.repositoryIs(t, false)
	p.Exec(t, "INSERT INTO rows VALUES ('acknowledged')")
	s.WaitFor(t, "SELECT count(*) FROM rows", "2", time.Minute)
	p.Kill(t)
	s.Promote(t)
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND NOT pg_is_in_recovery() AND flush_lsn = pg_current_wal_flush_lsn()", "1", time.Minute)
	s.Kill(t)
	_ = r.Process.Kill()
	_ = r.end()
	p.repositoryIs(t, true)
	partial, err := filepath.Glob(filepath.Join(dir, "00000002*.partial"))
	if err != nil || len(partial) != 1 {
		t.Fatalf("partial segments of timeline 2: %v, %v", partial, err)
	}
	if err := os.Truncate(partial[0], 8192); err != nil { // some bytes had come
		t.Fatal(err)
	}
	s.restoredRows(t, "archived,acknowledged", "--received", dir)
	if err := os.Remove(partial[0]); err != nil { // only the history had come
		t.Fatal(err)
	}
	s.restoredRows(t, "archived,acknowledged", "--received", dir)
}

// TestReceivedWALThatTheArchiveContradictsIsNotPassedOver has a server put back, which
// archives another content of the segment that was being received.
func TestReceivedWALThatTheArchiveContradictsIsNotPassedOver(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	h.Exec(t, "CREATE TABLE rows (name text)")
	h.backup(t)
	h.Stop(t, "fast")
	if out, err := pgtest.Command(t, "cp", "-a", h.DataDir, h.DataDir+".copy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.Start(t)
	dir := pgtest.TempDir(t)
	r := h.receive(t, dir)
	h.Exec(t, "INSERT INTO rows VALUES ('received')")
	h.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()", "1", time.Minute)
	h.Kill(t)
	_ = r.Process.Kill()
	_ = r.end()
	if err := os.RemoveAll(h.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.DataDir+".copy", h.DataDir); err != nil {
		t.Fatal(err)
	}
	h.Start(t)
	h.Exec(t, "INSERT INTO rows SELECT 'another' FROM generate_series(1, 100)")
	switchWAL(t, h.Cluster)
	o := h.expect(t, codeRefused, "restore", "--target-dir", filepath.Join(pgtest.TempDir(t), "restored"), "--received", dir)
	says(t, o.stderr, "holds other WAL than the archive has under that name", "hint: ", "leave --received out")
}

// TestWhatOnlyTheReceiverHasIsFoundOnItsTimeline promotes a standby that was behind. A
// restore to the newest timeline says what it leaves out, and how to get it.
func TestWhatOnlyTheReceiverHasIsFoundOnItsTimeline(t *testing.T) {
	t.Parallel()
	p := newHost(t, hostOptions{})
	p.Exec(t, "CREATE TABLE rows (name text)")
	s := withStandby(t, p)
	p.backup(t)
	s.follow(t, p.config, s.DSN(), "postgres")
	dir := pgtest.TempDir(t)
	r := p.receive(t, dir)
	p.Exec(t, "INSERT INTO rows VALUES ('archived')")
	switchWAL(t, p.Cluster)
	s.WaitFor(t, "SELECT count(*) FROM rows", "1", time.Minute)
	s.Stop(t, "fast")
	p.Exec(t, "INSERT INTO rows VALUES ('acknowledged')")
	p.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()", "1", time.Minute)
	p.Kill(t)
	_ = r.Process.Kill()
	_ = r.end()
	s.Start(t)
	s.Promote(t)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
	s.Exec(t, "INSERT INTO rows VALUES ('newest')")
	switchWAL(t, s.Cluster)
	o := s.expect(t, codeOK, "restore", "--plan", "--target-dir", filepath.Join(pgtest.TempDir(t), "restored"), "--received", dir)
	says(t, o.stdout, "on timeline 1, which is not on the way to timeline 2", "--target-timeline 1 follows it")
	s.restoredRows(t, "archived,newest", "--received", dir)
	s.restoredRows(t, "archived,acknowledged", "--received", dir, "--target-timeline", "1")
}
