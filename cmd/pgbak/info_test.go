package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/repo"
)

// sampleCatalog has a gap, two timelines, two identities, and a backup of each status.
func sampleCatalog() *repo.Catalog {
	old := repo.Identity{Number: 1, SystemID: 7123456789012345678, Major: 16, SegmentSize: 16 << 20, BlockSize: 8192}
	now := repo.Identity{Number: 2, SystemID: 7987654321098765432, Major: 17, SegmentSize: 16 << 20, BlockSize: 8192}
	backup := func(label string, id repo.Identity, start time.Time) repo.BackupInfo {
		return repo.BackupInfo{Label: repo.Label(label), Header: repo.BackupHeader{
			Label: repo.Label(label), Type: repo.Full, Identity: id, Timeline: 1,
			Start:        repo.BackupPoint{Time: start, LSN: 0x5000028, WAL: "000000010000000000000005"},
			Stop:         repo.BackupPoint{Time: start.Add(4500 * time.Millisecond), LSN: 0x5000100, WAL: "000000010000000000000005"},
			DatabaseSize: 3_275_000_000, ReferencedSize: 610_000_000, AddedSize: 600_000_000, Files: 1234, Version: "v0.1.0",
			Databases: []repo.Database{{OID: 5, Name: "postgres"}},
		}}
	}
	c := &repo.Catalog{Stanza: "main", Identities: []repo.Identity{old, now}, WAL: []repo.WALRange{
		{Identity: 1, Timeline: 1, First: 3, Last: 9},
		{Identity: 2, Timeline: 1, First: 1, Last: 5},
		{Identity: 2, Timeline: 1, First: 7, Last: 300},
		{Identity: 2, Timeline: 2, First: 300, Last: 301},
	}}
	c.Backups = []repo.BackupInfo{
		backup("20261118-020000F", old, testClock().Add(-48*time.Hour)),
		backup("20261119-020000F", now, testClock().Add(-24*time.Hour)),
		{Label: "20261119-030000F", Err: &repo.DamagedError{Key: "backups/main/20261119-030000F", Err: errors.New("checksum")}},
		backup("20261120-020000F", now, testClock()),
	}
	c.Backups[0].Tombed = true
	h := &c.Backups[3].Header
	h.PageErrorCount, h.PageErrors = 3, []repo.PageError{{Path: "base/5/16384", Blocks: []uint32{7, 8, 131080}}}
	h.Tablespaces = []repo.Tablespace{{OID: 16400, Name: "fast", Location: "/mnt/fast"}, {OID: 16401, Name: "near", InPlace: true}}
	h.Annotations = map[string]string{"ticket": "4711", "by": "hand"}
	h.Source = "standby"
	c.Backups[1].Header.Source = "local"
	return c
}

// holdingsOf are the holdings of a catalogue whose WAL nobody has read.
func holdingsOf(encryption string, c *repo.Catalog) holdings {
	h := holdings{catalog: c, encryption: encryption}
	if c != nil {
		h.ledger = archive.NewLedger(c, 0)
	}
	return h
}

func sampleInfo(t *testing.T) []stanzaInfo {
	t.Helper()
	rc := repositoryConfig{Name: "local", URL: "file:///var/lib/pgbak"}
	good, err := newRepositoryInfo(rc, holdingsOf("none", sampleCatalog()), nil)
	if !errors.Is(err, errDamagedManifest) {
		t.Fatal(err)
	}
	bad, err := newRepositoryInfo(repositoryConfig{Name: "remote", URL: "file:///mnt/pgbak"}, holdings{},
		fmt.Errorf("repository %q: stanza main: %w", "remote", repo.ErrUnknownStanza))
	if err == nil {
		t.Fatal("a missing stanza is no error")
	}
	repositories := []repositoryInfo{good, bad}
	return []stanzaInfo{{Name: "main", Status: firstNotOK(repositories), Repositories: repositories}}
}

func TestInfoTextAndJSONAreAsTheyWere(t *testing.T) {
	info := sampleInfo(t)
	packed, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for path, got := range map[string]string{
		"testdata/info.json": string(packed) + "\n", "testdata/info.txt": infoText(info, false), "testdata/info-set.txt": infoText(info, true),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != got {
			t.Errorf("%s has (%v)\n%s\nbut the output is\n%s", path, err, want, got)
		}
	}
}

