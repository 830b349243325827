package backup

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestPagesOfEverySize takes backups of a relation with pages of each size that
// PostgreSQL can be built with, without a server: none with other pages than 8 KiB is
// at hand. Each incremental backup knows the changed pages, or compares all.
func TestPagesOfEverySize(t *testing.T) {
	const path, pages = "base/5/16384", 150
	for _, size := range []int{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(size), 1))
			root := t.TempDir()
			r, err := repo.Create(t.Context(), mem.New(), repo.Options{Clock: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.CreateStanza(t.Context(), "main", repo.Identity{SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: 16 << 20, BlockSize: size})
			if err != nil {
				t.Fatal(err)
			}
			content := randomBytes(rng, pages*size)
			want := map[repo.Label][]byte{}
			take := func(typ repo.BackupType, ch changes) []repo.WayUse {
				writeFile(t, root, path, content)
				label, uses := copyPages(t, root, typ, size, ch, Repository{Name: "one", Stanza: s})
				want[label] = bytes.Clone(content)
				return uses
			}
			take(repo.Full, changes{way: WayFull})
			for n, way := range []string{WayArchiveSummaries, WayPageHashes, WayArchiveSummaries, WayPageHashes} {
				table := new(postgres.BlockTable)
				fork := postgres.RelationForkID{Tablespace: postgres.DefaultTablespace, Database: 5, Node: 16384}
				for range 9 {
					page := rng.IntN(len(content) / size)
					copy(content[page*size:], randomBytes(rng, size))
					table.Mark(fork, uint32(page))
				}
				if n == 1 {
					content = content[:120*size]
				} else if n == 2 {
					content = append(content, randomBytes(rng, 7*size)...)
				}
				ch := changes{way: way, table: table}
				if way == WayPageHashes {
					ch.table = nil
				}
				for _, u := range take(repo.Incremental, ch) {
					// 9 pages, 7 new ones, and what is read along: windows whose frame is stored again.
					if most := int64(60 * size); u.Way == WayArchiveSummaries && u.Read > most {
						t.Errorf("backup %d read %d bytes by %s, of %d", n, u.Read, u.Way, len(content))
					}
					if u.Way != way && u.Bytes > int64(size)*20 {
						t.Errorf("backup %d went by %s for %d bytes", n, u.Way, u.Bytes)
					}
				}
			}
			for label, content := range want {
				if got := contents(t, s, label)[path]; !bytes.Equal(got, content) {
					t.Errorf("%s: the relation differs from what it was (%d bytes, want %d)", label, len(got), len(content))
				}
			}
			if len(want) != 5 {
				t.Errorf("%d backups", len(want))
			}
		})
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.UintN(256))
	}
	return b
}

// copyPages is copyChanges for a cluster with pages of another size.
func copyPages(t *testing.T, root string, typ repo.BackupType, size int, ch changes, to Repository) (repo.Label, []repo.WayUse) {
	t.Helper()
	o := Options{Repositories: []Repository{to}, PGData: root, Type: typ, Processes: 2, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}.withDefaults()
	r := &run{o: o, to: newDestinations(t.Context(), o), header: repo.BackupHeader{Timeline: 1}, pages: &pageErrors{},
		control: postgres.Control{BlockSize: size, SegmentBlocks: 1 << 30 / size}}
	r.info.BlockSize = size
	if err := r.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr := &tree{root: root, run: r, c: newCopier(o, r.to, r.control, ch)}
	r.pages = &tr.c.errors
	w := &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{}, warn: r.warn}
	if err := tr.c.copy(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	return tr.commit(t)[0].Header.Label, tr.c.uses.list()
}
