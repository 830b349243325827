package lint

import (
	"go/ast"
	"strings"
)

// CheckStarts finds work that a program does at its start, whatever it was started for: functions called init, and
// calls of package regexp, which compile, outside of functions. PostgreSQL starts the program for every segment of WAL, so each millisecond there is
// paid some ten thousand times a day. Tests and the benchmarks may.
func CheckStarts(f File) []Finding {
	if f.test() || within(f.Path, "bench") || within(f.Path, "internal/lint") || within(f.Path, "internal/pgtest") || within(f.Path, "internal/s3test") {
		return nil
	}
	const why = "every start of archive-push pays for it: compute it where it is needed, by sync.OnceValue if more than once"
	var findings []Finding
	for _, declaration := range f.tree.Decls {
		if function, ok := declaration.(*ast.FuncDecl); ok {
			if function.Name.Name == "init" && function.Recv == nil {
				findings = append(findings, f.at(function.Pos(), "has a function init", why))
			}
			continue
		}
		ast.Inspect(declaration, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.FuncLit:
				return false // runs when it is called
			case *ast.CallExpr:
				called, ok := n.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := called.X.(*ast.Ident); ok && x.Name == "regexp" && strings.Contains(called.Sel.Name, "Compile") {
					findings = append(findings, f.at(n.Pos(), "compiles a regular expression at the start", why))
				}
			}
			return true
		})
	}
	return findings
}
