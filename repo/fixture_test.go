package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
)

// The fixture of this package's tests is one small repository that holds every
// kind of object and every kind of frame, run, codec and file that the format
// names. buildFixture writes it; the sample repositories under
// testdata/repository were written by the same code.

const (
	fixturePassphrase = "the passphrase of the sample repository"
	fixtureSegment    = 1 << 20 // bytes of a WAL segment
	windowBytes       = PagesPerFrame * testPage
)

// rows is text that compresses well, a different one for every seed.
func rows(n int, seed uint64) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d|%06d|a row of a table, padded as rows of pgbench are padded                |\n", seed, i)
	}
	return b.Bytes()[:n]
}

// noise does not compress.
func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// patched gives data with some of its pages replaced.
func patched(data []byte, seed uint64, pages ...int) []byte {
	out := slices.Clone(data)
	for _, p := range pages {
		end := min((p+1)*testPage, len(out))
		copy(out[p*testPage:end], rows(testPage, seed+uint64(p)))
	}
	return out
}

// place is where one page of a file is: nowhere (zeros), or in a slot of a frame.
type place struct {
	zero bool
	ref  frameRef
	slot uint32
}

// places gives the place of every page.
func places(m *fileMap) []place {
	var out []place
	for _, u := range m.runs {
		for i := range u.count {
			switch u.kind {
			case runZero:
				out = append(out, place{zero: true})
			case runAligned:
				out = append(out, place{ref: m.frames[u.frame+i/PagesPerFrame], slot: i % PagesPerFrame})
			case runDelta:
				out = append(out, place{ref: m.frames[u.frame], slot: u.slot + i})
			}
		}
	}
	return out
}

// mapOf is the inverse of places.
func mapOf(size int64, at []place) fileMap {
	m := fileMap{pageSize: testPage, size: size}
	for i := 0; i < len(at); {
		n := 1
		for i+n < len(at) && at[i].zero == at[i+n].zero && (at[i].zero || at[i+n].ref == at[i].ref && at[i+n].slot == at[i].slot+uint32(n)) {
			n++
		}
		switch whole := !at[i].zero && at[i].slot == 0 && m.rawLength(int64(i), int64(n)) == int64(at[i].ref.raw); {
		case at[i].zero:
			m.addZero(uint32(n))
		case whole && i%PagesPerFrame == 0:
			m.addAligned(at[i].ref, uint32(n))
		default:
			m.frames = append(m.frames, at[i].ref)
			m.runs = append(m.runs, run{kind: runDelta, count: uint32(n), frame: uint32(len(m.frames) - 1), slot: at[i].slot})
		}
		i += n
	}
	return m
}

