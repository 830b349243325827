package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// reading is all that a repository gives to a reader: a line of truth, or the
// error that stood in its place, for every name.
type reading struct {
	values map[string]string
	errs   map[string]error
	crc    int // contents that only the file's CRC showed to be wrong
}

func (r *reading) put(name, value string, err error) {
	if err != nil {
		r.errs[name] = err
		return
	}
	r.values[name] = value
}

// readAll reads everything that labels and wal name, as restore and archive-get
// would: every file of every backup with its attributes, every WAL file to its end.
func readAll(ctx context.Context, s *Stanza, labels []Label, wal []string) *reading {
	out := &reading{values: map[string]string{}, errs: map[string]error{}}
	for _, l := range labels {
		out.readBackup(ctx, s, l)
	}
	for _, name := range wal {
		data, err := readWAL(ctx, s, s.identities[0], name)
		out.put("wal/"+name, fmt.Sprintf("%d %x", len(data), sha256.Sum256(data)), err)
		sum, err := readSummary(ctx, s, s.identities[0], name)
		if !errors.Is(err, ErrNoSummary) {
			out.put("wal/"+name+"/summary", describeSummary(sum), err)
		}
	}
	return out
}

func (r *reading) readBackup(ctx context.Context, s *Stanza, l Label) {
	at := "backup/" + string(l)
	b, err := s.OpenBackup(ctx, l)
	if err != nil {
		r.errs[at] = err
		return
	}
	h := b.Header()
	h.Operation, h.WrappedKeys, h.AddedSize, h.ReferencedSize = "", nil, 0, 0 // differ between repositories
	r.values[at] = fmt.Sprintf("%+v", h)
	for f, err := range b.Files(ctx) {
		if err != nil {
			r.errs[at] = err
			return
		}
		line, err := r.describe(ctx, b, f)
		r.put(at+"/"+f.Path, line, err)
	}
}

var errCRC = errors.New("content does not have its CRC")

// describe gives a file as one line: the form of testdata/repository/v1.txt.
func (r *reading) describe(ctx context.Context, b *Backup, f File) (string, error) {
	line := fmt.Sprintf("%o %d %s:%s", f.Mode, f.ModTime.Unix(), f.Owner, f.Group)
	switch f.Type {
	case TypeDir:
		return "dir " + line, nil
	case TypeLink:
		return "link " + line + " -> " + f.LinkTarget, nil
	}
	data, err := readFile(ctx, b, f)
	if err != nil {
		return "", err
	}
	if !f.HasCRC || crc32c.Update(0, data) != f.CRC32C {
		r.crc++
		return "", fmt.Errorf("%s: %w", f.Path, errCRC)
	}
	return fmt.Sprintf("file %s page-errors=%v %d %08x %x", line, f.PageErrors, f.Size, f.CRC32C, sha256.Sum256(data)), nil
}

// fixtureTruth is what a reading of the fixture must give.
func fixtureTruth(t testing.TB, s *Stanza, labels []Label) map[string]string {
	t.Helper()
	want := map[string]string{}
	for n, l := range labels {
		for _, f := range append(fixtureTree(n), fixtureLate(n)...) {
			e := f.entry(n)
			line := fmt.Sprintf("%o %d %s:%s", e.Mode, e.ModTime.Unix(), e.Owner, e.Group)
			switch e.Type {
			case TypeDir:
				line = "dir " + line
			case TypeLink:
				line = "link " + line + " -> " + e.LinkTarget
			default:
				line = fmt.Sprintf("file %s page-errors=%v %d %08x %x", line, e.PageErrors, len(f.data), crc32c.Update(0, f.data), sha256.Sum256(f.data))
			}
			want["backup/"+string(l)+"/"+f.path] = line
		}
	}
	for name, data := range fixtureWAL() {
		want["wal/"+name] = fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	}
	want["wal/"+summarizedWAL+"/summary"] = describeSummary(fixtureSummary())
	return want
}

func describeSummary(s WALSummary) string {
	return fmt.Sprintf("timeline %d from %X to %X, %d %x", s.Timeline, uint64(s.From), uint64(s.To), len(s.Table), sha256.Sum256(s.Table))
}

// fixture is a built fixture with the names that stand in it.
type fixture struct {
	store  *mem.Store
	stanza *Stanza
	labels []Label
	wal    []string
	truth  map[string]string
}

