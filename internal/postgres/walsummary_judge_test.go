package postgres_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

func TestSummariesOfWALAgreeWithTheServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			s := makeChanges(t, major)
			to := s.redo(t)
			if major >= 15 {
				t.Run("judged by pg_walinspect", func(t *testing.T) {
					compareTables(t, s.summarize(t, s.from, to), s.judgeByWalinspect(t, s.from, to))
				})
			}
			if major >= 17 {
				t.Run("judged by the server's summaries", func(t *testing.T) { s.judgeBySummaries(t, to) })
			}
			s.Stop(t, "fast")
			t.Run("segment by segment", s.compareSegments)
			t.Run("judged by the files", s.judgeByFiles)
		})
	}
}

// judgeByWalinspect makes a table of what the server says of its records in words.
func (s *changingServer) judgeByWalinspect(t *testing.T, from, to postgres.LSN) *postgres.BlockTable {
	t.Helper()
	out := s.Query(t, fmt.Sprintf(`SELECT record_type, description, block_ref FROM pg_get_wal_records_info('%s', '%s')
		WHERE block_ref <> '' OR resource_manager IN ('Transaction', 'Database', 'Storage') ORDER BY start_lsn`, from, to))
	table, kinds := new(postgres.BlockTable), make(map[string]int)
	for line := range strings.SplitSeq(out, "\n") {
		f := strings.SplitN(line, "|", 3)
		judgeTruncations(t, table, f[0], f[1])
		kinds[f[0]]++
		for _, m := range blockReference.FindAllStringSubmatch(f[2], -1) {
			fork := postgres.RelationForkID{Tablespace: number(t, m[1]), Database: number(t, m[2]), Node: number(t, m[3])}
			switch m[4] {
			case "vm":
				fork.Fork = postgres.VMFork
			case "init":
				fork.Fork = postgres.InitFork
			case "fsm":
				continue
			}
			table.Mark(fork, number(t, m[5]))
		}
	}
	for _, kind := range []string{"TRUNCATE", "DROP", "CREATE_FILE_COPY", "CREATE_WAL_LOG", "ABORT", "ABORT_PREPARED", "COMMIT_PREPARED",
		"FPI_FOR_HINT", "REVMAP_EXTEND", "SPLIT_PAGE", "VACUUM", "LOG"} {
		if kinds[kind] == 0 {
			t.Errorf("no record of the kind %s, only %v", kind, kinds)
		}
	}
	return table
}

var (
	blockReference = regexp.MustCompile(`rel (\d+)/(\d+)/(\d+) fork (\w+) blk (\d+)`)
	truncation     = regexp.MustCompile(`^(\S+) to (\d+) blocks flags (\d+)`)
	directory      = regexp.MustCompile(`(\d+)/(\d+)`)
	removed        = regexp.MustCompile(`rels: ([^;]*)`)
)