// addDelta adds a file of which the parent has another version: its changed
// pages go into delta frames of at most perFrame pages, each into a pack of its
// own; all others stay where the parent has them.
func addDelta(ctx context.Context, w *BackupWriter, framer *Framer, file File, data []byte, parent *ParentFile, perFrame int, changed ...int) error {
	at := places(parent.fileMap)
	for len(changed) > 0 {
		group := changed[:min(perFrame, len(changed))]
		changed = changed[len(group):]
		fr := frame{kind: frameDelta, path: file.Path}
		var raw []byte
		for _, p := range group {
			raw = append(raw, data[p*testPage:min((p+1)*testPage, len(data))]...)
			fr.pages = append(fr.pages, uint32(p))
		}
		fr.raw, fr.id = len(raw), framer.ids.sum(raw)
		var err error
		if _, fr.payload, fr.codec, err = framer.compress(nil, raw); err != nil {
			return err
		}
		ref, err := w.addFrame(fr)
		if err != nil {
			return err
		}
		if err := w.closePack(); err != nil {
			return err
		}
		for slot, p := range group {
			at[p] = place{ref: ref, slot: uint32(slot)}
		}
	}
	m := mapOf(int64(len(data)), at)
	for _, f := range m.frames {
		w.use(f) // counts a delta frame once more, which hurts nothing
	}
	if err := m.check(); err != nil {
		return err
	}
	file.Size, file.HasCRC, file.CRC32C = m.size, true, crc32c.Update(0, data)
	w.totals.Files++
	w.totals.Bytes += m.size
	block, index, err := w.maps.add(&m)
	file.content = contentRef{kind: contentMap, number: uint32(block), index: uint32(index)}
	return errFirst(err, w.entries.add(file))
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fixtureFile is one path of a fixture's backup. A file with deltas is written
// as addDelta does.
type fixtureFile struct {
	path   string
	typ    FileType
	data   []byte
	target string
	deltas []int
}

// fixtureTree is the cluster of backup number n of the fixture (0, 1, 2).
func fixtureTree(n int) []fixtureFile {
	relation := rows(5*windowBytes+3*testPage+100, 1)
	clear(relation[windowBytes : 3*windowBytes])
	end := 5*windowBytes + 2*testPage
	clear(relation[end : end+testPage]) // zeros inside a window are no hole
	versions := [][]byte{relation}
	changed := [][]int{nil, {2, 20, 21, 50, 83}, {3, 4, 21, 60}}
	for i := 1; i <= 2; i++ {
		versions = append(versions, patched(versions[i-1], uint64(100*i), changed[i]...))
	}
	return []fixtureFile{
		{path: "PG_VERSION", typ: TypeFile, data: []byte("18\n")},
		{path: "base", typ: TypeDir},
		{path: "base/5", typ: TypeDir},
		{path: "base/5/1259", typ: TypeFile, data: rows(2*testPage, 2)},
		{path: "base/5/16384", typ: TypeFile, data: versions[n], deltas: changed[n]},
		{path: "base/5/16385", typ: TypeFile, data: rows(2*windowBytes, 3)},
		{path: "base/5/16386", typ: TypeFile, data: []byte{}},
		{path: "base/5/16387", typ: TypeFile, data: make([]byte, 20*testPage)},
		{path: "global", typ: TypeDir},
		{path: "global/1213", typ: TypeFile, data: rows(testPage, uint64(10+n))},
		{path: "global/6000", typ: TypeFile, data: noise(3000, 4)},
		{path: "pg_tblspc", typ: TypeDir},
		{path: "pg_tblspc/16400", typ: TypeLink, target: "/srv/fast"},
		{path: "pg_tblspc/16400/PG_18_202506291", typ: TypeDir},
		{path: "pg_tblspc/16400/PG_18_202506291/5", typ: TypeDir},
		{path: "pg_tblspc/16400/PG_18_202506291/5/16401", typ: TypeFile, data: rows(windowBytes+testPage, 5)},
		{path: "pg_wal", typ: TypeLink, target: "/srv/wal"},
		{path: "postgresql.conf", typ: TypeFile, data: rows(700, 6)},
	}
}

// fixtureLate are the files that are read last.
func fixtureLate(n int) []fixtureFile {
	return []fixtureFile{
		{path: "backup_label", typ: TypeFile, data: rows(200, uint64(20+n))},
		{path: "global/pg_control", typ: TypeFile, data: append(rows(300, uint64(30+n)), make([]byte, testPage-300)...)},
	}
}

func (f fixtureFile) entry(n int) File {
	e := File{Path: f.path, Type: f.typ, Mode: 0o600, ModTime: time.Unix(1_790_000_000+int64(n), 0).UTC(), Owner: "postgres", Group: "postgres", LinkTarget: f.target}
	if f.typ != TypeFile {
		e.Mode = 0o700
	}
	if f.path == "postgresql.conf" {
		e.Group, e.Mode, e.PageErrors = "dba", 0o640, true // a flag that the format has, wherever it stands
	}
	return e
}

// writeFixtureBackup writes backup n.
func writeFixtureBackup(ctx context.Context, s *Stanza, n int) (BackupHeader, error) {
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: []BackupType{Full, Differential, Incremental}[n], PageSize: testPage, Uploads: 2})
	if err != nil {
		return BackupHeader{}, err
	}
	if err := fillFixtureBackup(ctx, s, w, n); err != nil {
		w.Abort()
		return BackupHeader{}, err
	}
	at := time.Date(2026, 11, 20, 11, n, 0, 0, time.UTC)
	return w.Commit(BackupHeader{Timeline: 1, Checksums: true, Version: "0.1.0",
		Start:          BackupPoint{Time: at, LSN: postgres.LSN(0x1000028 + n), WAL: "000000010000000000000010"},
		Stop:           BackupPoint{Time: at.Add(time.Minute), LSN: postgres.LSN(0x1000100 + n), WAL: "000000010000000000000010"},
		PageErrorCount: 1, PageErrors: []PageError{{Path: "postgresql.conf", Blocks: []uint32{0}}},
		Tablespaces: []Tablespace{{OID: 16400, Name: "fast", Location: "/srv/fast"}},
		Databases:   []Database{{OID: 5, Name: "postgres"}}, Annotations: map[string]string{"made-by": "the fixture"}})
}

