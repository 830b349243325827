package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// Every decoder meets hostile bytes here: it must not panic, and must not
// allocate more than a fixed amount and a fixed multiple of its input.
const (
	allocationFixed    = 4 << 20 // frames of WAL and their like are bounded by 1 MiB each
	allocationMultiple = 256
)

// bounded runs decode and fails when it allocated more than size bytes of input justify.
func bounded(t *testing.T, size int, decode func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decode()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > allocationFixed+allocationMultiple*uint64(size) {
		t.Errorf("%d bytes allocated for %d bytes of input", n, size)
	}
}

func FuzzFooter(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		f.Add(randomFooter(rng, testPack(1, 1), 100).encode(100))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), func() {
			got, err := decodeFooter(testPack(1, 1), b)
			if err == nil && len(got.frames) > 0 {
				again, err := decodeFooter(testPack(1, 1), got.encode(got.frames[0].ref.offset))
				if err != nil || len(again.frames) != len(got.frames) {
					t.Errorf("what was read does not write: %v", err)
				}
			}
		})
	})
}

func FuzzMaps(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 5 {
		f.Add(encodeMaps([]*fileMap{randomMap(rng), randomMap(rng)}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var maps []*fileMap
		var err error
		bounded(t, len(b), func() { maps, err = decodeMaps(b) })
		if err != nil {
			if !errors.Is(err, errWire) {
				t.Errorf("%v is no errWire", err)
			}
			return
		}
		for _, m := range maps {
			if len(m.frames) > 1000 || len(m.runs) > 1000 {
				continue
			}
			var at int64
			for _, e := range m.extents("f", 1<<20) {
				if e.Offset != at || e.Length <= 0 {
					t.Fatalf("extent at %d of %d bytes, want at %d", e.Offset, e.Length, at)
				}
				at += e.Length
			}
			if at != m.size {
				t.Errorf("extents end at %d of %d", at, m.size)
			}
		}
	})
}

// fuzzBackup is an open backup whose tables hold a bundle and a block.
func fuzzBackup() *Backup {
	b := &Backup{key: "backups/main/l", stanza: &Stanza{name: "main"}}
	b.header.Owners = []string{"postgres:postgres", "a:b"}
	b.tables.packs = []packUse{{id: testPack(1, 0), size: 1000, used: 900}}
	b.tables.maps = []mapUse{{op: testPack(1, 0).op, size: 500}}
	b.tables.bundles = []frameRef{{pack: testPack(1, 0), offset: 80, stored: 300, raw: 1000}}
	b.tables.blocks = []mapBlockRef{{op: testPack(1, 0).op, offset: 28, length: 100}}
	return b
}

func FuzzFiles(f *testing.F) {
	for _, late := range []bool{false, true} {
		var w wireWriter
		encodeFile(&w, "", File{Path: "base", Type: TypeDir, Mode: 0o700}, 0)
		encodeFile(&w, "base", File{Path: "base/1", Type: TypeFile, Size: 10, HasCRC: true, content: contentRef{kind: contentBundle, index: 5}}, 1)
		encodeFile(&w, "base/1", File{Path: "base/2", Type: TypeFile, Size: 1 << 40, PageErrors: true, content: contentRef{kind: contentMap}}, 1)
		encodeFile(&w, "base/2", File{Path: "pg_wal", Type: TypeLink, LinkTarget: "/x"}, 1)
		f.Add(w.b, late)
	}
	b := fuzzBackup()
	f.Fuzz(func(t *testing.T, plain []byte, late bool) {
		bounded(t, len(plain), func() {
			last, before := "", ""
			_, err := b.decodeFiles(plain, &last, late, func(file File, _ error) bool {
				if CheckPath(file.Path) != nil || !late && before != "" && ComparePaths(before, file.Path) >= 0 {
					t.Errorf("path %q after %q", file.Path, before)
				}
				before = file.Path
				if file.content.kind == contentBundle && int64(file.content.index)+file.Size > 1000 {
					t.Errorf("content of %q leaves its bundle", file.Path)
				}
				return true
			})
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no ErrDamaged", err)
			}
		})
	})
}

func FuzzManifestTables(f *testing.F) {
	b := fuzzBackup()
	f.Add(b.tables.encodePacks(), b.tables.encodeRefs())
	f.Fuzz(func(t *testing.T, packs, refs []byte) {
		bounded(t, len(packs)+len(refs), func() {
			var tables manifestTables
			if tables.decodePacks(packs) != nil || tables.decodeRefs(refs) != nil {
				return
			}
			var again manifestTables
			if err := errFirst(again.decodePacks(tables.encodePacks()), again.decodeRefs(tables.encodeRefs())); err != nil {
				t.Errorf("what was read does not write: %v", err)
			}
		})
	})
}

func FuzzBlocks(f *testing.F) {
	var out bytes.Buffer
	w, err := newBlockWriter(&out, sealer{}, "k")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := w.write(blockFiles, []byte("content")); err != nil {
		f.Fatal(err)
	}
	if err := w.end(); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, object []byte) {
		bounded(t, len(object), func() {
			if _, err := readBlocks(sealer{}, "k", object); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no ErrDamaged", err)
			}
		})
	})
}

