package main

import (
	"fmt"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

// straysInfo are objects among the WAL that are not pgbak's.
type straysInfo struct {
	Count int      `json:"count"`
	Keys  []string `json:"keys"` // the first hundred
}

func newStraysInfo(s repo.Strays) *straysInfo {
	if s.Count == 0 {
		return nil
	}
	return &straysInfo{s.Count, s.Keys}
}

// writeText shows at most limit of them; 0 is all that are known.
func (s *straysInfo) writeText(b *strings.Builder, limit int) {
	if s == nil {
		return
	}
	b.WriteString("\n")
	shown := s.Keys
	if limit > 0 {
		shown = shown[:min(limit, len(shown))]
	}
	for _, key := range shown {
		fmt.Fprintf(b, "        not pgbak's: %s\n", oneLine(key))
	}
	if n := s.Count - len(shown); n > 0 {
		fmt.Fprintf(b, "        and %d more\n", n)
	}
}

// strayProblem is what check says of them; nil if there are none.
func strayProblem(repository string, s repo.Strays) []readiness.Problem {
	if s.Count == 0 {
		return nil
	}
	err := fmt.Errorf("repository %q: %d objects among the WAL are not pgbak's, and nothing reads them, such as %s", repository, s.Count, oneLine(s.Keys[0]))
	return []readiness.Problem{{Error: hint.Wrap(err, "'pgbak ledger --full' shows them; WAL that was copied there by hand counts only if it is pushed: 'pgbak archive-push FILE'.")}}
}