func fillFixtureBackup(ctx context.Context, s *Stanza, w *BackupWriter, n int) error {
	framer, err := s.repo.NewFramer()
	if err != nil {
		return err
	}
	b := fixtureWriter{ctx: ctx, w: w, framer: framer, n: n}
	for _, f := range fixtureTree(n) {
		if err := b.add(f); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if err := b.flush(); err != nil {
		return err
	}
	if err := w.closePack(); err != nil {
		return err
	}
	var files []File
	var contents [][]byte
	for _, f := range fixtureLate(n) {
		files, contents = append(files, f.entry(n)), append(contents, f.data)
	}
	return w.AddLate(framer, files, contents)
}

// fixtureWriter gathers small files into bundles.
type fixtureWriter struct {
	ctx    context.Context
	w      *BackupWriter
	framer *Framer
	n      int
	files  []File
	smalls []Small
	raw    []byte
}

func (b *fixtureWriter) flush() error {
	_, bundle, err := b.framer.Bundle(nil, b.raw, b.smalls)
	if err == nil {
		err = b.w.AddSmall(b.files, b.smalls, bundle)
	}
	b.files, b.smalls, b.raw = nil, nil, nil
	return err
}

func (b *fixtureWriter) add(f fixtureFile) error {
	e := f.entry(b.n)
	if f.typ == TypeFile && len(f.data) > 0 && len(f.data) < windowBytes {
		s := b.framer.Small(b.ctx, f.data, f.path, b.w.Parent().Find(b.ctx, f.path))
		e.Size, e.HasCRC, e.CRC32C = int64(len(f.data)), true, crc32c.Update(0, f.data)
		b.files, b.smalls = append(b.files, e), append(b.smalls, s)
		if !s.Reused() {
			b.raw = append(b.raw, f.data...)
		}
		return nil
	}
	if err := b.flush(); err != nil {
		return err
	}
	switch {
	case f.typ != TypeFile || len(f.data) == 0:
		return b.w.AddPath(e)
	case f.deltas != nil:
		return addDelta(b.ctx, b.w, b.framer, e, f.data, b.w.Parent().Find(b.ctx, f.path), 3, f.deltas...)
	}
	return writeBig(b.ctx, b.w, b.framer, e, f.data)
}

// walNames lists the WAL of a stanza by file name.
func walNames(ctx context.Context, s *Stanza, id Identity) ([]string, error) {
	var names []string
	for f, err := range s.listWAL(ctx, id, walPrefix(s.name, id.Number), "") {
		if err != nil {
			return nil, err
		}
		names = append(names, f.Name(id.SegmentSize))
	}
	return names, nil
}

// readWAL reads a whole WAL file.
func readWAL(ctx context.Context, s *Stanza, id Identity, name string) ([]byte, error) {
	f, err := postgres.ParseWALFile(name, id.SegmentSize)
	if err != nil {
		return nil, err
	}
	r, err := s.OpenWAL(ctx, id, f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func readSummary(ctx context.Context, s *Stanza, id Identity, name string) (WALSummary, error) {
	f, err := postgres.ParseWALFile(name, id.SegmentSize)
	if err != nil {
		return WALSummary{}, err
	}
	return s.WALSummary(ctx, id, f)
}

// eachRepository runs a test on a plain and on an encrypted repository.
func eachRepository(t *testing.T, test func(t *testing.T, passphrase string)) {
	for _, passphrase := range []string{"", fixturePassphrase} {
		name := "plain"
		if passphrase != "" {
			name = "encrypted"
		}
		t.Run(name, func(t *testing.T) { test(t, passphrase) })
	}
}

// expectError compares an error with a text that must stand in it; "" means there must be none.
func expectError(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}
