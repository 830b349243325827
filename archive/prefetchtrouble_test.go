package archive

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTroubleOfFetchingAheadIsToldOnce to the next who asks, with the time, also
// when what he asks for is absent.
func TestTroubleOfFetchingAheadIsToldOnce(t *testing.T) {
	r := newRecovery(t, run(1, 1, 6)...)
	tells := func(title string, warnings []string, want ...string) {
		t.Helper()
		if len(warnings) != 1 {
			t.Fatalf("%s: warnings %q", title, warnings)
		}
		for _, w := range want {
			if !strings.Contains(warnings[0], w) {
				t.Errorf("%s: %q does not hold %q", title, warnings[0], w)
			}
		}
	}
	must(t, r.queue.Complain("the first"))
	must(t, r.queue.Complain("get X from repository far: timeout"))
	_, warnings := r.mustGet(t, walFileOf(1))
	tells("found", warnings, "fetching ahead: at "+r.now.UTC().Format("2006-01-02T"), "Z: get X from repository far: timeout")
	if _, warnings := r.mustGet(t, walFileOf(2)); len(warnings) != 0 {
		t.Errorf("told twice: %q", warnings)
	}

	must(t, r.queue.Complain(strings.Repeat("ä", maxTrouble)))
	got, _, err := r.get(t, walFileOf(9))
	if !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	tells("absent", got.Warnings, "ää ...")
	if n := len(got.Warnings[0]); n > maxTrouble+100 {
		t.Errorf("%d bytes", n)
	}

	path := filepath.Join(r.queue.dir, troubleName)
	must(t, os.WriteFile(path, []byte("torn"), 0o600))
	_, warnings = r.mustGet(t, walFileOf(3))
	tells("torn", warnings, errNoDocument.Error())
	if isThere(path) {
		t.Error("what cannot be read is kept")
	}

	// Who fetches ahead clears up first, but not this.
	must(t, r.queue.Complain("before"))
	end := r.prefetch(t)
	r.holds(t, run(1, 4, 6)...)
	must(t, end())
	_, warnings = r.mustGet(t, walFileOf(4))
	tells("swept", warnings, "before")
}
