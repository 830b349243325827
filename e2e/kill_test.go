package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// randomKills is how many runs of each command are killed at a random moment.
const randomKills = 20

// killer runs a command of the program built with the tag pgbak_faults, which
// kills itself when it is told to.
type killer struct {
	*host
	kills int
	took  time.Duration // of the last run that came to its end
}

func newKiller(t *testing.T, settings map[string]string) *killer {
	t.Helper()
	return &killer{host: newHost(t, hostOptions{tags: []string{"pgbak_faults"}, cluster: pgtest.Options{Config: settings}})}
}

// count runs a command without a fault, says how many storage operations it
// made.
func (k *killer) count(t *testing.T, args ...string) int {
	t.Helper()
	file := filepath.Join(k.dir, "count")
	k.env = []string{"PGBAK_FAULT_COUNT_FILE=" + file}
	begin := time.Now()
	k.expect(t, codeOK, args...)
	k.took = time.Since(begin)
	k.env = nil
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 3 {
		t.Fatalf("%q operations were counted", text)
	}
	return n
}

// killAt runs a command that is to die before or after its n-th operation, and
// tells whether it came to that.
func (k *killer) killAt(t *testing.T, variable string, n int, args ...string) (outcome, bool) {
	t.Helper()
	return k.killWhen(t, fmt.Sprintf("%s=%d", variable, n), args...)
}

// killWhen runs a command that is to die as fault says.
func (k *killer) killWhen(t *testing.T, fault string, args ...string) (outcome, bool) {
	t.Helper()
	k.env = []string{fault}
	o := k.run(t, args...)
	k.env = nil
	if o.code >= 0 && o.code != codeOK {
		t.Fatalf("%s: exit %d\n%s", fault, o.code, o.stderr)
	}
	if o.code < 0 {
		k.kills++
	}
	return o, o.code < 0
}

// killDuring kills a command at a random moment of the time that it takes.
func (k *killer) killDuring(t *testing.T, random *rand.Rand, args ...string) (outcome, bool) {
	t.Helper()
	begin := time.Now()
	p := k.start(t, args...)
	timer := time.AfterFunc(time.Duration(random.Int64N(int64(k.took))), func() { _ = p.Process.Kill() })
	o := p.end() // it may be faster this time
	timer.Stop()
	if o.code == codeOK {
		k.took = time.Since(begin)
	}
	if o.code >= 0 && o.code != codeOK {
		t.Fatalf("exit %d\n%s", o.code, o.stderr)
	}
	if o.code < 0 {
		k.kills++
	}
	return o, o.code < 0
}

