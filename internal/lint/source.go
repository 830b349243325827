package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Ceilings of what a reader can keep in mind, in lines. Tests and generated files are not held to them.
const (
	maxFunctionLines = 70
	maxFileLines     = 400
)

// A File is one Go file of the module.
type File struct {
	// Path is relative to the module's root, with slashes.
	Path string
	// Text is what is in it.
	Text []byte

	fset *token.FileSet
	tree *ast.File
}

// ParseFile prepares a file for the rules.
func ParseFile(path string, text []byte) (File, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return File{}, fmt.Errorf("parse: %w", err)
	}
	return File{Path: path, Text: text, fset: fset, tree: tree}, nil
}

// Files reads and parses the Go files below root. Directories that the go command does not look into (testdata, those
// with a dot or an underscore in front) are left out.
func Files(root string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if entry.IsDir() {
			if name != root && (base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(base) != ".go" || !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		file, err := ParseFile(filepath.ToSlash(relative), text)
		if err != nil {
			return err
		}
		files = append(files, file)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the module's files: %w", err)
	}
	return files, nil
}

func (f File) test() bool      { return strings.HasSuffix(f.Path, "_test.go") }
func (f File) generated() bool { return ast.IsGenerated(f.tree) }

// at makes a finding for a place in the file.
func (f File) at(pos token.Pos, what, why string) Finding {
	return Finding{fmt.Sprintf("%s:%d", f.Path, f.fset.Position(pos).Line), what, why}
}

// selectors calls visit for every qualified identifier whose package is imported from the given path under
// whatever name: for "os" it finds os.Exit, and o.Exit after import o "os".
func (f File) selectors(importPath string, visit func(at *ast.SelectorExpr)) {
	name := ""
	for _, spec := range f.tree.Imports {
		if imported, err := strconv.Unquote(spec.Path.Value); err != nil || imported != importPath {
			continue
		}
		name = path.Base(importPath)
		if spec.Name != nil {
			name = spec.Name.Name
		}
	}
	if name == "" {
		return
	}
	ast.Inspect(f.tree, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && x.Name == name {
				visit(selector)
			}
		}
		return true
	})
}

// CheckExits finds calls that end the process: os.Exit, log.Fatal and log.Panic with their variants, and panic, in
// files that are neither tests nor below cmd.
func CheckExits(f File) []Finding {
	if f.test() || within(f.Path, "cmd") {
		return nil
	}
	const why = "only a command may end the program: a library returns an error, so that what is under way is cleaned up"
	var findings []Finding
	f.selectors("os", func(at *ast.SelectorExpr) {
		if at.Sel.Name == "Exit" {
			findings = append(findings, f.at(at.Pos(), "uses os.Exit", why))
		}
	})
	f.selectors("log", func(at *ast.SelectorExpr) {
		if strings.HasPrefix(at.Sel.Name, "Fatal") || strings.HasPrefix(at.Sel.Name, "Panic") {
			findings = append(findings, f.at(at.Pos(), "uses log."+at.Sel.Name, why))
		}
	})
	ast.Inspect(f.tree, func(node ast.Node) bool {
		if call, ok := node.(*ast.CallExpr); ok {
			if called, ok := call.Fun.(*ast.Ident); ok && called.Name == "panic" {
				findings = append(findings, f.at(call.Pos(), "calls panic", why))
			}
		}
		return true
	})
	return findings
}

// clockless are the parts that decide what is kept, chosen and found, and that take their time from outside.
func clockless() []string { return []string{"repo", "archive", "backup", "restore"} }

// CheckClock finds readings of the machine's clock in the files of clockless that are not tests. A file in allowed, which
// maps paths to reasons, may read it.
func CheckClock(f File, allowed map[string]string) []Finding {
	if f.test() || !covers(clockless(), f.Path) || allowed[f.Path] != "" {
		return nil
	}
	var findings []Finding
	f.selectors("time", func(at *ast.SelectorExpr) {
		switch at.Sel.Name {
		case "Now", "Since", "Until":
			findings = append(findings, f.at(at.Pos(), "uses time."+at.Sel.Name,
				"policy takes a clock func() time.Time, so that tests can set the time and a wrong clock is one person's decision"))
		}
	})
	return findings
}

// CheckLengths finds functions and files that are too long.
func CheckLengths(f File) []Finding {
	if f.test() || f.generated() {
		return nil
	}
	var findings []Finding
	if lines := bytes.Count(f.Text, []byte("\n")); lines > maxFileLines {
		findings = append(findings, Finding{f.Path, fmt.Sprintf("has %d lines, more than %d", lines, maxFileLines),
			"a file is one subject that can be read in one go; split it by subjects"})
	}
	for _, declaration := range f.tree.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := f.fset.Position(function.End()).Line - f.fset.Position(function.Pos()).Line + 1
		if lines > maxFunctionLines {
			findings = append(findings, f.at(function.Pos(), fmt.Sprintf("%s has %d lines, more than %d", function.Name.Name, lines, maxFunctionLines),
				"a function is a list of steps that fits a screen; name the steps"))
		}
	}
	return findings
}

// CheckFormat finds files that gofmt would change.
func CheckFormat(f File) []Finding {
	formatted, err := format.Source(f.Text)
	if err == nil && bytes.Equal(formatted, f.Text) {
		return nil
	}
	return []Finding{{f.Path, "is not as gofmt writes it", "run gofmt -w, so that changes show what changed"}}
}

// unfinished matches the marks of unfinished work; written so that this file does not match itself.
var unfinished = regexp.MustCompile(`\b(` + "TO" + "DO|FIX" + "ME|XX" + `X)\b`)

// CheckUnfinished finds marks of unfinished work in the text of any file.
func CheckUnfinished(path string, text []byte) []Finding {
	var findings []Finding
	for i, line := range bytes.Split(text, []byte("\n")) {
		if mark := unfinished.Find(line); mark != nil {
			findings = append(findings, Finding{fmt.Sprintf("%s:%d", path, i+1), "says " + string(mark),
				"finish it, or open an issue: a mark in the code is read by nobody who decides"})
		}
	}
	return findings
}

// CheckPackageComments finds packages without a comment that a newcomer can start from. A package that consists of
// tests alone needs one too.
func CheckPackageComments(files []File) []Finding {
	documented := make(map[string]bool)
	hasCode := make(map[string]bool)
	for _, f := range files {
		if !f.test() {
			hasCode[path.Dir(f.Path)] = true
		}
	}
	for _, f := range files {
		dir := path.Dir(f.Path)
		if f.test() && hasCode[dir] {
			continue // godoc shows the comments of the package's own files only
		}
		const sentence = 40 // characters; less than that says nothing
		documented[dir] = documented[dir] || len(strings.TrimSpace(f.tree.Doc.Text())) >= sentence
	}
	var findings []Finding
	for dir, ok := range documented {
		if !ok {
			findings = append(findings, Finding{dir, "has no package comment", "a stranger starts there: say what it is for and how its parts hang together"})
		}
	}
	return findings
}
