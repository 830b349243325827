package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// What the packages of this module, and all packages, may allocate before main
// begins. Allocations are counted and not time, because they are the same in
// every run: a table or a regular expression that is made at the start shows as
// hundreds of them, an error variable as one.
const (
	maxOwnAllocations = 60 // in any package of this module
	maxAllAllocations = 6500
)

func TestLittleIsDoneBeforeMainBegins(t *testing.T) {
	cmd := exec.Command(pgtest.BuildPgbak(t), "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	packages, all := 0, 0
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) .* (\d+) bytes, (\d+) allocs$`).FindAllStringSubmatch(stderr.String(), -1) {
		n, err := strconv.Atoi(m[3])
		if err != nil {
			t.Fatal(err)
		}
		packages, all = packages+1, all+n
		own := m[1] == "main" || strings.HasPrefix(m[1], "github.com/pgbak/")
		if own && n > maxOwnAllocations {
			t.Errorf("package %s allocates %d times at the start, more than %d: compute it where it is needed", m[1], n, maxOwnAllocations)
		}
	}
	if packages < 50 {
		t.Fatalf("only %d packages were traced:\n%s", packages, stderr.String())
	}
	if all > maxAllAllocations {
		t.Errorf("all packages allocate %d times at the start, more than %d: a dependency has come that costs every start of archive-push", all, maxAllAllocations)
	}
	t.Logf("%d allocations in %d packages", all, packages)
}
