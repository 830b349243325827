package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoriesThatAreNotFitAreRefused(t *testing.T) {
	for _, c := range []struct {
		title   string
		prepare func(base string)
		dir     string // below base
		refused string // empty: it is fit
	}{
		{title: "absent, in a directory that exists", dir: "data"},
		{title: "empty", prepare: func(b string) { _ = os.Mkdir(b+"/data", 0o700) }, dir: "data"},
		{title: "a link to an empty directory", prepare: func(b string) { _ = os.Mkdir(b+"/real", 0o700); _ = os.Symlink(b+"/real", b+"/data") }, dir: "data"},
		{title: "a link to nowhere", prepare: func(b string) { _ = os.Symlink(b+"/real", b+"/data") }, dir: "data", refused: "is a link to"},
		{title: "absent with its parent", dir: "none/data", refused: "none is no directory"},
		{title: "a file", prepare: func(b string) { write(t, b+"/data", "x") }, dir: "data", refused: "is not a directory"},
		{title: "below a file", prepare: func(b string) { write(t, b+"/file", "x") }, dir: "file/data", refused: "file"},
		{title: "not empty", prepare: func(b string) { write(t, b+"/data/notes", "x") }, dir: "data", refused: `"notes" is in it`},
		{title: "a mount point", prepare: func(b string) { _ = os.MkdirAll(b+"/data/lost+found", 0o700) }, dir: "data", refused: "mount point"},
		{title: "a cluster", prepare: func(b string) { write(t, b+"/data/PG_VERSION", "18\n") }, dir: "data", refused: "it holds a cluster"},
		{title: "a cluster with a server running", prepare: func(b string) { write(t, b+"/data/postmaster.pid", fmt.Sprintf("%d\n", os.Getpid())) }, dir: "data",
			refused: fmt.Sprintf("in use by the server with process id %d", os.Getpid())},
		{title: "a cluster whose server is gone", prepare: func(b string) { write(t, b+"/data/postmaster.pid", "999999999\n") }, dir: "data", refused: "is not empty"},
		{title: "inside a cluster", prepare: func(b string) { write(t, b+"/other/PG_VERSION", "18\n"); _ = os.Mkdir(b+"/other/base", 0o700) },
			dir: "other/base/data", refused: "lies inside the cluster at"},
		{title: "inside a cluster through a link", prepare: func(b string) {
			write(t, b+"/other/PG_VERSION", "18\n")
			_ = os.Mkdir(b+"/other/base", 0o700)
			_ = os.Symlink(b+"/other/base", b+"/alias")
		}, dir: "alias/data", refused: "lies inside the cluster at"},
		{title: "inside a tablespace", prepare: func(b string) { _ = os.MkdirAll(b+"/ts/PG_18_202506291/5", 0o700) }, dir: "ts/PG_18_202506291/5/data", refused: "lies inside the tablespace at"},
		{title: "beside the files of a tablespace", prepare: func(b string) { _ = os.MkdirAll(b+"/ts/PG_18_202506291", 0o700) }, dir: "ts/data", refused: "lies inside the tablespace at"},
	} {
		t.Run(c.title, func(t *testing.T) {
			base := t.TempDir()
			if c.prepare != nil {
				c.prepare(base)
			}
			err := checkDirectory("target directory", filepath.Join(base, c.dir))
			if c.refused == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), c.refused) || hint.Of(err) == "" {
				t.Errorf("error %v with hint %q, want one with %q", err, hint.Of(err), c.refused)
			}
		})
	}
}

func TestDestinationsAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	base := t.TempDir()
	write(t, filepath.Join(base, "full", "x"), "x")
	entries := append(cluster(), entry{path: "zlog", link: filepath.Join(base, "log")})
	h := repo.BackupHeader{Tablespaces: []repo.Tablespace{{OID: 16384, Name: "one", Location: filepath.Join(base, "ts")},
		{OID: 16385, Name: "two", InPlace: true}}}
	_, s := stored(t, entries, h)
	for _, c := range []struct {
		title   string
		change  func(o *Options)
		refused string
	}{
		{"a tablespace's directory that is not empty", func(o *Options) { o.TablespaceMap = map[string]string{"one": base + "/full"} }, "directory of tablespace 16384"},
		{"a tablespace inside the target directory", func(o *Options) { o.TablespaceMap = map[string]string{"16384": o.TargetDir + "/ts"} }, "directory of tablespace 16384"},
		{"a tablespace in the directory above the target", func(o *Options) {
			o.TargetDir, o.TablespaceMap = base+"/full/data", map[string]string{"one": base + "/full"}
		}, "is not empty"},
		{"a relative directory", func(o *Options) { o.TablespaceMap = map[string]string{"one": "ts"} }, "not an absolute path"},
		{"two for the same directory", func(o *Options) { o.LinkMap = map[string]string{"zlog": base + "/ts"} }, "lie inside one another"},
		{"a link's destination that is not empty", func(o *Options) { o.LinkMap = map[string]string{"zlog": base + "/full"} }, "destination of the link zlog"},
		{"a tablespace that the backup does not have", func(o *Options) { o.TablespaceMap = map[string]string{"three": base + "/x"} }, `no tablespace "three"`},
		{"a link that the backup does not have", func(o *Options) { o.LinkMap = map[string]string{"pg_wal": base + "/x"} }, `no link "pg_wal"`},
		{"a tablespace in place", func(o *Options) { o.TablespaceMap = map[string]string{"two": base + "/x"} }, "lies in place"},
	} {
		t.Run(c.title, func(t *testing.T) {
			o := options(s, filepath.Join(base, "data"))
			o.LinkAll = true
			c.change(&o)
			_, err := Run(context.Background(), o)
			if !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), c.refused) || hint.Of(err) == "" {
				t.Errorf("error %v with hint %q, want one with %q", err, hint.Of(err), c.refused)
			}
			for _, dir := range []string{"data", "ts", "log"} {
				if exists(t, filepath.Join(base, dir)) {
					t.Errorf("%s was made", dir)
				}
			}
		})
	}
}
