package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// failing is a testing.TB that remembers its Fatalf instead of failing the test that uses it.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure returns what f says when it fails its test, and fails t if it does not.
func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	tb := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	if tb.said == "" {
		t.Error("the test was not failed")
	}
	return tb.said
}

func TestMajors(t *testing.T) {
	all := []int{13, 14, 15, 16, 17, 18}
	for _, test := range []struct {
		title, restriction string
		want               []int
	}{
		{"no restriction means all", "", all},
		{"named ones in ascending order", "18,15", []int{15, 18}},
		{"spaces are allowed", "13, 17", []int{13, 17}},
		{"an unsupported major is left out", "12,16", []int{16}},
		{"nothing but nonsense means all, never none", "12,x", all},
	} {
		t.Run(test.title, func(t *testing.T) {
			if got := majorsIn(test.restriction); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestMissingServerFailsTheTestAndSaysWhatToDo(t *testing.T) {
	t.Setenv("PGBAK_TEST_CACHE", t.TempDir())
	for _, said := range []string{
		failure(t, func(tb testing.TB) { BinDir(tb, 16) }),
		failure(t, func(tb testing.TB) { Start(tb, Options{Major: 16}) }),
		failure(t, func(tb testing.TB) { Tool(tb, "pg_absent") }),
	} {
		if !strings.Contains(said, "run make test, or scripts/install-postgres.sh") {
			t.Errorf("%q does not say what to do", said)
		}
	}
}

func TestToolsAreThere(t *testing.T) {
	for _, name := range []string{"pgbench", "pg_verifybackup", "pg_amcheck", "pg_waldump", "pg_controldata"} {
		out, err := Command(t, Tool(t, name), "--version").CombinedOutput()
		if want := fmt.Sprintf("(PostgreSQL) %d.", ToolMajor()); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s --version says %q, %v; want %s", name, out, err, want)
		}
	}
}

func TestServerUserWorksInTempDirAndRunsPgbak(t *testing.T) {
	dir := TempDir(t)
	script := fmt.Sprintf("id -u && cd %s && touch made && env", dir)
	t.Setenv("PGHOST", "nowhere")
	out, err := Command(t, "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.HasPrefix(string(out), "0\n") {
		t.Error("the command runs as root")
	}
	if strings.Contains(string(out), "PGHOST") || !strings.Contains(string(out), "TZ=UTC\n") {
		t.Errorf("the environment is not clean:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Error(err)
	}

	path := BuildPgbak(t)
	if out, err := Command(t, path, "version").CombinedOutput(); err != nil {
		t.Errorf("pgbak version: %v\n%s", err, out)
	}
	if again := BuildPgbak(t); again != path {
		t.Errorf("built twice, as %s and %s", path, again)
	}
}

func TestTempDirIsRemoved(t *testing.T) {
	var dir string
	t.Run("a test with a closed directory in its own", func(t *testing.T) {
		dir = TempDir(t)
		if err := os.MkdirAll(filepath.Join(dir, "closed", "below"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "closed"), 0); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}