func (k *killer) random(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// each calls strike for every operation before and after which the process is
// to be killed, and then for the random moments.
func (k *killer) each(t *testing.T, strike func(title string, kill func(args ...string) (outcome, bool)), args ...string) {
	t.Helper()
	count := k.count(t, args...)
	for _, variable := range []string{"PGBAK_FAULT_KILL_AT", "PGBAK_FAULT_KILL_AFTER"} {
		for _, n := range sampled(count + 5) { // a run may need some more looks for WAL
			strike(fmt.Sprintf("%s=%d of %d", variable, n, count), func(args ...string) (outcome, bool) { return k.killAt(t, variable, n, args...) })
		}
	}
	atOperations := k.kills
	if atOperations < min(count, 40) {
		t.Errorf("%d kills at %d operations", atOperations, count)
	}
	random := k.random(t)
	for n := range randomKills {
		strike(fmt.Sprintf("random moment %d", n), func(args ...string) (outcome, bool) { return k.killDuring(t, random, args...) })
	}
	if k.kills-atOperations < randomKills/4 {
		t.Errorf("only %d of %d runs were killed at random moments", k.kills-atOperations, randomKills)
	}
	t.Logf("%d operations, %d kills at operations, %d at random moments of %v", count, atOperations, k.kills-atOperations, k.took)
}

// TestAKilledBackupLeavesNoHalfBackup kills backup everywhere: info answers, what
// it lists is whole, the server forgets the backup, and the next one succeeds.
func TestAKilledBackupLeavesNoHalfBackup(t *testing.T) {
	t.Parallel()
	k := newKiller(t, nil)
	first := k.backup(t).Backup.Label
	st, s := k.mustOpen(t)
	checked := map[repo.Label]bool{}
	afterManifest := 0
	strike := func(title string, kill func(args ...string) (outcome, bool)) {
		before := labels(k.backups(t))
		o, killed := kill("backup", "--output", "json")
		after := labels(k.backups(t))
		law(t, s, checked)
		if more := len(after) - len(before); more > 1 || more == 0 && !killed {
			t.Fatalf("%s: %d backups more are listed, killed: %v\n%s", title, more, killed, o.stderr)
		} else if killed && more == 1 {
			afterManifest++
		}
		if !slices.Equal(after[:len(before)], before) {
			t.Fatalf("%s: %v were listed, now %v", title, before, after)
		}
		k.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0", 10*time.Second)
		next := k.backup(t).Backup.Label
		if law(t, s, checked); !checked[next] {
			t.Fatalf("%s: the next backup, %s, is not listed", title, next)
		}
		forget(t, st, checked, map[repo.Label]bool{first: true})
	}
	k.each(t, strike, "backup")
	// The number of this moment varies with the looks for WAL: name it.
	strike("right after the manifest", func(args ...string) (outcome, bool) {
		return k.killWhen(t, "PGBAK_FAULT_KILL_AFTER_PUT=backups/", args...)
	})
	if err := readBackup(t.Context(), s, first); err != nil {
		t.Errorf("the first backup at the end: %v", err)
	}
	if afterManifest == 0 {
		t.Error("no run was killed between the manifest and its end")
	}
	k.backup(t)
	k.proveLast(t)
}

// proveLast restores the newest backup and starts a server on it.
func (k *killer) proveLast(t *testing.T) {
	t.Helper()
	into := filepath.Join(pgtest.TempDir(t), "data")
	k.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off")
	verifyBackup(t, into)
	c := pgtest.Open(t, into, k.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
}

func labels(backups []backupInfo) []repo.Label {
	var all []repo.Label
	for _, b := range backups {
		all = append(all, b.Label)
	}
	return all
}

// TestAKilledRestoreCannotBeStarted kills restore everywhere: without
// pg_control no server starts, and the same directory is refused next time.
func TestAKilledRestoreCannotBeStarted(t *testing.T) {
	t.Parallel()
	k := newKiller(t, nil)
	k.Exec(t, "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n")
	k.backup(t)
	base := memoryDir(t, 1<<30)
	next := filepath.Join(base, "0")
	started, began := 0, 0
	strike := func(title string, kill func(args ...string) (outcome, bool)) {
		next = filepath.Join(base, strconv.Itoa(k.kills+1))
		_, killed := kill("restore", "--target-dir", next)
		complete := exists(filepath.Join(next, "global", "pg_control"))
		switch {
		case complete:
			// Killed or not, then all must be there.
			verifyBackup(t, next)
		case !killed:
			t.Errorf("%s: success without pg_control", title)
		case exists(filepath.Join(next, "base")):
			began++
			if began%10 == 1 {
				started++
				if status := pgtest.Open(t, next, k.Major, nil).WaitExit(t, time.Minute); status == 0 {
					t.Errorf("%s: a server started on it", title)
				}
				k.expect(t, codeRefused, "restore", "--target-dir", next)
				if err := os.RemoveAll(next); err != nil {
					t.Fatal(err)
				}
				k.expect(t, codeOK, "restore", "--target-dir", next)
				verifyBackup(t, next)
			}
		}
		if err := os.RemoveAll(next); err != nil {
			t.Fatal(err)
		}
	}
	k.each(t, strike, "restore", "--target-dir", next)
	if began < 10 || started == 0 {
		t.Errorf("%d restores were killed while they wrote, a server was tried on %d", began, started)
	}
	t.Logf("%d were killed while they wrote", began)
	k.proveLast(t)
}

// TestAKilledPushLeavesTheSegmentAbsentOrWhole kills archive-push everywhere, on
// a server's own segments.
func TestAKilledPushLeavesTheSegmentAbsentOrWhole(t *testing.T) {
	t.Parallel()
	k := newKiller(t, map[string]string{"archive_command": "false", "wal_keep_size": "1GB"})
	wal := filepath.Join(k.DataDir, "pg_wal")
	var ready []string
	for len(ready) < 64 {
		k.Exec(t, "CREATE TABLE IF NOT EXISTS t (n int, x text)")
		k.Exec(t, "INSERT INTO t SELECT n, md5(random()::text) FROM generate_series(1, 40000) n")
		k.Exec(t, "SELECT pg_switch_wal()")
		ready = ready[:0]
		found, _ := filepath.Glob(filepath.Join(wal, "archive_status", "*.ready")) // fails on a bad pattern only
		for _, path := range found {
			ready = append(ready, strings.TrimSuffix(filepath.Base(path), ".ready"))
		}
	}
	path := func() string { return filepath.Join(wal, ready[0]) }
	half := 0
	strike := func(title string, kill func(args ...string) (outcome, bool)) {
		defer func() { ready = ready[1:] }()
		want, err := os.ReadFile(path())
		if err != nil {
			t.Fatal(err)
		}
		_, killed := kill("archive-push", path())
		got, present := k.get(t, title, ready[0])
		switch {
		case present && !bytes.Equal(got, want):
			t.Errorf("%s: another content came back", title)
		case !present && !killed:
			t.Errorf("%s: success was reported, and the segment is absent", title)
		case !present:
			half++
		}
		k.expect(t, codeOK, "archive-push", path())
		if got, present := k.get(t, title, ready[0]); !present || !bytes.Equal(got, want) {
			t.Errorf("%s: after the next push: present %v, %d bytes", title, present, len(got))
		}
	}
	k.each(t, strike, "archive-push", path())
	if half == 0 {
		t.Error("every push was killed too late")
	}
	if leftovers := temporaries(t, k.repo); len(leftovers) > 0 {
		t.Logf("temporary files in the repository: %v", leftovers)
	}
}

// get fetches a WAL file; it is proven absent if present is false.
func (k *killer) get(t *testing.T, title, name string) (content []byte, present bool) {
	t.Helper()
	to := filepath.Join(k.dir, "fetched")
	_ = os.Remove(to) // absent at first
	o := k.run(t, "archive-get", name, to)
	if o.code != codeOK && o.code != codeFailed {
		t.Fatalf("%s: archive-get: exit %d\n%s", title, o.code, o.stderr)
	}
	if o.code == codeFailed {
		return nil, false
	}
	content, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return content, true
}

// temporaries lists files that no key leads to.
func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), ".") {
			all = append(all, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all
}
