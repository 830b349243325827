package lint

import (
	"fmt"
	"strings"
	"testing"
)

// expect compares findings, joined, with a text that they must contain; "" means there must be none.
func expect(t *testing.T, findings []Finding, want string) {
	t.Helper()
	var lines []string
	for _, finding := range findings {
		if finding.Why == "" {
			t.Errorf("%v gives no reason", finding)
		}
		lines = append(lines, finding.String())
	}
	got := strings.Join(lines, "\n")
	if (want == "") != (got == "") || !strings.Contains(got, want) {
		t.Errorf("findings are %q, want %q in them", got, want)
	}
}

// parse makes a file of a sample.
func parse(t *testing.T, path, text string) File {
	t.Helper()
	f, err := ParseFile(path, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLayerRules(t *testing.T) {
	for _, test := range []struct{ title, from, imports, want string }{
		{"storage does not know repo", "storage", "repo", "storage: imports repo (imports point down only)"},
		{"a driver does not know repo", "storage/posix", "repo/codec", "storage/posix: imports repo/codec"},
		{"storage may use what is internal", "storage/s3", "internal/hint", ""},
		{"a driver may import its layer", "storage/posix", "storage", ""},
		{"repo does not know backup", "repo", "backup", "repo: imports backup"},
		{"repo may use storage", "repo", "storage/mem", ""},
		{"archive does not know backup", "archive", "backup", "archive: imports backup (archive, backup and restore are siblings"},
		{"backup does not know restore", "backup", "restore/target", "backup: imports restore/target"},
		{"restore does not know archive", "restore", "archive", "restore: imports archive"},
		{"restore may use repo", "restore", "repo", ""},
		{"what is internal knows no layer", "internal/hint", "storage", "internal/hint: imports storage"},
		{"PostgreSQL's formats know no layer", "internal/postgres/server", "repo", "internal/postgres/server: imports repo"},
		{"readiness may use repo", "internal/readiness", "repo", ""},
		{"a command may use all", "cmd/pgbak", "restore", ""},
		{"a similar name is not the same layer", "repository", "storage", "repository: is in no layer"},
		{"a new directory must get a place", "novelty", "fmt", "novelty: is in no layer"},
	} {
		t.Run(test.title, func(t *testing.T) {
			p := Package{ImportPath: modulePath + "/" + test.from, Imports: []string{"fmt", modulePath + "/" + test.imports}}
			expect(t, CheckLayers([]Package{p, {ImportPath: "fmt", Imports: []string{"os"}}}, layers()), test.want)
		})
	}
}

func TestFenceRules(t *testing.T) {
	const ours = modulePath + "/"
	for _, test := range []struct{ title, from, direct, linked, want string }{
		{"Kubernetes stays out of the command", "cmd/pgbak", "", "k8s.io/api/core/v1", "cmd/pgbak: is linked with k8s.io/api/core/v1 (only k8sjob"},
		{"controller-runtime stays out of backup", "backup", "", "sigs.k8s.io/controller-runtime", "backup: is linked with"},
		{"k8sjob may use Kubernetes", "k8sjob", "k8s.io/api/batch/v1", "k8s.io/api/batch/v1", ""},
		{"the operator's command may use Kubernetes", "cmd/pgbak-operator", "", "k8s.io/api/batch/v1", ""},
		{"PostgreSQL's formats use no driver", "internal/postgres", "github.com/jackc/pgx/v5/pgconn", "", "internal/postgres: imports github.com/jackc/pgx"},
		{"PostgreSQL's formats use nothing foreign", "internal/postgres", "filippo.io/age", "", "internal/postgres: imports filippo.io/age"},
		{"PostgreSQL's formats may ask which instructions the processor has", "internal/postgres", "golang.org/x/sys/cpu", "", ""},
		{"PostgreSQL's formats may use the standard library and ours", "internal/postgres", ours + "internal/hint", "encoding/binary", ""},
		{"the connection uses the driver", "internal/postgres/server", "github.com/jackc/pgx/v5/pgconn", "github.com/jackc/pgx/v5/pgconn", ""},
		{"the repository is not linked with the driver", "repo", "", "github.com/jackc/pgx/v5/pgconn", "repo: is linked with github.com/jackc"},
		{"flags stay out of libraries", "archive", "", "github.com/spf13/cobra", "archive: is linked with github.com/spf13/cobra"},
		{"the test kit stays out of commands", "cmd/pgbak", "", ours + "internal/pgtest", "cmd/pgbak: is linked with"},
		{"testing stays out of repo", "repo", "", "testing", "repo: is linked with testing"},
		{"a conformance suite is for tests", "storage/storagetest", "", "testing", ""},
		{"repo does not ask readiness", "restore", "", ours + "internal/readiness", "restore: is linked with"},
		{"backup may ask readiness", "backup", "", ours + "internal/readiness", ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			p := Package{ImportPath: ours + test.from, Imports: []string{test.direct}, Deps: []string{"fmt", test.linked}}
			foreign := Package{ImportPath: "k8s.io/api", Deps: []string{"k8s.io/apimachinery"}}
			expect(t, CheckFences([]Package{p, foreign}, fences()), test.want)
		})
	}
}

func TestExitRule(t *testing.T) {
	for _, test := range []struct{ title, path, body, want string }{
		{"os.Exit", "repo/a.go", `import "os"; func f() { os.Exit(1) }`, "repo/a.go:1: uses os.Exit"},
		{"os.Exit under another name", "repo/a.go", `import o "os"; func f() { o.Exit(1) }`, "uses os.Exit"},
		{"os.Exit as a value", "repo/a.go", `import "os"; var end = os.Exit`, "uses os.Exit"},
		{"log.Fatalf", "storage/a.go", `import "log"; func f() { log.Fatalf("x") }`, "uses log.Fatalf"},
		{"log.Panicln", "storage/a.go", `import "log"; func f() { log.Panicln("x") }`, "uses log.Panicln"},
		{"panic", "internal/x/a.go", `func f() { panic("x") }`, "calls panic"},
		{"panic is allowed in a test", "internal/x/a_test.go", `func f() { panic("x") }`, ""},
		{"os.Exit is allowed in a command", "cmd/pgbak/main.go", `import "os"; func f() { os.Exit(1) }`, ""},
		{"another package's Exit", "repo/a.go", `import "example.org/os2"; func f() { os2.Exit(1) }`, ""},
		{"Fatal of a test", "internal/pgtest/a.go", `import "testing"; func f(t testing.TB) { t.Fatal("x") }`, ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			expect(t, CheckExits(parse(t, test.path, "package a; "+test.body)), test.want)
		})
	}
}

