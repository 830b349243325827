// Package lint holds the house rules of pgbak as tests: what may import what, where a program may end, who may read the
// clock, how long functions and files may be, and that everything is documented and formatted. `go test
// ./internal/lint` checks the whole module; it needs the go command.
//
// Rules come in two kinds. Import rules look at the graph of packages that `go list` reports (imports.go). Source rules
// look at one parsed file or the files of one package (source.go). Both are plain functions that return
// findings, so that the tests can show each of them a bad sample: a rule that cannot fail protects nothing.
//
// Every finding says where, what, and why the rule is there. A package, file or layer that appears later is
// checked without being registered; only a new top-level directory must be given its place in the table of layers.
package lint
