package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/posix"
)

func mustRun(t *testing.T, o Options) Result {
	t.Helper()
	res, err := Run(context.Background(), o)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, hint.Of(err))
	}
	return res
}

func TestRestoreBringsEveryFileBack(t *testing.T) {
	t.Run("from memory", func(t *testing.T) { checkRestore(t, mem.New()) })
	t.Run("from a disk", func(t *testing.T) {
		st, err := posix.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		checkRestore(t, st)
	})
}

func checkRestore(t *testing.T, st storage.Store) {
	s := testStanza(t, st)
	store(t, s, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	o := options(s, dir)
	var last Progress
	o.Progress = func(p Progress) { last = p }
	res := mustRun(t, o)
	checkTree(t, dir, cluster())
	if res.Files != res.Plan.Files || res.Bytes != res.Plan.Bytes || last != (Progress{res.Files, res.Files, res.Bytes, res.Bytes}) {
		t.Errorf("counted %d files and %d bytes, planned %d and %d, told %+v", res.Files, res.Bytes, res.Plan.Files, res.Plan.Bytes, last)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v", info.Mode(), err)
	}
	if exists(t, filepath.Join(dir, controlDraft)) {
		t.Error("pg_control's draft is still there")
	}
	if exists(t, filepath.Join(dir, "tablespace_map")) {
		t.Error("tablespace_map would put the links of tablespaces back where they were")
	}
}

func TestZerosBecomeHoles(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	mustRun(t, options(s, dir))
	for path, most := range map[string]int64{"base/1/102": 3<<20 + 4*testPage, "base/1/104": 1<<20 + testPage, "base/1/105": testPage} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > most {
			t.Errorf("%s takes %d bytes of the disk, want at most %d of its %d", path, used, most, info.Size())
		}
	}
}