func TestClockRule(t *testing.T) {
	allowed := map[string]string{"repo/allowed.go": "a reason"}
	for _, test := range []struct{ title, path, body, want string }{
		{"time.Now called", "repo/a.go", `import "time"; var t = time.Now()`, "repo/a.go:1: uses time.Now"},
		{"time.Now as a value", "backup/sub/a.go", `import "time"; var clock = time.Now`, "uses time.Now"},
		{"time.Since", "archive/a.go", `import "time"; var d = time.Since(t)`, "uses time.Since"},
		{"time.Until", "restore/a.go", `import "time"; var d = time.Until(t)`, "uses time.Until"},
		{"other things of package time", "repo/a.go", `import "time"; var d = 3 * time.Second`, ""},
		{"a test", "repo/a_test.go", `import "time"; var t = time.Now()`, ""},
		{"a command", "cmd/pgbak/a.go", `import "time"; var t = time.Now()`, ""},
		{"a driver", "storage/s3/a.go", `import "time"; var t = time.Now()`, ""},
		{"a file with a reason", "repo/allowed.go", `import "time"; var t = time.Now()`, ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			expect(t, CheckClock(parse(t, test.path, "package a; "+test.body), allowed), test.want)
		})
	}
}

func TestStartRule(t *testing.T) {
	for _, test := range []struct{ title, path, body, want string }{
		{"a regular expression", "repo/a.go", `import "regexp"; var form = regexp.MustCompile("x")`, "repo/a.go:1: compiles a regular expression"},
		{"one within a table", "cmd/pgbak/a.go", `import "regexp"; var forms = []*regexp.Regexp{regexp.MustCompilePOSIX("x")}`, "compiles a regular expression"},
		{"one that waits", "repo/a.go", `import ("regexp"; "sync"); var form = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("x") })`, ""},
		{"one in a function", "repo/a.go", `import "regexp"; func f() { regexp.MustCompile("x") }`, ""},
		{"init", "storage/a.go", `func init() {}`, "storage/a.go:1: has a function init"},
		{"a method called init", "storage/a.go", `type t int; func (t) init() {}`, ""},
		{"a test", "repo/a_test.go", `import "regexp"; var form = regexp.MustCompile("x")`, ""},
		{"the rules themselves", "internal/lint/a.go", `import "regexp"; var form = regexp.MustCompile("x")`, ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			expect(t, CheckStarts(parse(t, test.path, "package a; "+test.body)), test.want)
		})
	}
}

