package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// withRepositoryOf copies the repository of another site.
func withRepositoryOf(t *testing.T, from *site, to string) {
	t.Helper()
	remove(t, to)
	if out, err := exec.Command("cp", "-a", from.path("repo"), to).CombinedOutput(); err != nil {
		t.Fatalf("copy the repository: %v\n%s", err, out)
	}
}

// TestAKilledPushLeavesTheArchiveRightAndTheNextOneSucceeds kills archive-push
// before and after every storage operation of it.
func TestAKilledPushLeavesTheArchiveRightAndTheNextOneSucceeds(t *testing.T) {
	s := newSite(t, plainConfig, "pgbak_faults")
	s.mustRun(t, "init")
	path, content := s.writeSegment(t)
	clean := newSite(t, plainConfig)
	withRepositoryOf(t, s, clean.path("repo"))

	s.env = []string{"PGBAK_FAULT_COUNT_FILE=" + s.path("count")}
	s.mustRun(t, "archive-push", path)
	count := operations(t, s)
	t.Logf("%d operations", count)
	var harmless []int
	for n := 1; n <= count; n++ {
		for _, fault := range []string{"KILL_AT", "KILL_AFTER", "FAIL_AT"} {
			withRepositoryOf(t, clean, s.path("repo"))
			s.env = []string{fmt.Sprintf("PGBAK_FAULT_%s=%d", fault, n)}
			o := s.run(t, "archive-push", path)
			switch {
			case fault == "FAIL_AT" && o.code == exitOK:
				harmless = append(harmless, n)
				s.env = nil
				s.mustRun(t, "archive-get", segmentName, "fetched")
			case fault == "FAIL_AT" && (o.code > 125 || o.code < 0):
				t.Fatalf("operation %d fails: exit %d\n%s", n, o.code, o.stderr)
			case fault != "FAIL_AT" && o.code != -1:
				t.Fatalf("%s=%d: exit %d, want death by SIGKILL\n%s", fault, n, o.code, o.stderr)
			}
			s.env = nil
			checkArchive(t, s, path, content)
		}
	}
	if len(harmless) > 1 { // only the look whether it is there already decides nothing
		t.Errorf("the push succeeds although one of the operations %v fails", harmless)
	}
}

// operations reads how many storage operations the last run made.
func operations(t *testing.T, s *site) int {
	t.Helper()
	text, err := os.ReadFile(s.path("count"))
	if err != nil {
		t.Fatal(err)
	}
	count, err := strconv.Atoi(string(text))
	if err != nil || count < 3 {
		t.Fatalf("%q operations were counted (%v)", text, err)
	}
	return count
}

// checkArchive proves that the segment is absent or whole, that the next push
// succeeds, and that then it is whole.
func checkArchive(t *testing.T, s *site, path string, content []byte) {
	t.Helper()
	remove(t, s.path("fetched"))
	o := s.run(t, "archive-get", segmentName, "fetched")
	got, err := os.ReadFile(s.path("fetched"))
	if whole := o.code == exitOK && err == nil && bytes.Equal(got, content); !whole && (o.code != exitFailed || err == nil) {
		t.Fatalf("neither absent nor whole: exit %d, %v\n%s", o.code, err, o.stderr)
	}
	s.mustRun(t, "archive-push", path)
	s.mustRun(t, "archive-get", segmentName, "fetched")
	if got, err := os.ReadFile(s.path("fetched")); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("other content than was pushed came back (%v)", err)
	}
}

func TestFaultsAreNotInANormalBuild(t *testing.T) {
	s := newSite(t, plainConfig)
	s.mustRun(t, "init")
	path, _ := s.writeSegment(t)
	s.env = []string{"PGBAK_FAULT_KILL_AT=1", "PGBAK_FAULT_FAIL_AT=1", "PGBAK_FAULT_COUNT_FILE=" + s.path("count")}
	s.mustRun(t, "archive-push", path)
	program, err := os.ReadFile(s.program)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(program), "PGBAK_FAULT") {
		t.Error("the program knows PGBAK_FAULT variables")
	}
}