func TestRecoverySettingsOfARestore(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	mustRun(t, options(s, dir))
	got, err := os.ReadFile(filepath.Join(dir, ownSettingsFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"work_mem = '8MB'\n", "# before the restore: Recovery_Target_Time = 'old'\n",
		"recovery_target = 'immediate'\n", "recovery_target_action = 'pause'\n", `restore_command = '/usr/bin/pgbak archive-get %f "%p"'` + "\n", "recovery_target_timeline = 'current'\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if !exists(t, filepath.Join(dir, signalFile)) {
		t.Error("no recovery.signal")
	}
}

func TestBackupManifestListsWhatWasRestored(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	mustRun(t, options(s, dir))
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	m, err := postgres.ParseBackupManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range m.Files {
		paths = append(paths, f.Path)
	}
	want := []string{"PG_VERSION", "backup_label", "base/1/100", "base/1/101", "base/1/102", "base/1/103", "base/1/104", "base/1/105",
		"global/1262", "global/pg_control", "postgresql.conf"}
	if !slices.Equal(paths, want) {
		t.Errorf("files %q, want %q", paths, want)
	}
	if m.Version != 2 || m.SystemID != s.Current().SystemID || len(m.WALRanges) != 1 || m.WALRanges[0] != (postgres.WALRange{Timeline: 1, Start: 0x200028, End: 0x300100}) {
		t.Errorf("version %d, system %d, WAL %+v", m.Version, m.SystemID, m.WALRanges)
	}
}

func TestTablespacesAndLinks(t *testing.T) {
	base := t.TempDir()
	linked := filepath.Join(base, "wal-disk")
	entries := append(cluster(), entry{path: "log", link: filepath.Join(base, "log-disk")}, entry{path: "log/today", data: []byte("line\n")},
		entry{path: "pg_tblspc/16384"}, entry{path: "pg_tblspc/16384/PG_18_1"}, entry{path: "pg_tblspc/16384/PG_18_1/5", data: text(testPage, 9)},
		entry{path: "pg_tblspc/16385", link: "/recorded/two"}, entry{path: "pg_tblspc/16385/f", data: []byte("two")},
		entry{path: "pg_tblspc/16386"}, entry{path: "pg_tblspc/16386/g", data: []byte("three")})
	wal := slices.IndexFunc(entries, func(e entry) bool { return e.path == "pg_wal" })
	entries[wal].link = "/recorded/wal"
	slices.SortFunc(entries, func(a, b entry) int { return repo.ComparePaths(a.path, b.path) })
	h := repo.BackupHeader{Tablespaces: []repo.Tablespace{{OID: 16384, Name: "one", Location: "/recorded/one"},
		{OID: 16385, Name: "two", Location: "/recorded/two"}, {OID: 16386, Name: "three", InPlace: true}}}
	_, s := stored(t, entries, h)
	for i := range entries {
		entries[i].link = "" // to checkTree, which follows them, they are directories
	}

	o := options(s, filepath.Join(base, "data"))
	o.TablespaceMap = map[string]string{"one": filepath.Join(base, "ts-one")}
	o.TablespaceMapAll = base
	o.LinkMap, o.LinkAll = map[string]string{"pg_wal": linked}, true
	res := mustRun(t, o)
	checkTree(t, o.TargetDir, entries)
	for link, want := range map[string]string{"pg_tblspc/16384": "ts-one", "pg_tblspc/16385": "16385", "pg_wal": "wal-disk", "log": "log-disk"} {
		got, err := os.Readlink(filepath.Join(o.TargetDir, link))
		if err != nil || got != filepath.Join(base, want) {
			t.Errorf("%s links to %q (%v), want %q", link, got, err, filepath.Join(base, want))
		}
	}
	if info, err := os.Lstat(filepath.Join(o.TargetDir, "pg_tblspc/16386")); err != nil || !info.IsDir() {
		t.Errorf("the tablespace in place is %v (%v)", info, err)
	}
	if len(res.Plan.Tablespaces) != 3 || len(res.Plan.Links) != 2 {
		t.Errorf("planned %+v and %+v", res.Plan.Tablespaces, res.Plan.Links)
	}
}

func TestABackupThatNoServerCanRecoverFromIsRefused(t *testing.T) {
	for _, missing := range []string{"backup_label", "global/pg_control", "PG_VERSION"} {
		t.Run("without "+missing, func(t *testing.T) {
			entries := slices.DeleteFunc(cluster(), func(e entry) bool { return e.path == missing })
			_, s := stored(t, entries, repo.BackupHeader{})
			dir := filepath.Join(t.TempDir(), "data")
			_, err := Run(context.Background(), options(s, dir))
			if err == nil || !strings.Contains(err.Error(), missing) || exists(t, dir) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestARefusalWritesNothing(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	o := options(s, dir)
	o.Target = Target{Type: TargetTime, Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := Run(context.Background(), o); !errors.Is(err, ErrUnreachable) || hint.Of(err) == "" {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if exists(t, dir) {
		t.Error("the directory was made")
	}
}

func TestACancelledRestoreCannotStart(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	o := options(s, dir)
	ctx, cancel := context.WithCancel(context.Background())
	o.Progress = func(p Progress) {
		if p.Files == 5 {
			cancel()
		}
	}
	_, err := Run(ctx, o)
	if !errors.Is(err, ErrIncomplete) || !errors.Is(err, context.Canceled) || !strings.Contains(hint.Of(err), dir) {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if exists(t, filepath.Join(dir, controlFile)) {
		t.Error("pg_control is there")
	}
	if !exists(t, dir) {
		t.Error("the directory was removed")
	}
}

func TestAHostileBackupCannotLeaveItsDirectory(t *testing.T) {
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(outside, "f")
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries := append(cluster(), entry{path: "zlink", link: outside}, entry{path: "zlink/f", data: []byte("theirs")})
	_, s := stored(t, entries, repo.BackupHeader{})
	o := options(s, filepath.Join(base, "data"))
	o.LinkAll = true
	_, err := Run(context.Background(), o)
	if !errors.Is(err, ErrDirectory) {
		t.Errorf("error %v", err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
		t.Errorf("the file outside holds %q (%v)", got, err)
	}
}

func TestWALIsReadFromTheRepositoryForATime(t *testing.T) {
	_, s := stored(t, cluster(), repo.BackupHeader{})
	o := options(s, filepath.Join(t.TempDir(), "data"))
	o.Target = Target{Type: TargetTime, Time: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	// The made-up segments are no WAL: that is noticed, not taken for the end of it.
	if _, err := MakePlan(context.Background(), o); err == nil || !strings.Contains(err.Error(), "000000010000000000000003") {
		t.Errorf("error %v, want one that names the segment", err)
	}
	o.Target = Target{Type: TargetLSN, LSN: 0x500000}
	_, err := MakePlan(context.Background(), o)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "000000010000000000000004 is not in the archive") {
		t.Errorf("error %v", err)
	}
	for _, n := range []uint64{4, 5, 6} {
		if _, err := s.PutWAL(context.Background(), s.Current(), postgres.WALFile{Timeline: 1, Segment: n}, repo.NewWALContent(storage.Bytes(text(smallWAL, n)))); err != nil {
			t.Fatal(err)
		}
	}
	p, err := MakePlan(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p.WAL != (WALPlan{First: "000000010000000000000002", Last: "000000010000000000000005", Files: 4}) {
		t.Errorf("WAL %+v", p.WAL)
	}
}

func TestAFileThatIsNotWhatTheManifestSaysIsRefused(t *testing.T) {
	entries := cluster()
	i := slices.IndexFunc(entries, func(e entry) bool { return e.path == "global/1262" })
	entries[i].wrongCRC = true
	_, s := stored(t, entries, repo.BackupHeader{})
	dir := filepath.Join(t.TempDir(), "data")
	_, err := Run(context.Background(), options(s, dir))
	if !errors.Is(err, repo.ErrDamaged) || !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "file global/1262") {
		t.Errorf("error %v", err)
	}
	if exists(t, filepath.Join(dir, controlFile)) {
		t.Error("pg_control is there")
	}
}

func TestAFullDiskIsSaid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the small file system that this test fills")
	}
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	_, s := stored(t, cluster(), repo.BackupHeader{})
	dir := filepath.Join(mount, "data")
	o := options(s, dir)
	plan, err := MakePlan(context.Background(), o)
	if err != nil || len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "will not fit") {
		t.Errorf("plan %v, %v", plan, err)
	}
	_, err = Run(context.Background(), o)
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, ErrIncomplete) || !strings.Contains(hint.Of(err), "is full") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if exists(t, filepath.Join(dir, controlFile)) {
		t.Error("pg_control is there")
	}
}

func TestOwnersOfRestoredFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	entries := cluster()
	for i, e := range entries {
		switch e.path {
		case "base/1/100":
			entries[i].owner, entries[i].group = "daemon", "daemon"
		case "base/1/101":
			entries[i].owner, entries[i].group = "nobody-knows", "4321"
		}
	}
	_, s := stored(t, entries, repo.BackupHeader{})
	base := t.TempDir()
	if err := os.Chown(base, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	res := mustRun(t, options(s, filepath.Join(base, "data")))
	for path, want := range map[string][2]uint32{"base/1/100": {1, 1}, "base/1/101": {1234, 4321}} {
		info, err := os.Stat(filepath.Join(base, "data", path))
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != want[0] || stat.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", path, stat.Uid, stat.Gid, want)
		}
	}
	if all := strings.Join(res.Warnings, "\n"); !strings.Contains(all, `user "nobody-knows"`) || !strings.Contains(all, "1234:1235") {
		t.Errorf("warnings %q", res.Warnings)
	}
}
