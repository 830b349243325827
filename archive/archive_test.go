package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/posix"
)

const segmentSize = 1 << 20

// magics are the WAL formats of the majors, as access/xlog_internal.h has them.
func magics() map[int]uint16 {
	return map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
}

func testIdentity(major int) repo.Identity {
	return repo.Identity{SystemID: 7_123_456_789_012_345_678, Major: major, SegmentSize: segmentSize, BlockSize: 8192,
		CatalogVersion: 1, ControlVersion: 1300}
}

// segment is the content of a WAL segment of id that fits the name f.
func segment(id repo.Identity, f postgres.WALFile) []byte {
	data := make([]byte, id.SegmentSize)
	le := binary.LittleEndian
	source := rand.New(rand.NewPCG(f.Segment, uint64(f.Timeline)))
	for i := 0; i < len(data); i += 16 { // half of it compresses
		le.PutUint64(data[i:], source.Uint64())
	}
	le.PutUint16(data[0:], magics()[id.Major])
	le.PutUint16(data[2:], 0x0002)
	le.PutUint32(data[4:], uint32(f.Timeline))
	le.PutUint64(data[8:], uint64(f.Start(id.SegmentSize)))
	le.PutUint64(data[16:], 0)
	le.PutUint64(data[24:], id.SystemID)
	le.PutUint32(data[32:], uint32(id.SegmentSize))
	le.PutUint32(data[36:], 8192)
	return data
}

func clock() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

func openStanza(t *testing.T, st storage.Store) (*repo.Stanza, error) {
	t.Helper()
	r, err := repo.Open(t.Context(), st, repo.Options{Clock: clock})
	if err != nil {
		return nil, err
	}
	return r.Stanza(t.Context(), "main")
}

func newStanza(t *testing.T, st storage.Store, id repo.Identity) *repo.Stanza {
	t.Helper()
	r, err := repo.Create(t.Context(), st, repo.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(t.Context(), "main", id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func memStanza(t *testing.T) *repo.Stanza { return newStanza(t, mem.New(), testIdentity(17)) }

func stores(t *testing.T) map[string]func() storage.Store {
	return map[string]func() storage.Store{
		"mem": func() storage.Store { return mem.New() },
		"posix": func() storage.Store {
			st, err := posix.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { st.Close() })
			return st
		},
	}
}

func walFileOf(number uint64) postgres.WALFile {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: number}
}

// writeFile puts content into a directory of its own under name.
func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pushContent(t *testing.T, s *repo.Stanza, name string, content []byte) (Result, error) {
	t.Helper()
	return pushPath(t, s, writeFile(t, name, content))
}

// pushTo is a target whose stanza is open.
func pushTo(name string, s *repo.Stanza) PushTarget {
	return PushTarget{Name: name, Open: func(context.Context) (*repo.Stanza, error) { return s, nil }}
}

// takeFrom is a source whose stanza is open.
func takeFrom(name string, s *repo.Stanza, ids ...repo.Identity) Source {
	return Source{Name: name, Open: func(context.Context) (*repo.Stanza, []repo.Identity, error) { return s, ids, nil }}
}

func pushPath(t *testing.T, s *repo.Stanza, path string) (Result, error) {
	t.Helper()
	p, err := NewPusher(pushTo("local", s))
	if err != nil {
		t.Fatal(err)
	}
	return p.Push(t.Context(), path)
}

// get fetches name and returns its content; nothing may be left beside dest.
func getContent(t *testing.T, s *repo.Stanza, name string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	dest := filepath.Join(dir, "RECOVERYXLOG")
	g, err := NewGetter(takeFrom("local", s, s.Current()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Get(t.Context(), name, dest)
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if err != nil {
		if len(entries) != 0 {
			t.Errorf("a get that failed left %s", entries[0].Name())
		}
		return nil, err
	}
	if len(entries) != 1 {
		t.Errorf("a get left %d files", len(entries))
	}
	content, readErr := os.ReadFile(dest)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return content, nil
}

func mustHold(t *testing.T, s *repo.Stanza, name string, want []byte) {
	t.Helper()
	got, err := getContent(t, s, name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s came back with other content", name)
	}
}

func contains(t *testing.T, err error, words ...any) {
	t.Helper()
	if err == nil {
		t.Fatal("there was no error")
	}
	for _, w := range words {
		if text := fmt.Sprint(w); !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

func hinted(t *testing.T, err error, words string) {
	t.Helper()
	if !strings.Contains(hint.Of(err), words) {
		t.Errorf("the hint of %v is %q, want %q", err, hint.Of(err), words)
	}
}