func TestLengthRule(t *testing.T) {
	function := func(lines int) string {
		return "package a\n\nfunc f() {\n" + strings.Repeat("\tf()\n", lines-2) + "}\n"
	}
	file := func(lines int) string { return "package a\n" + strings.Repeat("// line\n", lines-1) }
	for _, test := range []struct{ title, path, text, want string }{
		{"a function at the ceiling", "repo/a.go", function(70), ""},
		{"a function above the ceiling", "repo/a.go", function(71), "repo/a.go:3: f has 71 lines, more than 70"},
		{"a long test", "repo/a_test.go", function(90), ""},
		{"a file at the ceiling", "repo/a.go", file(400), ""},
		{"a file above the ceiling", "repo/a.go", file(401), "repo/a.go: has 401 lines, more than 400"},
		{"a long generated file", "repo/a.go", "// Code generated by x. DO NOT EDIT.\n\n" + file(500), ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			expect(t, CheckLengths(parse(t, test.path, test.text)), test.want)
		})
	}
}

func TestFormatRule(t *testing.T) {
	expect(t, CheckFormat(parse(t, "a.go", "package a\n\nvar b = 1\n")), "")
	expect(t, CheckFormat(parse(t, "a.go", "package a\nvar b  = 1\n")), "a.go: is not as gofmt writes it")
}

func TestUnfinishedRule(t *testing.T) {
	for _, mark := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
		text := fmt.Sprintf("package a\n// %s: later\n", mark)
		expect(t, CheckUnfinished("a.go", []byte(text)), "a.go:2: says "+mark)
	}
	expect(t, CheckUnfinished("a.go", []byte("mktemp /tmp/a.X"+"XXXXX, all is done\n")), "")
}

func TestPackageCommentRule(t *testing.T) {
	const comment = "// Package a does this and that, and begins with type A.\npackage a\n"
	for _, test := range []struct {
		title string
		files map[string]string
		want  string
	}{
		{"a comment in one file", map[string]string{"a/a.go": comment, "a/b.go": "package a\n"}, ""},
		{"no comment", map[string]string{"a/a.go": "package a\n"}, "a: has no package comment"},
		{"a comment that says nothing", map[string]string{"a/a.go": "// Package a.\npackage a\n"}, "a: has no package comment"},
		{"a comment in a test alone", map[string]string{"a/a.go": "package a\n", "a/a_test.go": comment}, "a: has no package comment"},
		{"a package of tests with a comment", map[string]string{"a/a_test.go": comment}, ""},
		{"a package of tests without", map[string]string{"a/a_test.go": "package a\n"}, "a: has no package comment"},
		{"each directory counts", map[string]string{"a/a.go": comment, "a/sub/b.go": "package b\n"}, "a/sub: has no package comment"},
	} {
		t.Run(test.title, func(t *testing.T) {
			var files []File
			for path, text := range test.files {
				files = append(files, parse(t, path, text))
			}
			expect(t, CheckPackageComments(files), test.want)
		})
	}
}
