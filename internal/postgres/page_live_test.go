package postgres_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

const (
	livePageSize      = 8 << 10
	liveSegmentBlocks = 131072 // of a relation's segment, 1 GiB
)

// badPage is a page that failed its check, and what its checksum should be.
type badPage struct {
	file  string // relative to the data directory
	block uint32 // in the file
	want  uint16
}

// checkRelations checks every page of every relation of a stopped cluster.
func checkRelations(t *testing.T, dataDir string) (valid, empty int, bad []badPage) {
	t.Helper()
	err := filepath.WalkDir(dataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dataDir, path)
		if err != nil {
			return err
		}
		relation, ok := postgres.ParseRelationPath(filepath.ToSlash(name))
		if !ok {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n := uint32(0)
		for page := range slices.Chunk(content, livePageSize) {
			block := uint32(relation.Segment)*liveSegmentBlocks + n
			switch postgres.CheckPage(page, block) {
			case postgres.PageValid:
				valid++
			case postgres.PageNew:
				empty++
			default:
				bad = append(bad, badPage{name, n, postgres.PageChecksum(page, block)})
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return valid, empty, bad
}

func TestEveryPageOfARealClusterIsValid(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			c := pgtest.Start(t, pgtest.Options{Major: major})
			c.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) AS s FROM generate_series(1, 20000) AS n")
			c.Exec(t, "CREATE INDEX ON t (s)")
			c.Exec(t, "VACUUM t")
			c.Stop(t, "fast")
			valid, empty, bad := checkRelations(t, c.DataDir)
			if valid < 2500 || len(bad) != 0 {
				t.Errorf("%d pages are valid, %d new, and %d invalid: %v", valid, empty, len(bad), bad)
			}
		})
	}
}

// pg_checksums is the judge of damaged pages, of the checksum that they should
// have, and of pages in later segments of a relation.
func TestPgChecksumsAgrees(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Major: pgtest.ToolMajor()})
	c.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) AS s FROM generate_series(1, 20000) AS n")
	table := c.Query(t, "SELECT pg_relation_filepath('t')")
	c.Stop(t, "fast")

	damage(t, filepath.Join(c.DataDir, table), func(content []byte) {
		content[3*livePageSize+10] ^= 0x01 // pd_flags
		content[5*livePageSize+8] ^= 0x80  // pd_checksum
		content[9*livePageSize+8191] ^= 0x40
		copy(content[20*livePageSize:21*livePageSize], content[21*livePageSize:]) // a page in another's place
		clear(content[30*livePageSize : 31*livePageSize])                         // as if never written
	})
	// A later segment, made by hand: its pages count on from those before.
	first, err := os.ReadFile(filepath.Join(c.DataDir, table))
	if err != nil {
		t.Fatal(err)
	}
	segment := bytes.Clone(first[:4*livePageSize])
	for n := range uint32(3) { // and the fourth stays as it is: wrong
		page := segment[n*livePageSize:][:livePageSize]
		binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, 2*liveSegmentBlocks+n))
	}
	later := filepath.Join(c.DataDir, filepath.Dir(table), "99999.2")
	if err := os.WriteFile(later, segment, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, later)

	_, _, got := checkRelations(t, c.DataDir)
	want := judgeByChecksums(t, c.DataDir)
	if len(want) != 5 {
		t.Errorf("pg_checksums finds %d bad pages, want 5: %v", len(want), want)
	}
	if order(got); !slices.Equal(got, want) {
		t.Errorf("bad pages:\n got %v\nwant %v", got, want)
	}
}

// damage rewrites a file.
func damage(t *testing.T, path string, change func(content []byte)) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// judgeByChecksums has pg_checksums check a stopped cluster.
func judgeByChecksums(t *testing.T, dataDir string) []badPage {
	t.Helper()
	// It ends with status 1 when a page is bad, which is what it is called for.
	out, _ := pgtest.Command(t, pgtest.Tool(t, "pg_checksums"), "--check", "-D", dataDir).CombinedOutput()
	line := regexp.MustCompile(`failed in file "(.*)", block (\d+): calculated checksum ([0-9A-F]+) but`)
	var bad []badPage
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		name := strings.TrimPrefix(strings.TrimPrefix(m[1], dataDir), "/")
		block, err1 := strconv.ParseUint(m[2], 10, 32)
		sum, err2 := strconv.ParseUint(m[3], 16, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("pg_checksums says %q", m[0])
		}
		bad = append(bad, badPage{name, uint32(block), uint16(sum)})
	}
	if len(bad) == 0 {
		t.Fatalf("pg_checksums found nothing:\n%s", out)
	}
	order(bad)
	return bad
}

func order(pages []badPage) {
	slices.SortFunc(pages, func(a, b badPage) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.block, b.block))
	})
}
