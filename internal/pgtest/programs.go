package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Pgbench runs the distribution's pgbench with the given arguments on database postgres and returns what it said. The
// test fails if pgbench does.
func Pgbench(t testing.TB, c *Cluster, args ...string) string {
	t.Helper()
	all := append([]string{"-h", c.SocketDir, "-p", strconv.Itoa(c.Port), "-U", "postgres"}, args...)
	out, err := Command(t, Tool(t, "pgbench"), append(all, "postgres")...).CombinedOutput()
	if err != nil {
		t.Fatalf("pgbench %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// builds holds the programs that this test process has built, by their tags: linking takes seconds, and many
// tests want the same program.
var builds struct {
	sync.Mutex
	dir   string
	paths map[string]string
}

// BuildPgbak returns the path of a pgbak built from cmd/pgbak with these build tags, in a place where the server user
// can execute it. It is built once per test process and set of tags.
func BuildPgbak(t testing.TB, tags ...string) string {
	t.Helper()
	path, err := buildProgram("pgbak", tags)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildProgram builds cmd/NAME.
func buildProgram(name string, tags []string) (string, error) {
	builds.Lock()
	defer builds.Unlock()
	tags = slices.Compact(slices.Sorted(slices.Values(tags)))
	key := name + " " + strings.Join(tags, ",")
	if path := builds.paths[key]; path != "" {
		return path, nil
	}
	if builds.dir == "" {
		dir, err := programDir()
		if err != nil {
			return "", err
		}
		builds.dir, builds.paths = dir, make(map[string]string)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(builds.dir, strings.Join(append([]string{"build"}, tags...), "-"))
	path := filepath.Join(dir, name)
	// Without version control stamps: they need a git that trusts the checkout's owner.
	cmd := exec.Command("go", "build", "-buildvcs=false", "-tags", strings.Join(tags, ","), "-o", path, "./cmd/"+name)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/%s with tags %v: %w\n%s", name, tags, err, out)
	}
	// go build obeys the umask, and another user has to enter.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o755)); err != nil {
		return "", fmt.Errorf("open cmd/%s to the server user: %w", name, err)
	}
	builds.paths[key] = path
	return path, nil
}

// programDir makes the directory for this process's programs. Nothing runs when a test process ends, so each
// removes what earlier ones left, which it knows by the process id in the name.
func programDir() (string, error) {
	const prefix = "pgbak-build-"
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*")) // fails on a bad pattern only
	for _, dir := range left {
		word, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if pid, err := strconv.Atoi(word); err == nil && !alive(pid) {
			_ = os.RemoveAll(dir) // another user's is not ours to remove
		}
	}
	dir, err := os.MkdirTemp(os.TempDir(), fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("directory for programs: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("directory for programs: %w", err)
	}
	return dir, nil
}

// moduleRoot returns the directory with go.mod above the working directory, which for a test is its package's.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}
