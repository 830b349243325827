package repo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
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
		put, err := s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(content)))
		if err != nil || put.Outcome != WALStored || put.RawSize != fixtureSegment || put.StoredSize == 0 {
			t.Errorf("the first time: %+v, %v", put, err)
		}
		put, err = s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(content)))
		if err != nil || put.Outcome != WALAlreadyThere || put.StoredSize != 0 {
			t.Errorf("the same again: %+v, %v", put, err)
		}
		for _, other := range [][]byte{patched(content, 5, 100), content[:len(content)-1], {}} {
			_, err = s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(other)))
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
	_, err := s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(rows(1000, 1))))
	if !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if b, err := storage.ReadAll(ctx, st, key, 100); err != nil || string(b) != "torn" {
		t.Errorf("it was replaced by %q, %v", b, err)
	}
}

// changing is a source that is other content from the n-th reading on.
type changing struct {
	storage.Source
	opened, from int
	change       func(b []byte) []byte
}

func (c *changing) Open() (io.ReadCloser, error) {
	r, err := c.Source.Open()
	if c.opened++; err != nil || c.opened < c.from {
		return r, err
	}
	b, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(c.change(b))), err
}

// unheld makes content be treated as a file that is too large for memory.
func unheld(src storage.Source) *WALContent {
	c := NewWALContent(src)
	c.hold = -1
	return c
}

func TestALargeWALFileThatChangesWhileItIsReadIsRefused(t *testing.T) {
	flip := func(at int) func(b []byte) []byte {
		return func(b []byte) []byte { b[at]++; return b }
	}
	for _, test := range []struct {
		title  string
		from   int // the reading: 1 is of the beginning, 2 for the content id, 3 for the object
		change func(b []byte) []byte
		want   string
	}{
		{"other bytes", 3, flip(90_000), "changed while it was read"},
		{"fewer bytes", 3, func(b []byte) []byte { return b[:70_000] }, "it ends after 70000 of 100000"},
		{"more bytes", 3, func(b []byte) []byte { return append(b, 0) }, "more than 100000 bytes"},
		{"fewer bytes from the start", 1, func(b []byte) []byte { return b[:100] }, "it ends after 100 of 100000"},
		{"another beginning than was checked", 2, flip(5), "changed while it was read"},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := walStanza(t, mem.New(), "")
			f := mustWAL(t, "000000010000000000000001")
			src := &changing{Source: storage.Bytes(rows(100_000, 1)), from: test.from, change: test.change}
			_, err := s.PutWAL(context.Background(), s.Current(), f, unheld(src))
			expectError(t, err, test.want)
			if src.opened < test.from {
				t.Errorf("it was read %d times", src.opened)
			}
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
				var stored []int64
				for j, c := range []*WALContent{NewWALContent(storage.Bytes(content)), unheld(storage.Bytes(content))} {
					f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: uint64(2*i + j)}
					put, err := s.PutWAL(ctx, s.Current(), f, c)
					if err != nil {
						t.Fatal(err)
					}
					stored = append(stored, put.StoredSize)
					if got, err := readWAL(ctx, s, s.Current(), f.Name(fixtureSegment)); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s, %d bytes: %d bytes, %v", compression, size, len(got), err)
					}
				}
				if stored[0] != stored[1] {
					t.Errorf("%s, %d bytes: held and not held make objects of %d bytes", compression, size, stored)
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
		if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, name), NewWALContent(storage.Bytes([]byte("1\t0/1\tx\n")))); err != nil {
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

// odd is an error that wraps io.EOF and is not the end.
type odd struct{ io.Reader }

func (o odd) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p)
	if n == 0 && err != nil {
		err = fmt.Errorf("connection lost: %w", io.EOF)
	}
	return n, err
}

func (odd) Close() error { return nil }

// TestWritingAWALFileIsReadingIt in larger pieces, and ends with the same errors.
func TestWritingAWALFileIsReadingIt(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		s := walStanza(t, mem.New(), passphrase)
		f := mustWAL(t, "000000010000000000000001")
		content := rows(fixtureSegment, 1)
		if _, err := s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(content))); err != nil {
			t.Fatal(err)
		}
		open := func() *WALReader {
			t.Helper()
			r, err := s.OpenWAL(ctx, s.Current(), f)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = r.Close() })
			return r
		}
		r, out := open(), &bytes.Buffer{}
		begin := make([]byte, 1000) // what was read is not written again
		if _, err := io.ReadFull(r, begin); err != nil {
			t.Fatal(err)
		}
		n, err := r.WriteTo(out)
		if err != nil || n != fixtureSegment-1000 || !bytes.Equal(append(begin, out.Bytes()...), content) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if n, err := r.WriteTo(out); n != 0 || err != nil {
			t.Errorf("behind the end: %d bytes, %v", n, err)
		}

		full := errors.New("no space left")
		r = open()
		if _, err := r.WriteTo(writing(func(p []byte) (int, error) { return len(p) / 2, full })); !errors.Is(err, full) {
			t.Errorf("a full disk: %v", err)
		}
		if _, err := r.WriteTo(writing(func(p []byte) (int, error) { return len(p) / 2, nil })); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("a short write: %v", err)
		}

		r = open()
		r.in = bufio.NewReader(odd{io.LimitReader(r.in, 100)})
		if _, err := r.WriteTo(io.Discard); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut: %v", err)
		}
		r = open()
		r.err = fmt.Errorf("connection lost: %w", io.EOF)
		if _, err := r.WriteTo(io.Discard); err == nil {
			t.Error("an error that wraps the end was taken for it")
		}
	})
}

type writing func(p []byte) (int, error)

func (w writing) Write(p []byte) (int, error) { return w(p) }