// judgeTruncations reads the description of a record that is about whole forks.
func judgeTruncations(t *testing.T, table *postgres.BlockTable, kind, description string) {
	t.Helper()
	fork := func(path string) postgres.RelationForkID {
		f, ok := postgres.ParseRelationPath(path)
		if !ok {
			t.Fatalf("%s: %s", kind, description)
		}
		return f.ForkID()
	}
	switch kind {
	case "CREATE":
		if f := fork(description); f.Fork != postgres.FSMFork {
			table.Truncate(f, 0)
		}
	case "TRUNCATE":
		m := truncation.FindStringSubmatch(description)
		if m == nil {
			return // of a table, for logical decoding
		}
		f := fork(m[1])
		table.Truncate(f, number(t, m[2]))
		if number(t, m[3])&2 != 0 {
			f.Fork = postgres.VMFork
			table.Truncate(f, 0)
		}
	case "CREATE_FILE_COPY", "CREATE_WAL_LOG", "DROP":
		all := directory.FindAllStringSubmatch(description, -1)
		if kind == "CREATE_FILE_COPY" {
			all = all[1:] // from where
		}
		for _, m := range all {
			table.Truncate(postgres.RelationForkID{Tablespace: number(t, m[1]), Database: number(t, m[2])}, 0)
		}
	case "COMMIT", "COMMIT_PREPARED", "ABORT", "ABORT_PREPARED":
		if m := removed.FindStringSubmatch(description); m != nil {
			for _, path := range strings.Fields(m[1]) {
				f := fork(path)
				for _, f.Fork = range []postgres.RelationFork{postgres.MainFork, postgres.VMFork, postgres.InitFork} {
					table.Truncate(f, 0)
				}
			}
		}
	}
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// compareTables compares all that two tables know.
func compareTables(t *testing.T, got, want *postgres.BlockTable) {
	t.Helper()
	if bytes.Equal(got.Encode(), want.Encode()) {
		return
	}
	forks := make(map[postgres.RelationForkID]bool)
	for _, f := range append(got.ForkIDs(), want.ForkIDs()...) {
		if g, w := describeFork(got, f), describeFork(want, f); g != w && !forks[f] {
			t.Errorf("%v: got %s, want %s", f, g, w)
		}
		forks[f] = true
	}
	if !t.Failed() {
		t.Error("the tables differ, and their forks do not")
	}
}

func describeFork(table *postgres.BlockTable, f postgres.RelationForkID) string {
	limit, known := table.Limit(f)
	if !known {
		return "nothing"
	}
	var blocks []uint32
	for b := range table.Blocks(f, 0, postgres.NoLimit) {
		blocks = append(blocks, b)
	}
	return fmt.Sprintf("limit %d, blocks %d", limit, blocks)
}

// withoutVM is a table without the visibility maps: where they are cut off,
// summaries differ on purpose.
func withoutVM(table *postgres.BlockTable) *postgres.BlockTable {
	kept := new(postgres.BlockTable)
	for _, f := range table.ForkIDs() {
		if f.Fork != postgres.VMFork {
			copyFork(kept, table, f, postgres.NoLimit)
		}
	}
	return kept
}

// belowLimits is a table without the marks that say nothing. Which of them there
// are depends on how the WAL was cut.
func belowLimits(table *postgres.BlockTable) *postgres.BlockTable {
	kept := new(postgres.BlockTable)
	for _, f := range table.ForkIDs() {
		limit, _ := table.Limit(f)
		copyFork(kept, table, f, limit)
	}
	return kept
}

func copyFork(to, from *postgres.BlockTable, f postgres.RelationForkID, end uint32) {
	limit, _ := from.Limit(f)
	to.Truncate(f, limit)
	for b := range from.Blocks(f, 0, end) {
		to.Mark(f, b)
	}
}

// judgeBySummaries compares with each summary that the server made on its own.
func (s *changingServer) judgeBySummaries(t *testing.T, to postgres.LSN) {
	s.WaitFor(t, fmt.Sprintf("SELECT max(end_lsn) >= '%s' FROM pg_available_wal_summaries()", to), "t", time.Minute)
	dir := os.DirFS(filepath.Join(s.DataDir, filepath.FromSlash(postgres.SummariesDirectory)))
	files, err := postgres.ListSummaries(dir)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, f := range files {
		if f.End <= s.from {
			continue
		}
		content, err := fs.ReadFile(dir, f.Name())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := postgres.DecodeBlockTable(content)
		if err != nil {
			t.Fatal(err)
		}
		compareTables(t, withoutVM(s.summarize(t, f.Start, f.End)), withoutVM(theirs))
		compared++
	}
	if compared < 3 {
		t.Errorf("%d summaries compared, which says little", compared)
	}
}

// compareSegments makes a summary of each segment, as if it were just archived:
// they must form a chain, and say together what one reading says.
func (s *changingServer) compareSegments(t *testing.T) {
	size := postgres.LSN(s.segmentSize)
	together := new(postgres.BlockTable)
	var from, to postgres.LSN
	asked := 0
	for at := s.from - s.from%size + size; at <= s.checkpoint(t); at += size {
		f, data := s.segment(t, at)
		sum, err := postgres.SummarizeSegment(s.Major, s.segmentSize, 8<<10, f, data, func(name string, offset int64) ([]byte, error) {
			asked++
			return s.before(name, offset)
		})
		if err != nil || sum.Hole != nil {
			t.Fatalf("%s: %v, hole %v", f.Name(s.segmentSize), err, sum.Hole)
		}
		if sum.From < sum.To {
			if to != 0 && sum.From != to {
				t.Fatalf("%s: from %s to %s, and the one before ends at %s", f.Name(s.segmentSize), sum.From, sum.To, to)
			}
			if from == 0 {
				from = sum.From
			}
			to = sum.To
			together.Add(sum.Table)
		}
	}
	compareTables(t, belowLimits(together), belowLimits(s.summarize(t, from, to)))
	if n := int((to - from) / size); n < 20 || asked < n/2 {
		t.Errorf("%d segments, %d records that cross: too few to say anything", n, asked)
	}
}

// checkpoint is where the record starts that the shutdown left.
func (s *changingServer) checkpoint(t *testing.T) postgres.LSN {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.DataDir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	control, err := postgres.ParseControl(data)
	if err != nil {
		t.Fatal(err)
	}
	return control.Checkpoint
}

// judgeByFiles compares every page of the relations with what it was before: one
// that is another must be known to be. Marks on pages that are as they were are few.
func (s *changingServer) judgeByFiles(t *testing.T) {
	table := s.summarize(t, s.from, s.checkpoint(t))
	const page = 8 << 10
	compared, differ, marked, idle := 0, 0, 0, 0
	for name, content := range s.relations(t) {
		f, _ := postgres.ParseRelationPath(name)
		id := f.ForkID()
		old, known := s.old[name]
		if _, copied := table.Limit(postgres.RelationForkID{Tablespace: id.Tablespace, Database: id.Database}); copied ||
			f.Fork == postgres.FSMFork || f.Fork == postgres.VMFork {
			continue
		}
		limit, _ := table.Limit(id)
		if !known && limit > 0 {
			t.Errorf("%s is new, and its limit is %d", name, limit)
		}
		for block := uint32(0); block < limit && int(block+1)*page <= min(len(content), len(old)); block++ {
			compared++
			at := int(block) * page
			same := bytes.Equal(content[at:at+page], old[at:at+page])
			mark := table.Count(id, block, block+1) == 1
			switch {
			case !same && mark:
				marked++
			case !same:
				differ++
				t.Errorf("%s: block %d has changed, and nothing says so", name, block)
			case mark:
				idle++
			}
		}
	}
	t.Logf("%d pages compared, %d marked, %d of them the same", compared, marked+idle, idle)
	if compared < 1000 || marked < 50 || idle*10 > marked {
		t.Errorf("%d pages compared, %d marked, %d of them the same: too few, or too many", compared, marked+idle, idle)
	}
}
