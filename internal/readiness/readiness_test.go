package readiness

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

func readyServer() (server.Info, repo.Identity) {
	info := server.Info{
		Major: 17, SystemID: 7001, DataDirectory: "/data", ArchiveMode: "on", WALLevel: "replica", WALSegmentSize: 16 << 20,
		ArchiveCommand: "/usr/bin/pgbak --config /etc/pgbak/pgbak.yaml archive-push %p",
	}
	return info, repo.Identity{Number: 1, SystemID: 7001, Major: 17, SegmentSize: 16 << 20}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		title  string
		change func(*server.Info, *repo.Identity)
		want   string // part of the only problem; "" none
		fatal  bool
		kind   error
	}{
		{"a server that is ready has no problem", func(*server.Info, *repo.Identity) {}, "", false, nil},
		{"archive_mode off is fatal", func(i *server.Info, _ *repo.Identity) { i.ArchiveMode, i.ArchiveCommand = "off", "(disabled)" },
			"archive_mode is off", true, ErrNotReady},
		{"archive_mode always is fine", func(i *server.Info, _ *repo.Identity) { i.ArchiveMode = "always" }, "", false, nil},
		{"wal_level minimal is fatal", func(i *server.Info, _ *repo.Identity) { i.WALLevel = "minimal" },
			"wal_level is minimal", true, ErrNotReady},
		{"wal_level logical is fine", func(i *server.Info, _ *repo.Identity) { i.WALLevel = "logical" }, "", false, nil},
		{"an empty archive_command is fatal", func(i *server.Info, _ *repo.Identity) { i.ArchiveCommand = "" },
			"archive_command is not set", true, ErrNotReady},
		{"an archive_command that calls something else is a warning", func(i *server.Info, _ *repo.Identity) { i.ArchiveCommand = "cp %p /x/%f" },
			"cp %p /x/%f", false, ErrNotReady},
		{"an archive_library is a warning", func(i *server.Info, _ *repo.Identity) { i.ArchiveLibrary, i.ArchiveCommand = "basic_archive", "" },
			"basic_archive", false, ErrNotReady},
		{"a server in recovery is fatal", func(i *server.Info, _ *repo.Identity) { i.InRecovery = true },
			"in recovery", true, ErrNotReady},
		{"another data directory is fatal and names both", func(i *server.Info, _ *repo.Identity) { i.DataDirectory = "/other" },
			"data_directory is /other, the stanza's pgdata is /data", true, ErrNotReady},
		{"a data directory that is only spelled differently is fine", func(i *server.Info, _ *repo.Identity) { i.DataDirectory = "/data//x/.." }, "", false, nil},
		{"another system identifier hides all else and names both", func(i *server.Info, _ *repo.Identity) {
			i.SystemID, i.ArchiveMode, i.DataDirectory = 7002, "off", "/other"
		}, "system identifier 7002, the stanza holds system identifier 7001", true, repo.ErrIdentityMismatch},
		{"another major is fatal", func(_ *server.Info, id *repo.Identity) { id.Major = 16 },
			"PostgreSQL 17, the stanza holds PostgreSQL 16", true, repo.ErrIdentityMismatch},
		{"another segment size is fatal", func(_ *server.Info, id *repo.Identity) { id.SegmentSize = 1 << 20 },
			"16777216 bytes", true, repo.ErrIdentityMismatch},
	} {
		t.Run(c.title, func(t *testing.T) {
			info, id := readyServer()
			c.change(&info, &id)
			got := Problems(info, "/data", id)
			if c.want == "" {
				if len(got) != 0 || Fatal(got) != nil {
					t.Fatalf("problems: %v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("want one problem, got %v", got)
			}
			p := got[0]
			if !strings.Contains(p.Error.Error(), c.want) || !errors.Is(p.Error, c.kind) {
				t.Errorf("problem %q, want one with %q that is %q", p.Error, c.want, c.kind)
			}
			if p.Fatal != c.fatal || (Fatal(got) != nil) != c.fatal {
				t.Errorf("fatal is %v, want %v", p.Fatal, c.fatal)
			}
			if hint.Of(p.Error) == "" {
				t.Error("there is no hint")
			}
		})
	}
}

func TestProblemsFollowsALinkToTheDataDirectory(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "pgdata")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	info, id := readyServer()
	info.DataDirectory = dir
	if got := Problems(info, link, id); len(got) != 0 {
		t.Errorf("problems: %v", got)
	}
	if got := Problems(info, t.TempDir(), id); len(got) != 1 {
		t.Errorf("another directory that exists: want one problem, got %v", got)
	}
}

func TestProblemsReportsEverythingThatIsWrong(t *testing.T) {
	info, id := readyServer()
	info.WALLevel, info.ArchiveMode, info.ArchiveCommand, info.DataDirectory = "minimal", "off", "", "/elsewhere"
	if got := Problems(info, "/data", id); len(got) != 3 {
		t.Errorf("want three problems, got %v", got)
	}
}
