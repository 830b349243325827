package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func mustWAL(t testing.TB, name string) postgres.WALFile {
	t.Helper()
	f, err := postgres.ParseWALFile(name, fixtureSegment)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// walStanza is an empty stanza with segments of 1 MiB.
func walStanza(t testing.TB, st storage.Store, passphrase string) *Stanza {
	t.Helper()
	r, err := Create(context.Background(), st, fixtureOptions(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	id := testIdentity()
	id.SegmentSize = fixtureSegment
	s, err := r.CreateStanza(context.Background(), "main", id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPuttingWAL(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		s := walStanza(t, mem.New(), passphrase)
		f := mustWAL(t, "000000010000000000000001")
		content := rows(fixtureSegment, 1)
		put, err := s.PutWAL(ctx, s.Current(), f, storage.Bytes(content))
		if err != nil || put.Outcome != WALStored || put.RawSize != fixtureSegment || put.StoredSize == 0 {
			t.Errorf("the first time: %+v, %v", put, err)
		}
		put, err = s.PutWAL(ctx, s.Current(), f, storage.Bytes(content))
		if err != nil || put.Outcome != WALAlreadyThere || put.StoredSize != 0 {
			t.Errorf("the same again: %+v, %v", put, err)
		}
		for _, other := range [][]byte{patched(content, 5, 100), content[:len(content)-1], {}} {
			_, err = s.PutWAL(ctx, s.Current(), f, storage.Bytes(other))
			if !errors.Is(err, ErrWALConflict) || hint.Of(err) == "" {
				t.Errorf("%d other bytes: %v", len(other), err)
			}
		}
		if got, err := readWAL(ctx, s, s.Current(), "000000010000000000000001"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("afterwards: %d bytes, %v", len(got), err)
		}
	})
}

func TestClashWithADamagedObjectIsDamageAndChangesNothing(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := walStanza(t, st, "")
	f := mustWAL(t, "000000010000000000000001")
	key := walKey("main", s.Current(), f)
	if err := st.Put(ctx, key, storage.Bytes([]byte("torn")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := s.PutWAL(ctx, s.Current(), f, storage.Bytes(rows(1000, 1)))
	if !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if b, err := storage.ReadAll(ctx, st, key, 100); err != nil || string(b) != "torn" {
		t.Errorf("it was replaced by %q, %v", b, err)
	}
}

// changing is a source whose second reading differs from the first.
type changing struct {
	storage.Source
	opened int
	change func(b []byte) []byte
}

func (c *changing) Open() (io.ReadCloser, error) {
	r, err := c.Source.Open()
	if c.opened++; err != nil || c.opened == 1 {
		return r, err
	}
	b, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(c.change(b))), err
}

func TestWALThatChangesWhileItIsReadIsRefused(t *testing.T) {
	for _, test := range []struct {
		title  string
		change func(b []byte) []byte
		want   string
	}{
		{"other bytes", func(b []byte) []byte { b[5]++; return b }, "changed while it was read"},
		{"fewer bytes", func(b []byte) []byte { return b[:100] }, "it ends after"},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := walStanza(t, mem.New(), "")
			f := mustWAL(t, "000000010000000000000001")
			_, err := s.PutWAL(context.Background(), s.Current(), f, &changing{Source: storage.Bytes(rows(5000, 1)), change: test.change})
			expectError(t, err, test.want)
			if there, err := s.HasWAL(context.Background(), s.Current(), f); there || err != nil {
				t.Errorf("it is there: %v, %v", there, err)
			}
		})
	}
}

func TestAbsentWALIsNotDamage(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	_, err := s.OpenWAL(context.Background(), s.Current(), mustWAL(t, "000000010000000000000001"))
	if !errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestWALOfEverySizeReadsBack(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		for _, compression := range []string{"zstd", "s2", "none"} {
			s := walStanza(t, mem.New(), passphrase)
			var err error
			if s.repo.o.Compression, err = ParseCompression(compression); err != nil {
				t.Fatal(err)
			}
			for i, size := range []int{0, 1, walFrameSize - 1, walFrameSize, walFrameSize + 1, 3*walFrameSize + 5} {
				content := append(rows(size/2, 1), noise(size-size/2, 2)...)
				f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: uint64(i)}
				if _, err := s.PutWAL(ctx, s.Current(), f, storage.Bytes(content)); err != nil {
					t.Fatal(err)
				}
				if got, err := readWAL(ctx, s, s.Current(), f.Name(fixtureSegment)); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s, %d bytes: %d bytes, %v", compression, size, len(got), err)
				}
			}
		}
	})
}

func TestWALRangesEndAtGapsAndTimelines(t *testing.T) {
	ctx := context.Background()
	s := walStanza(t, mem.New(), "")
	for _, name := range []string{
		"0000000100000000000000FE", "0000000100000000000000FF", "000000010000000000000100", "000000010000000000000FFF", "000000010000000100000000",
		"000000010000000100000002", "000000010000000100000003.partial", "000000010000000100000002.00000028.backup",
		"000000020000000100000002", "00000002.history", "000000020000000100000003",
	} {
		if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, name), storage.Bytes([]byte("1\t0/1\tx\n"))); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.WALRanges(ctx, s.Current())
	if err != nil {
		t.Fatal(err)
	}
	want := []WALRange{{1, 1, 0xfe, 0x100}, {1, 1, 0xfff, 0x1000}, {1, 1, 0x1002, 0x1002}, {1, 2, 0x1002, 0x1003}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestWALHeaderIsRefused(t *testing.T) {
	sound := walHeader{size: 100}
	for _, test := range []struct {
		title     string
		spoil     func(b []byte) []byte
		header    walHeader
		encrypted bool
		want      string
	}{
		{"when it is cut", func(b []byte) []byte { return b[:40] }, sound, false, "does not begin with"},
		{"when its end is cut", func(b []byte) []byte { return b[:len(b)-1] }, sound, false, "ends early"},
		{"when it is of another object", nil, sound, false, ""},
		{"when its version is newer", func(b []byte) []byte { b[8] = 2; return b }, sound, false, "object version 2"},
		{"when a byte was changed", func(b []byte) []byte { b[30]++; return b }, sound, false, "checksum"},
		{"when the content is larger than any WAL file", func(b []byte) []byte { return b }, walHeader{size: maxWAL + 1}, false, "out of bounds"},
		{"when the content is smaller than nothing", func(b []byte) []byte { return b }, walHeader{size: -1}, false, "out of bounds"},
		{"when it is plain in an encrypted repository", func(b []byte) []byte { return b }, sound, true, "flags"},
		{"when it is encrypted in a plain repository", func(b []byte) []byte { return b }, walHeader{size: 1, wrapped: []byte("k")}, false, "flags"},
		{"when its wrapped key is too long", func(b []byte) []byte { b[53] = 0xff; return b }, sound, false, "ends early"},
	} {
		t.Run(test.title, func(t *testing.T) {
			b := test.header.encode("k")
			key := "k"
			if test.spoil == nil {
				key, test.want = "other", "checksum"
			} else {
				b = test.spoil(b)
			}
			_, _, err := decodeWALHeader(key, b, test.encrypted)
			expectError(t, err, test.want)
		})
	}
}
