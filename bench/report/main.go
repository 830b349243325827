// Command report turns the raw results of bench/run.sh into the Markdown tables
// of docs/BENCHMARKS.md: one per operation, medians over the rounds, and how
// each tool compares with pgbak, or with the first one where pgbak is not.
//
//	report -raw FILE -bytes SIZE-OF-THE-CLUSTER -segments NUMBER
//
// A line of FILE is tab-separated: round, tool, operation, wall clock s, user
// CPU s, system CPU s, peak memory in bytes, "process" or "tree", bytes in the
// repository afterwards, bytes that the operation added, requests to the S3
// server as KIND=NUMBER,... or "none", CPU s of that server, CPU s of the
// PostgreSQL server, s for which the tool waited for that, bytes of pages that
// had changed. The last five are "-" where there was no such server or nothing
// was measured. Without -bytes no MB/s are printed. What is wrong goes to standard error, and then no
// table is printed.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	raw := flag.String("raw", "", "`FILE` with the raw results")
	bytes := flag.Int64("bytes", 0, "`SIZE` of the cluster, for MB/s")
	segments := flag.Int("segments", 0, "`NUMBER` of WAL segments that an operation on the archive concerns")
	flag.Parse()
	if err := report(*raw, size{cluster: *bytes, segments: *segments}); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
}

func report(path string, of size) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rows, err := parseRows(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = fmt.Print(tables(rows, of))
	return err
}