func newFixture(t testing.TB, passphrase string) *fixture {
	t.Helper()
	st := mem.New()
	s, err := buildFixture(context.Background(), st, fixtureOptions(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	return describeFixture(t, st, s)
}

func describeFixture(t testing.TB, st *mem.Store, s *Stanza) *fixture {
	t.Helper()
	f := &fixture{store: st, stanza: s, wal: sortedKeys(fixtureWAL())}
	c, err := s.Catalog(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Backups {
		f.labels = append(f.labels, b.Label)
	}
	f.truth = fixtureTruth(t, s, f.labels)
	return f
}

// on gives the fixture's stanza over another store with the same keys.
func (f *fixture) on(st storage.Store) *Stanza {
	r := *f.stanza.repo
	r.store = st
	s := *f.stanza
	s.repo = &r
	return &s
}

func TestFixtureReadsBackAsItWasWritten(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		f := newFixture(t, passphrase)
		got := readAll(context.Background(), f.stanza, f.labels, f.wal)
		for name, err := range got.errs {
			t.Errorf("%s: %v", name, err)
		}
		for _, l := range f.labels {
			delete(got.values, "backup/"+string(l))
		}
		if !maps.Equal(got.values, f.truth) {
			for name, want := range f.truth {
				if got.values[name] != want {
					t.Errorf("%s: %s, want %s", name, got.values[name], want)
				}
			}
			t.Errorf("%d values, want %d", len(got.values), len(f.truth))
		}
	})
}

func TestFixtureHoldsEveryKind(t *testing.T) {
	f := newFixture(t, "")
	ctx := context.Background()
	b, err := f.stanza.OpenBackup(ctx, f.labels[2])
	if err != nil {
		t.Fatal(err)
	}
	runs, operations, packs := map[runKind]bool{}, map[string]bool{}, map[packID]bool{}
	codecs, contents := map[string]bool{}, map[contentKind]bool{}
	for file, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		contents[file.content.kind] = true
		if file.content.kind != contentMap {
			continue
		}
		m, err := b.maps.get(ctx, b, file.content)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range m.runs {
			runs[u.kind] = true
			if u.kind == runDelta {
				ref := m.frames[u.frame]
				operations[ref.pack.op.String()], packs[ref.pack] = true, true
			}
		}
		for _, ref := range m.frames {
			codecs[ref.codec.String()] = true
		}
	}
	if len(runs) != 3 || len(contents) != 3 || len(codecs) != 3 {
		t.Errorf("runs %v, contents %v, codecs %v: want three of each", runs, contents, codecs)
	}
	if len(operations) != 3 || len(packs) < 4 {
		t.Errorf("delta runs lead to %d operations and %d packs, want 3 and at least 4", len(operations), len(packs))
	}
}

func TestPagesOfTheSameFileFromSeveralOperationsComeInAnyExtentSize(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		f := newFixture(t, passphrase)
		ctx := context.Background()
		b, err := f.stanza.OpenBackup(ctx, f.labels[2])
		if err != nil {
			t.Fatal(err)
		}
		want := fixtureTree(2)[4].data
		for file, err := range b.Files(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if file.Path != "base/5/16384" {
				continue
			}
			for _, limit := range []int64{1, windowBytes, 300_000, 1 << 20, 1 << 30} {
				extents, err := b.Extents(ctx, file, limit)
				if err != nil {
					t.Fatal(err)
				}
				var at int64
				for _, e := range extents {
					if e.Offset != at {
						t.Fatalf("limit %d: extent at %d, want %d", limit, e.Offset, at)
					}
					if !e.Zero && e.Length > max(limit, windowBytes) {
						t.Errorf("limit %d: extent of %d bytes", limit, e.Length)
					}
					got := make([]byte, e.Length)
					if err := b.ReadExtent(ctx, e, got); err != nil {
						t.Fatal(err)
					}
					if sha256.Sum256(got) != sha256.Sum256(want[at:at+e.Length]) {
						t.Errorf("limit %d: extent at %d has other bytes", limit, at)
					}
					at += e.Length
				}
				if at != int64(len(want)) {
					t.Errorf("limit %d: extents end at %d of %d", limit, at, len(want))
				}
			}
		}
	})
}

// objects lists the keys of the fixture under a prefix.
func (f *fixture) objects(prefix string) []string {
	var keys []string
	for o, err := range f.store.List(context.Background(), prefix, "") {
		if err == nil {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// content gives the bytes of an object.
func (f *fixture) content(t testing.TB, key string) []byte {
	t.Helper()
	b, err := storage.ReadAll(context.Background(), f.store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
