package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The majors that pgbak supports.
const (
	oldestMajor = 13
	newestMajor = 18
)

// toInstall ends every message about something missing, so that the reader knows the way out.
const toInstall = "run make test, or scripts/install-postgres.sh"

// Majors returns the PostgreSQL majors to test in ascending order: 13 to 18, or those of them that PGBAK_TEST_MAJORS
// names, as in "15,18". It does not look which are installed: BinDir and Start fail for one that is not.
func Majors() []int {
	return majorsIn(os.Getenv("PGBAK_TEST_MAJORS"))
}

// majorsIn is Majors for a given restriction. A restriction that names no supported major at all is taken as
// none: testing too much is noticed, testing nothing is not.
func majorsIn(restriction string) []int {
	var all, named []int
	words := strings.FieldsFunc(restriction, func(r rune) bool { return r == ',' || r == ' ' })
	for major := oldestMajor; major <= newestMajor; major++ {
		all = append(all, major)
		if slices.Contains(words, strconv.Itoa(major)) {
			named = append(named, major)
		}
	}
	if len(named) == 0 {
		return all
	}
	return named
}

// BinDir returns the directory with postgres, initdb and pg_ctl of a major, and fails the test if it is not installed.
func BinDir(t testing.TB, major int) string {
	t.Helper()
	var tried []string
	for _, cache := range cacheDirs() {
		dir := filepath.Join(cache, "postgres", strconv.Itoa(major), "bin")
		if executable(filepath.Join(dir, "postgres")) && executable(filepath.Join(dir, "initdb")) {
			return dir
		}
		tried = append(tried, dir)
	}
	t.Fatalf("no server of PostgreSQL %d in %s: %s", major, strings.Join(tried, " or "), toInstall)
	return ""
}

// cacheDirs returns where scripts/install-postgres.sh may have put servers (scripts/servers.sh has the rule). A user
// also finds what root installed.
func cacheDirs() []string {
	if dir := os.Getenv("PGBAK_TEST_CACHE"); dir != "" {
		return []string{dir}
	}
	const shared = "/var/cache/pgbak"
	if os.Getuid() == 0 {
		return []string{shared}
	}
	own, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	if err != nil {
		return []string{shared}
	}
	return []string{filepath.Join(own, "pgbak"), shared}
}

// Tool returns the path of a client tool of the distribution's PostgreSQL, such as pgbench or pg_verifybackup, of major
// ToolMajor, and fails the test if there is none.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(debianDir, strconv.Itoa(ToolMajor()), "bin", name)
	if executable(path) {
		return path
	}
	t.Fatalf("the distribution's PostgreSQL tool %s is not at %s: %s", name, path, toInstall)
	return ""
}

// debianDir holds MAJOR/bin for each major that Debian's or Ubuntu's packages installed.
const debianDir = "/usr/lib/postgresql"

// ToolMajor returns the newest major of which the distribution's tools are installed, or 0 if none is. Tools read the
// formats of their own major: pg_verifybackup 15, for instance, refuses the backup_manifest that 17 writes.
func ToolMajor() int {
	newest := 0
	found, _ := filepath.Glob(filepath.Join(debianDir, "*", "bin", "pgbench")) // fails on a bad pattern only
	for _, path := range found {
		major, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err == nil && major > newest {
			newest = major
		}
	}
	return newest
}

// executable tells whether path is a file that may be executed.
func executable(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}
