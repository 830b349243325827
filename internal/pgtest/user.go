package pgtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// account is the user that servers run as.
type account struct {
	uid, gid int
	home     string
	// credential is nil if that is the user who runs the test.
	credential *syscall.Credential
}

// serverAccount returns the user who runs the test, or for root, as PostgreSQL refuses root, user postgres or else
// nobody (initdb needs a user that has a name).
func serverAccount() (account, error) {
	if os.Getuid() != 0 {
		return account{uid: os.Getuid(), gid: os.Getgid(), home: os.Getenv("HOME")}, nil
	}
	found, err := user.Lookup("postgres")
	if err != nil {
		found, err = user.Lookup("nobody")
	}
	if err != nil {
		return account{}, fmt.Errorf("no user to run PostgreSQL as (it refuses root): %w", err)
	}
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user id of %s: %w", found.Username, err)
	}
	gid, err := strconv.ParseUint(found.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("group id of %s: %w", found.Username, err)
	}
	return account{
		uid: int(uid), gid: int(gid), home: found.HomeDir,
		credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}, nil
}

// mustAccount is serverAccount for tests.
func mustAccount(t testing.TB) account {
	t.Helper()
	a, err := serverAccount()
	if err != nil {
		t.Fatalf("%v: %s", err, toInstall)
	}
	return a
}

// environment is that of the test without what would lead a PostgreSQL program elsewhere (PGHOST, PGDATA and so on), and
// with messages in English, times in UTC, and a home that the user can read. Variables of pgbak itself go too.
func (a account) environment() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		switch {
		case strings.HasPrefix(name, "PG"), strings.HasPrefix(name, "LC_"),
			name == "LANG", name == "LANGUAGE", name == "TZ", name == "HOME":
		default:
			env = append(env, entry)
		}
	}
	return append(env, "LC_ALL=C", "TZ=UTC", "HOME="+a.home)
}

// Command returns a command that runs as the server user, with a clean environment (no PG* variables, LC_ALL=C,
// TZ=UTC) and the directory for temporary files as its working directory, as the one of the test may be closed to that
// user. Env and Dir may be changed before it is started.
func Command(t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	a := mustAccount(t)
	cmd := exec.Command(path, args...)
	cmd.Env = a.environment()
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential}
	return cmd
}

// TempDir returns a new directory, mode 0700, that belongs to the server user, in a place that this user can reach
// (testing.TB.TempDir is not, for root). It is removed when the test ends.
func TempDir(t testing.TB) string {
	t.Helper()
	return tempDirIn(t, os.TempDir())
}

// socketDir is a TempDir for a Unix socket, whose path may have 107 bytes only (sun_path in unix(7)).
func socketDir(t testing.TB) string {
	t.Helper()
	base := os.TempDir()
	if len(base) > 107-len("/pgbak-1234567890/.s.PGSQL.12345.lock") {
		base = "/tmp"
	}
	return tempDirIn(t, base)
}

func tempDirIn(t testing.TB, base string) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "pgbak-")
	if err != nil {
		t.Fatalf("temporary directory: %v", err)
	}
	t.Cleanup(func() { removeAll(t, dir) })
	GiveToServer(t, dir)
	return dir
}

// removeAll removes a directory of TempDir, unless the developer wants to look at it.
func removeAll(t testing.TB, dir string) {
	if os.Getenv("PGBAK_TEST_KEEP") != "" {
		t.Logf("kept: %s", dir)
		return
	}
	err := os.RemoveAll(dir)
	if err == nil {
		return
	}
	// A test may have taken away the right to write: root is not stopped by that, others are.
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("temporary directory: %v", err)
	}
}

// GiveToServer makes the server user the owner of path and of everything below it; links are not followed. It does
// nothing when the test itself runs as that user.
func GiveToServer(t testing.TB, path string) {
	t.Helper()
	a := mustAccount(t)
	if a.credential == nil {
		return
	}
	err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
	if err != nil {
		t.Fatalf("give %s to the server user: %v", path, err)
	}
}
