package main

import (
	"encoding/json"
	"os"
	"testing"
)

func TestRepoCheckLooksAtRepositories(t *testing.T) {
	s := newSite(t, plainConfig)
	check := func(code int, args ...string) (repoCheckInfo, outcome) {
		t.Helper()
		o := s.run(t, append([]string{"repo", "check", "--output", "json"}, args...)...)
		var result repoCheckResult
		if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || o.code != code || result.OK != (code == exitOK) || len(result.Repositories) != 1 {
			t.Fatalf("%v: exit %d, want %d, %v\n%s%s", args, o.code, code, err, o.stdout, o.stderr)
		}
		return result.Repositories[0], o
	}
	info, o := check(exitCheckFailed)
	if info.Reachable || info.OK || info.Hint == "" {
		t.Errorf("without a directory: %+v", info)
	}
	contains(t, o.stderr, s.path("repo"), "hint: ")

	mkdir(t, s.path("repo"))
	if info, _ = check(exitCheckFailed); !info.Reachable || info.Initialised || info.RoundTrip <= 0 {
		t.Errorf("before init: %+v", info)
	}
	if info, _ = check(exitOK, "--probe"); info.Initialised || len(info.Promises) < 10 {
		t.Errorf("probed before init: %+v", info)
	}
	if left, err := os.ReadDir(s.path("repo")); err != nil || len(left) != 0 {
		t.Errorf("the probe left %v (%v)", left, err)
	}

	s.mustRun(t, "init")
	info, _ = check(exitOK)
	if !info.Initialised || info.Format != 1 || info.Encryption != "none" || info.ConditionalPut == nil || !*info.ConditionalPut || info.Promises != nil {
		t.Errorf("after init: %+v", info)
	}
	contains(t, s.mustRun(t, "repo", "check", "--probe").stdout, "repository local (file://", ": ok", "a small request takes", "format 1", "    ok            ")
	if o := s.run(t, "repo"); o.code != exitUsage {
		t.Errorf("repo without a command: exit %d", o.code)
	}

	flip(t, s.path("repo/pgbak-repository.json"), 30)
	if info, _ = check(exitCheckFailed); !info.Reachable || !info.Initialised || info.Error == "" {
		t.Errorf("a damaged repository: %+v", info)
	}
}
