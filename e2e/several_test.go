package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/posix"
)

// twoRepositories is a host whose WAL goes to two repositories: local, and
// remote, which compresses by s2 and is encrypted.
type twoRepositories struct {
	*host
	remote string // the directory of the second repository
}

func newTwoRepositories(t *testing.T) *twoRepositories {
	t.Helper()
	h := &twoRepositories{host: newHost(t, hostOptions{})}
	h.remote = filepath.Join(h.dir, "remote")
	h.write(t, "passphrase", "correct horse battery staple\n")
	h.configure(t, h.DataDir, h.DSN(), fmt.Sprintf("\n  - name: remote\n    url: file://%s\n    compression: s2\n    encryption: {passphrase-file: %s}",
		h.remote, filepath.Join(h.dir, "passphrase")))
	h.expect(t, codeOK, "init")
	return h
}

// openRemote opens the stanza of the second repository.
func (h *twoRepositories) openRemote(t *testing.T) (storage.Store, *repo.Stanza) {
	t.Helper()
	st, err := posix.Open(h.remote)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	compression, err := repo.ParseCompression("s2")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, repo.Options{Clock: time.Now, Compression: compression,
		Passphrase: func() ([]byte, error) { return []byte("correct horse battery staple"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Stanza(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return st, s
}

// backUpBoth backs up into both, the first through a store of the test's.
func (h *twoRepositories) backUpBoth(t *testing.T, local storage.Store, remote *repo.Stanza) (backup.Result, error) {
	t.Helper()
	s, err := openStanza(t.Context(), local)
	if err != nil {
		return backup.Result{}, err
	}
	return backup.Run(t.Context(), backup.Options{Repositories: []backup.Repository{{Name: "local", Stanza: s}, {Name: "remote", Stanza: remote}},
		PGData: h.DataDir, Connection: h.DSN(), Processes: 2, StartFast: true, ArchiveTimeout: 30 * time.Second, Clock: time.Now})
}

// TestABackupInTwoRepositoriesIsRestoredFromEach takes one backup into both and
// compares the clusters that come out of them with the one that went in.
func TestABackupInTwoRepositoriesIsRestoredFromEach(t *testing.T) {
	t.Parallel()
	h := newTwoRepositories(t)
	h.Exec(t, "CREATE EXTENSION amcheck")
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) AS word FROM generate_series(1, 100000) n; CREATE INDEX ON t (word)")
	local, _ := h.mustOpen(t)
	_, remote := h.openRemote(t)
	want := committed(t, h.Cluster)
	var added [2]int64
	for round := range 2 { // the second has parents
		result, err := h.backUpBoth(t, local, remote)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"local", "remote"} {
			b := result.Backups[i]
			if b.Name != name || b.Err != nil || b.Header.Label == "" || b.Header.Start.LSN != result.Backups[0].Header.Start.LSN || b.Header.DatabaseSize != result.Backups[0].Header.DatabaseSize {
				t.Errorf("backup %d: %+v", i, b)
			}
			if round == 0 {
				added[i] = b.Header.AddedSize
			} else if b.ReusedBytes < b.Header.DatabaseSize*9/10 {
				t.Errorf("the second backup in %s shared %d bytes of %d", name, b.ReusedBytes, b.Header.DatabaseSize)
			}
			pgtest.GiveToServer(t, []string{h.repo, h.remote}[i]) // this process may be root
			dir := filepath.Join(pgtest.TempDir(t), "data")
			h.expect(t, codeOK, "--repo", name, "restore", "--target-dir", dir, "--set", string(b.Header.Label), "--archive-mode", "off")
			verifyBackup(t, dir)
			c := pgtest.Open(t, dir, h.Major, nil)
			c.WaitFor(t, inRecovery, "f", time.Minute)
			sameText(t, "the committed state from "+name, committed(t, c), want)
			checkStructure(t, c)
			c.Stop(t, "immediate")
		}
	}
	if added[0] == added[1] {
		t.Errorf("both repositories store the same %d bytes, though they compress differently", added[0])
	}
}

// TestARepositoryThatIsLostDoesNotCostTheBackupInTheOther loses the first of two
// repositories at every one of its operations: from there on all of them fail.
func TestARepositoryThatIsLostDoesNotCostTheBackupInTheOther(t *testing.T) {
	t.Parallel()
	h := newTwoRepositories(t)
	local, s := h.mustOpen(t)
	remoteStore, remote := h.openRemote(t)
	clean := faulty.FailNth(local, 0)
	if _, err := h.backUpBoth(t, clean, remote); err != nil {
		t.Fatal(err)
	}
	inLocal, inRemote := map[repo.Label]bool{}, map[repo.Label]bool{}
	clear := func() {
		law(t, s, inLocal)
		law(t, remote, inRemote)
		forget(t, local, inLocal, nil)
		forget(t, remoteStore, inRemote, nil)
	}
	clear()
	count, lost := len(clean.Trace()), 0
	for n := 1; n <= count; n++ {
		if n > 30 && n < count-20 && n%5 != 0 {
			continue
		}
		faulted := faulty.CrashAfter(local, n)
		result, err := h.backUpBoth(t, faulted, remote)
		if len(result.Backups) == 0 {
			if !errors.Is(err, faulty.ErrInjected) {
				t.Fatalf("operation %d of %d: %v", n, count, err)
			}
			continue // the stanza could not be opened
		}
		what := fmt.Sprintf("lost behind operation %d of %d, %s", n, count, faulted.Trace()[min(n, len(faulted.Trace()))-1])
		failed, whole := result.Backups[0], result.Backups[1]
		if whole.Err != nil {
			t.Fatalf("%s: the other repository: %v", what, whole.Err)
		}
		law(t, remote, inRemote)
		if !inRemote[whole.Header.Label] || len(inRemote) != 1 {
			t.Errorf("%s: backup %s was reported, the other repository lists %v", what, whole.Header.Label, inRemote)
		}
		if failed.Err != nil {
			lost++
			if !errors.Is(err, faulty.ErrInjected) || !errors.Is(failed.Err, faulty.ErrInjected) || !strings.Contains(err.Error(), "repository local: ") || failed.Header.Label != "" {
				t.Errorf("%s: error %v, result %+v", what, err, failed)
			}
		} else if law(t, s, inLocal); err != nil || !inLocal[failed.Header.Label] {
			t.Errorf("%s: success was reported with error %v, and the backup is not listed", what, err)
		}
		clear()
	}
	if lost < count/2 {
		t.Errorf("the repository was lost %d times during a backup of %d operations", lost, count)
	}
	t.Logf("%d operations, lost %d times", count, lost)
}

// TestARepositoryOfAnotherClusterOrWithoutWALFailsAlone backs up into the host's
// repository and into three that cannot have this backup.
func TestARepositoryOfAnotherClusterOrWithoutWALFailsAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	local, s := h.mustOpen(t)
	otherCluster, otherPages := s.Current(), s.Current()
	otherCluster.SystemID++
	otherPages.BlockSize *= 2
	o := backup.Options{PGData: h.DataDir, Connection: h.DSN(), Processes: 2, StartFast: true, ArchiveTimeout: 10 * time.Second, Clock: time.Now}
	for _, st := range []storage.Store{newRepository(t, otherCluster), newRepository(t, otherPages), newRepository(t, s.Current()), local} {
		s, err := openStanza(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		o.Repositories = append(o.Repositories, backup.Repository{Name: st.Properties().Location, Stanza: s})
	}
	result, err := backup.Run(t.Context(), o)
	if len(result.Backups) != 4 {
		t.Fatalf("%d results, %v", len(result.Backups), err)
	}
	for i, want := range []error{repo.ErrIdentityMismatch, repo.ErrIdentityMismatch, readiness.ErrWALTimeout, nil} {
		b := result.Backups[i]
		if !errors.Is(b.Err, want) || !errors.Is(err, b.Err) && b.Err != nil || hint.Of(b.Err) == "" && b.Err != nil {
			t.Errorf("repository %d: %v, want %v; hint %q", i, b.Err, want, hint.Of(b.Err))
		}
	}
	if err := readBackup(t.Context(), s, result.Backups[3].Header.Label); err != nil {
		t.Error(err)
	}
}