func TestTheStatusSaysWhatIsWrong(t *testing.T) {
	empty := &repo.Catalog{Stanza: "main", Identities: sampleCatalog().Identities}
	unusable := sampleCatalog()
	unusable.Backups = []repo.BackupInfo{unusable.Backups[0], unusable.Backups[2]}
	// whole has no damage; first and last are the segments of the first identity.
	whole := func(first, last uint64) *repo.Catalog {
		c := sampleCatalog()
		c.Backups = slices.Delete(c.Backups, 2, 3)
		c.WAL[0].First, c.WAL[0].Last = first, last
		return c
	}
	lacking := whole(7, 9) // the first backup begins in segment 5
	lacking.Backups[0].Tombed = false
	bare := whole(3, 9)
	bare.WAL = nil
	for _, c := range []struct {
		title   string
		catalog *repo.Catalog
		err     error
		text    string
		code    int
	}{
		{"backups that can be used are ok, whatever an expired one lacks", whole(3, 9), nil, "ok", exitOK},
		{"an expired backup needs no WAL", whole(7, 9), nil, "ok", exitOK},
		{"one damaged manifest among others", sampleCatalog(), nil, "error (damaged manifest)", exitDamaged},
		{"one backup without the WAL that it needs", lacking, nil, "error (backup without its WAL)", exitDamaged},
		{"no backup that has the WAL that it needs", bare, nil, "no valid backups", exitFailed},
		{"no backup", empty, nil, "no valid backups", exitFailed},
		{"only expired and damaged backups", unusable, nil, "no valid backups", exitFailed},
		{"no stanza", nil, repo.ErrUnknownStanza, "missing stanza", exitRepository},
		{"a repository that cannot be read", nil, &storageError{errors.New("timeout")}, "error (timeout)", exitStorage},
		{"a damaged repository", nil, &repo.DamagedError{Key: "x", Err: errors.New("y")}, "error (object x is damaged: y)", exitDamaged},
	} {
		t.Run(c.title, func(t *testing.T) {
			info, _ := newRepositoryInfo(repositoryConfig{Name: "local"}, holdingsOf("", c.catalog), c.err)
			if want := (statusInfo{c.code, c.text}); info.Status != want {
				t.Errorf("status %+v, want %+v", info.Status, want)
			}
		})
	}
}

// TestTheDocumentationNamesEveryFieldOfTheJSON holds docs/json.md to what is printed.
func TestTheDocumentationNamesEveryFieldOfTheJSON(t *testing.T) {
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	conditional := true
	repositories := repoCheckResult{Repositories: []repoCheckInfo{{RoundTrip: 1, Format: 1, ID: "x", Encryption: "none", ConditionalPut: &conditional,
		Promises: []promiseResult{{Error: "x"}}, Error: "x", Hint: "x"}}}
	for _, v := range []any{sampleInfo(t), repositories, checkResult{Repositories: []checkRepository{{WALSegment: "x"}}, Problems: []checkProblem{{Hint: "x"}}},
		backupResult{Backups: []repositoryBackup{{Error: "x"}}, Warnings: []string{"x"}}, planResult{}, restoreResult{RepositoryName: "x"}} {
		packed, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"([a-z-]+)":`).FindAllStringSubmatch(string(packed), -1) {
			if m[1] != "ticket" && m[1] != "by" && !strings.Contains(string(text), "`"+m[1]+"`") {
				t.Errorf("docs/json.md does not name %q", m[1])
			}
		}
	}
}

func TestABackupNeedsTheWALFromItsStartToItsStop(t *testing.T) {
	id := repo.Identity{Number: 2, SegmentSize: 1 << 20}
	h := repo.BackupHeader{Identity: id, Timeline: 3, Start: repo.BackupPoint{LSN: 0x500028}, Stop: repo.BackupPoint{LSN: 0x700000}}
	for _, c := range []struct {
		title  string
		ranges []repo.WALRange
		want   bool
	}{
		{"all of it, and no more", []repo.WALRange{{Identity: 2, Timeline: 3, First: 5, Last: 6}}, true},
		{"the first is missing", []repo.WALRange{{Identity: 2, Timeline: 3, First: 6, Last: 9}}, false},
		{"the last is missing", []repo.WALRange{{Identity: 2, Timeline: 3, First: 1, Last: 5}}, false},
		{"a gap", []repo.WALRange{{Identity: 2, Timeline: 3, First: 5, Last: 5}, {Identity: 2, Timeline: 3, First: 7, Last: 9}}, false},
		{"of another timeline", []repo.WALRange{{Identity: 2, Timeline: 2, First: 1, Last: 9}}, false},
		{"of another identity", []repo.WALRange{{Identity: 1, Timeline: 3, First: 1, Last: 9}}, false},
	} {
		if got := walComplete(h, c.ranges); got != c.want {
			t.Errorf("%s: %v", c.title, got)
		}
	}
	h.Identity.SegmentSize = 0
	if walComplete(h, nil) {
		t.Error("a header that makes no sense is complete")
	}
	info := newBackupInfo(repo.BackupInfo{Label: "20261120-020000F", Header: h}, false)
	packed, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(packed), `"wal-complete":false`, `"status":"WAL missing"`)
	text := infoText([]stanzaInfo{{Repositories: []repositoryInfo{{Identities: []identityInfo{{Number: 2}}, Backups: []backupInfo{info}}}}}, false)
	contains(t, text, "status: WAL missing")
}
