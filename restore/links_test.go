package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
)

func TestRootFollowsNoLinkBecauseABackupSaysSo(t *testing.T) {
	links := []LinkPlan{{Path: "log", Destination: "/root/.ssh"}, {Path: "pg_wal", Destination: "/mnt/wal"}}
	err := checkLinks(links, true)
	if !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), "log to /root/.ssh, pg_wal to /mnt/wal") || !strings.Contains(hint.Of(err), "--link-all") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if err := checkLinks(nil, true); err != nil {
		t.Errorf("root without links: %v", err)
	}
	if err := checkLinks(links, false); err != nil {
		t.Errorf("another user: %v", err)
	}
}

func TestLinksOfARestoreAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user follows links as recorded; the rule itself is tested above")
	}
	base := t.TempDir()
	log := filepath.Join(base, "log-disk")
	_, s := stored(t, append(cluster(), entry{path: "zlog", link: log}, entry{path: "zlog/today", data: []byte("line\n")}), repo.BackupHeader{})
	o := options(s, filepath.Join(base, "data"))
	if _, err := Run(context.Background(), o); !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), "zlog to "+log) {
		t.Errorf("error %v", err)
	}
	if exists(t, log) || exists(t, o.TargetDir) {
		t.Error("something was written")
	}
	o.LinkMap = map[string]string{"zlog": log}
	if _, err := MakePlan(context.Background(), o); err != nil {
		t.Errorf("a link that was named: %v", err)
	}
	o.LinkMap, o.LinkAll = nil, true
	mustRun(t, o)
	if !exists(t, filepath.Join(log, "today")) {
		t.Error("the linked directory was not restored")
	}
}

// linkedGlobal is a cluster whose directory global is a link to dir.
func linkedGlobal(dir string) []entry {
	entries := cluster()
	i := slices.IndexFunc(entries, func(e entry) bool { return e.path == "global" })
	entries[i].link = dir
	return entries
}

func TestPgControlIsLastWhenGlobalIsALink(t *testing.T) {
	base := t.TempDir()
	disk := filepath.Join(base, "disk")
	st, s := stored(t, linkedGlobal(disk), repo.BackupHeader{})
	o := options(s, filepath.Join(base, "data"))
	o.LinkAll = true
	mustRun(t, o)
	checkTree(t, o.TargetDir, cluster())
	if !exists(t, filepath.Join(disk, "pg_control")) || exists(t, filepath.Join(disk, filepath.Base(controlDraft))) {
		t.Error("pg_control is not in the linked directory under its own name")
	}
	failed := 0
	for n := 1; ; n++ {
		base := t.TempDir()
		faults := faulty.FailNth(st, n)
		s, err := reopen(t, faults)
		if err == nil {
			o := options(s, filepath.Join(base, "data"))
			o.LinkMap = map[string]string{"global": filepath.Join(base, "disk")}
			_, err = Run(context.Background(), o)
		}
		if !faults.Fired() {
			break
		}
		if isNeedless(faults.Trace()[n-1]) {
			continue
		}
		if err == nil {
			t.Errorf("operation %d failed without an error", n)
		}
		if exists(t, filepath.Join(base, "disk", "pg_control")) {
			t.Errorf("operation %d (%s): pg_control is there", n, faults.Trace()[n-1])
		}
		failed++
	}
	if failed == 0 {
		t.Error("nothing was made to fail")
	}
}

// A failure after the last read of the repository: the name in the way is that
// of a file that the restore makes itself.
func TestPgControlInALinkedGlobalHasNoNameBeforeTheLastStep(t *testing.T) {
	base := t.TempDir()
	disk := filepath.Join(base, "disk")
	entries := linkedGlobal(disk)
	i := slices.IndexFunc(entries, func(e entry) bool { return e.path == ownSettingsFile })
	entries[i] = entry{path: ownSettingsFile} // a directory, so that the settings cannot be written
	_, s := stored(t, entries, repo.BackupHeader{})
	o := options(s, filepath.Join(base, "data"))
	o.LinkAll = true
	if _, err := Run(context.Background(), o); !errors.Is(err, ErrIncomplete) {
		t.Errorf("error %v", err)
	}
	if exists(t, filepath.Join(disk, "pg_control")) || !exists(t, filepath.Join(disk, filepath.Base(controlDraft))) {
		t.Error("pg_control has its name already, or was not written")
	}
}