// FuzzWAL reads an object of hostile bytes, and one whose header and seals are
// right while the frames inside are hostile.
func FuzzWAL(f *testing.F) {
	ctx := context.Background()
	name := mustWAL(f, "000000010000000000000001")
	s := walStanza(f, mem.New(), "")
	key := walKey(s.name, s.Current(), name)
	for _, size := range []int{0, 10, 3000} {
		if err := s.repo.store.Delete(ctx, key); err != nil {
			f.Fatal(err)
		}
		if _, err := s.PutWAL(ctx, s.Current(), name, NewWALContent(storage.Bytes(rows(size, 1)))); err != nil {
			f.Fatal(err)
		}
		b, err := storage.ReadAll(ctx, s.repo.store, key, 1<<20)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte("payload"), uint8(codec.None), uint32(7), uint32(size))
	}
	f.Fuzz(func(t *testing.T, object, payload []byte, id uint8, plain, size uint32) {
		head := walHeader{size: int64(size)}.encode(key)
		frame := walFrameHead(codec.ID(id), int(plain), len(payload)+plainOverhead)
		sealed := append(append(bytes.Clone(head), frame...), sealer{}.seal(nil, payload, 0, walContext(frame, append(bytes.Clone(head), key...)))...)
		for _, b := range [][]byte{object, sealed} {
			if err := s.repo.store.Put(ctx, key, storage.Bytes(b), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			bounded(t, len(b), func() {
				_, err := readWAL(ctx, s, s.Current(), "000000010000000000000001")
				if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerFormat) {
					t.Errorf("%v is no ErrDamaged", err)
				}
			})
		}
	})
}

func FuzzDocument(f *testing.F) {
	data, err := encodeDocument("k", pinFormat, Pin{Operation: "x", Label: "20261120-123456F"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), func() {
			var p Pin
			_, err := decodeDocument("k", pinFormat, data, &p)
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no ErrDamaged", err)
			}
			if err == nil && !json.Valid(data) {
				t.Error("what is no JSON was read")
			}
		})
	})
}

func FuzzPackTail(f *testing.F) {
	b := newPackBuilder(testPack(1, 1), testPage, sealer{}, sealer{}, nil, nil)
	b.add(frame{kind: frameAligned, raw: 10, payload: []byte("0123456789"), path: "f"})
	pack, err := b.finish()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pack)
	f.Fuzz(func(t *testing.T, end []byte) {
		bounded(t, len(end), func() {
			if p, err := parsePackTail("k", end); err == nil && (p.length < blockHeaderSize || p.length > blockHeaderSize+maxBlock+gcmOverhead) {
				t.Errorf("%+v", p)
			}
			st := mem.New()
			if err := st.Put(context.Background(), testPack(1, 1).key(), storage.Bytes(end), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			r := &Repository{store: st}
			for _, err := range []error{second(r.readFooter(context.Background(), testPack(1, 1))), second(r.readPackHeader(context.Background(), testPack(1, 1)))} {
				if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerFormat) {
					t.Errorf("%v is no ErrDamaged", err)
				}
			}
		})
	})
}

func second[T any](_ T, err error) error { return err }

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"20261120-123456F", "20261120-123456X", "../x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := ParseLabel(s); err == nil && (string(l) != s || len(s) != 16 || strings.ContainsAny(s, "/.\x00\n")) {
			t.Errorf("%q is accepted", s)
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"base/1", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "a\x00b", "..", "...", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckPath(s) != nil {
			return
		}
		if at := path.Join("/data", s); !strings.HasPrefix(at, "/data/") || at != "/data/"+s || strings.ContainsRune(s, 0) {
			t.Errorf("%q leads to %q", s, at)
		}
	})
}

func TestPathsThatLeaveTheDirectoryAreRefused(t *testing.T) {
	for _, bad := range []string{"", "/", "/x", ".", "..", "../x", "a/..", "a/../..", "a/./b", "a//b", "a/", "./a", "a\x00", strings.Repeat("x", maxPath+1)} {
		if CheckPath(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	for _, good := range []string{"a", "a/b", "...", "..a", "a..b", ".x", "a b", "ü", strings.Repeat("x", maxPath)} {
		if err := CheckPath(good); err != nil {
			t.Error(err)
		}
	}
}

func TestPathsAreInTheOrderOfAWalk(t *testing.T) {
	order := []string{"a", "a/b", "a/b/c", "a/b-c", "a!", "a-b", "a.b", "ab", "b"}
	for i, a := range order {
		for j, b := range order {
			if got := ComparePaths(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}

// io.EOF must not reach a caller as the end of a cut object.
func TestEndOfStoreIsNotEndOfContent(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	name := mustWAL(t, "000000010000000000000001")
	ctx := context.Background()
	if _, err := s.PutWAL(ctx, s.Current(), name, NewWALContent(storage.Bytes(rows(3*walFrameSize, 1)))); err != nil {
		t.Fatal(err)
	}
	key := walKey(s.name, s.Current(), name)
	whole, err := storage.ReadAll(ctx, s.repo.store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if n > 200 && n%97 != 0 {
			continue
		}
		if err := s.repo.store.Put(ctx, key, storage.Bytes(whole[:n]), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := readWAL(ctx, s, s.Current(), "000000010000000000000001"); !errors.Is(err, ErrDamaged) || errors.Is(err, io.EOF) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}
