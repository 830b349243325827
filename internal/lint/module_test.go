package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the module's directory, seen from this package.
const root = "../.."

// report fails the test with each finding.
func report(t *testing.T, findings []Finding) {
	t.Helper()
	for _, finding := range findings {
		t.Error(finding)
	}
}

// mayReadTheClock lists files of the clockless parts that read the machine's clock all the same, with the reason.
func mayReadTheClock() map[string]string {
	return map[string]string{}
}

func TestImportsPointDown(t *testing.T) {
	packages, err := Packages(root)
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, p := range packages {
		seen = seen || p.ImportPath == modulePath+"/internal/lint"
	}
	if !seen {
		t.Fatalf("go list does not show this very package among %d", len(packages))
	}
	report(t, CheckLayers(packages, layers()))
	report(t, CheckFences(packages, fences()))
}

func TestSourcesKeepTheHouseRules(t *testing.T) {
	files, err := Files(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("only %d Go files found", len(files))
	}
	for _, f := range files {
		report(t, CheckExits(f))
		report(t, CheckClock(f, mayReadTheClock()))
		report(t, CheckStarts(f))
		report(t, CheckLengths(f))
		report(t, CheckFormat(f))
	}
	report(t, CheckPackageComments(files))
}

func TestNothingIsMarkedUnfinished(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (name == ".git" || name == "bin" || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		switch filepath.Ext(name) {
		case ".go", ".sh", ".md", ".yaml", ".yml", ".mod":
		default:
			if name != "Makefile" && name != "run" {
				return nil
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		report(t, CheckUnfinished(strings.TrimPrefix(filepath.ToSlash(path), root+"/"), text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
