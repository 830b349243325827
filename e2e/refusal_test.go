package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// refuse runs the program, which must end with the code, say the words in one
// plain sentence, and give a hint.
func (h *host) refuse(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	o := h.run(t, args...)
	if o.code != code {
		t.Errorf("pgbak %s: exit %d, want %d", strings.Join(args, " "), o.code, code)
	}
	says(t, o.stderr, append(words, "pgbak: ", "\nhint: ")...)
	if strings.Contains(o.stderr, "goroutine ") {
		t.Error("that is no plain sentence")
	}
}

func TestABackupIsRefusedWhenTheServerIsNotFit(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	other := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1})
	nothingTaken := func(t *testing.T) {
		t.Helper()
		if n := len(h.backups(t)); n != 0 {
			t.Errorf("%d backups are listed", n)
		}
	}
	t.Run("the data directory of another cluster", func(t *testing.T) {
		h.configure(t, other.DataDir, h.DSN(), "")
		h.refuse(t, codeStanza, []string{other.DataDir, "main"}, "backup")
		nothingTaken(t)
	})
	t.Run("the connection of another cluster", func(t *testing.T) {
		h.configure(t, h.DataDir, other.DSN(), "")
		h.refuse(t, codeStanza, []string{"system identifier"}, "backup")
		nothingTaken(t)
	})
	h.configure(t, h.DataDir, h.DSN(), "")
	t.Run("archive_mode is off", func(t *testing.T) {
		h.setting(t, "archive_mode", "off")
		h.refuse(t, codeServer, []string{"archive_mode"}, "backup")
		nothingTaken(t)
	})
	t.Run("an archive_command that fails", func(t *testing.T) {
		h.setting(t, "archive_mode", "on")
		h.setting(t, "archive_command", "false")
		h.refuse(t, codeServer, []string{"did not reach the repository"}, "backup", "--archive-timeout", "2s")
		nothingTaken(t)
	})
	t.Run("the server is not running", func(t *testing.T) {
		h.Stop(t, "fast")
		h.refuse(t, codeServer, []string{h.SocketDir}, "backup")
		nothingTaken(t)
	})
}

// setting changes postgresql.conf and starts the server again.
func (h *host) setting(t *testing.T, name, value string) {
	t.Helper()
	h.Exec(t, "ALTER SYSTEM SET "+name+" = '"+value+"'")
	h.Restart(t)
}

// pastHost is a host with one backup and moments after it.
func pastHost(t *testing.T) (h *host, before string, m moment) {
	t.Helper()
	h = newHost(t, hostOptions{})
	h.Exec(t, "CREATE TABLE ledger (name text)")
	before = h.Query(t, "SELECT clock_timestamp() FROM pg_sleep(0.01)")
	h.backup(t)
	m = newMoment(t, h.Cluster, "a moment")
	h.Exec(t, "INSERT INTO ledger VALUES ('later')")
	switchWAL(t, h.Cluster)
	return h, before, m
}

func TestARestoreIsRefusedWhenTheTargetCannotBeReached(t *testing.T) {
	t.Parallel()
	h, before, m := pastHost(t)
	into := filepath.Join(h.dir, "restored")
	for _, c := range []struct {
		title string
		words []string
		args  []string
	}{
		{"a time before the first backup", []string{"before the end of backup"}, []string{"--type", "time", "--target", before}},
		{"a time after the last commit", []string{"2100"}, []string{"--type", "time", "--target", "2100-01-01 00:00:00+00"}},
		{"a position before the backup", []string{"0/1000028"}, []string{"--type", "lsn", "--target", "0/1000028"}},
		{"a position behind the archive", []string{"FF/0"}, []string{"--type", "lsn", "--target", "FF/0"}},
		{"an unknown transaction", []string{"4000000000"}, []string{"--type", "xid", "--target", "4000000000"}},
		{"an unknown restore point", []string{"never made"}, []string{"--type", "name", "--target", "never made"}},
		{"an unknown timeline", []string{"7"}, []string{"--target-timeline", "7"}},
		{"an unknown backup", []string{"20000101-000000F"}, []string{"--set", "20000101-000000F"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			h.refuse(t, codeRefused, c.words, append([]string{"restore", "--target-dir", into}, c.args...)...)
			if exists(into) {
				t.Error("the directory was made")
			}
		})
	}
	h.expect(t, codeOK, "restore", "--target-dir", into, "--type", "xid", "--target", m.xid)
}

