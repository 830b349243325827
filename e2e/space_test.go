package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// memoryDir is a directory in memory for at most size bytes, which belongs to
// the server user. Without root, who alone can mount, it is one on the disk.
func memoryDir(t *testing.T, size int) string {
	t.Helper()
	dir := pgtest.TempDir(t)
	if os.Getuid() != 0 {
		return dir
	}
	mount(t, dir, size, 0)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	pgtest.GiveToServer(t, dir)
	return dir
}

// smallDir is a memoryDir that does have the size.
func smallDir(t *testing.T, size int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a small tmpfs can be mounted by root only; CI runs as root")
	}
	return memoryDir(t, size)
}

// mount mounts a tmpfs at dir, or with MS_REMOUNT changes its size.
func mount(t *testing.T, dir string, size int, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
}

// ballast puts a file of size bytes that does not compress into a directory. In a
// data directory it is content that every backup has to store.
func ballast(t *testing.T, dir, name string, size int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(size)}), size)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, f.Name())
}

// smallRepository is a host whose repository is on a file system of 64 MiB.
func smallRepository(t *testing.T) *host {
	t.Helper()
	h := newHost(t, hostOptions{})
	small := smallDir(t, 64<<20)
	h.repo = filepath.Join(small, "repo")
	h.configure(t, h.DataDir, h.DSN(), "")
	h.expect(t, codeOK, "init")
	h.expect(t, codeOK, "check")
	return h
}

func TestABackupIntoAFullRepositorySaysSoAndTheNextOneSucceeds(t *testing.T) {
	t.Parallel()
	h := smallRepository(t)
	ballast(t, h.DataDir, "ballast", 80<<20)
	o := h.expect(t, codeStorage, "backup")
	says(t, o.stderr, "no space left", "hint: ")
	if n := len(h.backups(t)); n != 0 {
		t.Errorf("%d backups are listed", n)
	}
	for _, left := range []string{"packs", "pins"} {
		if entries, err := os.ReadDir(filepath.Join(h.repo, left)); err == nil && len(entries) > 0 {
			t.Errorf("the failed backup keeps %s: WAL needs the room", left)
		}
	}
	h.Exec(t, "CREATE TABLE still_alive AS SELECT 1 AS n")
	h.expect(t, codeOK, "check") // WAL arrives again, without a hand being laid on
	mount(t, filepath.Dir(h.repo), 512<<20, syscall.MS_REMOUNT)
	b := h.backup(t)
	_, s := h.mustOpen(t)
	if err := readBackup(t.Context(), s, b.Backup.Label); err != nil {
		t.Error(err)
	}
}

func TestAPushIntoAFullRepositorySaysSoAndTheServerGoesOn(t *testing.T) {
	t.Parallel()
	h := smallRepository(t)
	fill, err := os.Create(filepath.Join(filepath.Dir(h.repo), "fill"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(fill, bytes.NewReader(make([]byte, 128<<20)))
	if err == nil || n == 0 {
		t.Fatalf("%d bytes did not fill the file system: %v", n, err)
	}
	fill.Close()
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n")
	name := h.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	h.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t", time.Minute)
	o := h.expect(t, codeStorage, "archive-push", filepath.Join(h.DataDir, "pg_wal", name))
	says(t, o.stderr, "no space left", name, "hint: ")
	says(t, h.Log(), "no space left", "hint: ")
	if n := h.Query(t, "SELECT count(*) FROM t"); n != "20000" {
		t.Errorf("the server says %s", n)
	}
	if err := os.Remove(fill.Name()); err != nil {
		t.Fatal(err)
	}
	h.expect(t, codeOK, "archive-push", filepath.Join(h.DataDir, "pg_wal", name))
	h.expect(t, codeOK, "check")
	h.WaitFor(t, fmt.Sprintf("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver", name), "t", 2*time.Minute)
	h.backup(t)
}

func TestARestoreThatDoesNotFitFailsAndCannotBeStarted(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	ballast(t, h.DataDir, "ballast", 20<<20)
	h.backup(t)
	small := smallDir(t, 32<<20)
	into := filepath.Join(small, "data")
	o := h.run(t, "restore", "--target-dir", into)
	if o.code == codeOK || o.code < 0 {
		t.Errorf("exit %d", o.code)
	}
	says(t, o.stderr, "no space left", into, "hint: ")
	if exists(filepath.Join(into, "global", "pg_control")) {
		t.Error("pg_control is in place")
	}
	if !exists(filepath.Join(into, "base")) {
		t.Error("nothing was written: the test did not meet what it is about")
	}
	if status := pgtest.Open(t, into, h.Major, nil).WaitExit(t, time.Minute); status == 0 {
		t.Error("a server started on it")
	}
	mount(t, small, 256<<20, syscall.MS_REMOUNT)
	h.expect(t, codeRefused, "restore", "--target-dir", into)
	if err := os.RemoveAll(into); err != nil {
		t.Fatal(err)
	}
	h.expect(t, codeOK, "restore", "--target-dir", into)
	verifyBackup(t, into)
}