func TestARestoreIsRefusedWhereItWouldDoHarm(t *testing.T) {
	t.Parallel()
	h, _, _ := pastHost(t)
	occupied := filepath.Join(h.dir, "occupied")
	if err := os.Mkdir(occupied, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(occupied, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, occupied)
	for _, c := range []struct {
		title, dir string
		words      []string
	}{
		{"a directory that is not empty", occupied, []string{occupied, "not empty"}},
		{"the directory of the running cluster", h.DataDir, []string{h.DataDir, "in use"}},
		{"a directory inside a cluster", filepath.Join(h.DataDir, "base", "restored"), []string{"inside the cluster"}},
		{"a file", filepath.Join(occupied, "mine"), []string{"not a directory"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			h.refuse(t, codeRefused, c.words, "restore", "--target-dir", c.dir)
		})
	}
	if text, err := os.ReadFile(filepath.Join(occupied, "mine")); err != nil || string(text) != "mine" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if n := h.Query(t, "SELECT count(*) FROM ledger"); n != "2" {
		t.Errorf("the running server says %s", n)
	}
}

// TestAGapInTheWALIsNamed removes one segment from the archive.
func TestAGapInTheWALIsNamed(t *testing.T) {
	t.Parallel()
	h, _, m := pastHost(t)
	for range 3 {
		h.Exec(t, "INSERT INTO ledger VALUES ('more')")
		switchWAL(t, h.Cluster)
	}
	end := newMoment(t, h.Cluster, "behind the gap")
	switchWAL(t, h.Cluster)
	all := h.backups(t)
	lost := h.Query(t, "SELECT pg_walfile_name('"+m.lsn+"'::pg_lsn + 1048576)")
	segment := func(name string) string {
		return filepath.Join(h.repo, "wal", "main", "00000001", "00000001", name[8:16], name)
	}
	rename(t, segment(lost), segment(lost)+".away")
	into := filepath.Join(h.dir, "restored")
	for _, args := range [][]string{
		{"--type", "lsn", "--target", end.lsn}, {"--type", "time", "--target", end.commit}, {"--type", "xid", "--target", end.xid},
		{"--type", "name", "--target", end.restorePoint},
	} {
		h.refuse(t, codeRefused, []string{lost, "is not in the archive", "what can be reached is", string(all[0].Label)},
			append([]string{"restore", "--target-dir", into}, args...)...)
		if exists(into) {
			t.Fatal("the directory was made")
		}
	}
	o := h.expect(t, codeOK, "restore", "--target-dir", into, "--plan")
	says(t, o.stdout+o.stderr, lost, "warning")
	// What lies before the gap can be reached.
	h.expect(t, codeOK, "restore", "--target-dir", into, "--type", "xid", "--target", m.xid, "--target-action", "promote", "--archive-mode", "off")
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	sameText(t, "the committed state", committed(t, c), m.after)

	rename(t, segment(lost)+".away", segment(lost))
	first := all[0].Start.WAL
	rename(t, segment(first), segment(first)+".away")
	h.refuse(t, codeRefused, []string{first, "nothing can be reached"}, "restore", "--target-dir", filepath.Join(h.dir, "other"))
}

// TestADamagedObjectIsNamedAndNeverRestored flips a byte in each kind of object.
func TestADamagedObjectIsNamedAndNeverRestored(t *testing.T) {
	t.Parallel()
	h, _, _ := pastHost(t)
	label := string(h.backups(t)[0].Label)
	for _, c := range []struct{ kind, pattern string }{
		{"pack", "packs/*/*"}, {"map", "maps/*/*"}, {"manifest", "backups/main/" + label},
	} {
		t.Run(c.kind, func(t *testing.T) {
			found, err := filepath.Glob(filepath.Join(h.repo, c.pattern))
			if err != nil || len(found) == 0 {
				t.Fatalf("no %s: %v", c.kind, err)
			}
			content, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			damaged := append([]byte(nil), content...)
			damaged[len(damaged)/2] ^= 1
			put := func(b []byte) {
				t.Helper()
				if err := os.WriteFile(found[0], b, 0o640); err != nil {
					t.Fatal(err)
				}
			}
			for title, bytes := range map[string][]byte{"flipped": damaged, "torn": content[:len(content)/2], "empty": {}} {
				put(bytes)
				into := filepath.Join(h.dir, c.kind+"-"+title)
				o := h.run(t, "restore", "--target-dir", into)
				if o.code != codeDamaged {
					t.Errorf("%s: exit %d, want %d\n%s", title, o.code, codeDamaged, o.stderr)
				}
				key, _ := filepath.Rel(h.repo, found[0])
				says(t, o.stderr, "damaged", key)
				if exists(filepath.Join(into, "global", "pg_control")) {
					t.Errorf("%s: pg_control is in place", title)
				}
			}
			put(content)
		})
	}
	h.expect(t, codeOK, "restore", "--target-dir", filepath.Join(h.dir, "whole"))
	verifyBackup(t, filepath.Join(h.dir, "whole"))
}
