package repo

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage/mem"
)

// countingEncoder counts what is compressed.
type countingEncoder struct {
	codec.Encoder
	calls *int
}

func (c countingEncoder) Encode(dst, src []byte) ([]byte, error) {
	*c.calls++
	return c.Encoder.Encode(dst, src)
}

// countEncodings makes each encoder of the framers count; encoders that are one stay one.
func countEncodings(fs *Framers) *int {
	calls := new(int)
	counted := map[codec.Encoder]codec.Encoder{}
	for _, f := range fs.each {
		if counted[f.enc] == nil {
			counted[f.enc] = countingEncoder{f.enc, calls}
		}
		f.enc = counted[f.enc]
	}
	return calls
}

// repositoriesOf makes a repository for each of the compressions; behind a + an encrypted one.
func repositoriesOf(t testing.TB, compressions ...string) []*Repository {
	t.Helper()
	var all []*Repository
	for _, c := range compressions {
		passphrase := ""
		if c[0] == '+' {
			c, passphrase = c[1:], fixturePassphrase
		}
		r := testRepository(t, mem.New(), passphrase).repo
		var err error
		if r.o.Compression, err = ParseCompression(c); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestFramersDoOnceWhatRepositoriesHaveInCommon(t *testing.T) {
	ctx := context.Background()
	all := repositoriesOf(t, "zstd:1", "zstd:2", "zstd:1", "+zstd:1", "+zstd:1", "s2")
	fs, err := NewFramers(all...)
	if err != nil {
		t.Fatal(err)
	}
	calls := countEncodings(fs)
	raw := rows(windowBytes, 1)
	if room := fs.Room(800); room != 3*900 {
		t.Errorf("room of %d bytes for 800, want that of three codecs", room)
	}
	out, windows, err := fs.Window(ctx, make([]byte, 0, fs.Room(windowBytes)), raw, "base/1/1", 0, testPage, make([]*ParentFile, len(all)))
	if err != nil {
		t.Fatal(err)
	}
	if *calls != 3 {
		t.Errorf("it was compressed %d times for three codecs", *calls)
	}
	stored := 0
	for i, w := range windows {
		one, err := all[i].NewFramer()
		if err != nil {
			t.Fatal(err)
		}
		_, want, err := one.Window(ctx, nil, raw, "base/1/1", 0, testPage, nil)
		if err != nil {
			t.Fatal(err)
		}
		if w.fresh.id != want.fresh.id || w.fresh.codec != want.fresh.codec || !bytes.Equal(w.fresh.payload, want.fresh.payload) {
			t.Errorf("repository %d: another frame than its own framer makes", i)
		}
		if i == 0 || i == 1 || i == 5 {
			stored += len(w.fresh.payload)
		}
	}
	if len(out) != stored {
		t.Errorf("out has %d bytes, the three frames have %d", len(out), stored)
	}
	if windows[0].fresh.id == windows[3].fresh.id || windows[3].fresh.id == windows[4].fresh.id {
		t.Error("the content id of an encrypted repository is that of another")
	}
	// One that is dropped costs nothing, also when others relied on its work.
	fs.Drop(0)
	fs.Drop(5)
	*calls = 0
	_, windows, err = fs.Window(ctx, out[:0], raw, "base/1/1", 0, testPage, make([]*ParentFile, len(all)))
	if err != nil || *calls != 2 || windows[0].raw != 0 || len(windows[2].fresh.payload) == 0 || windows[2].fresh.id != windows[1].fresh.id {
		t.Errorf("after two were dropped: compressed %d times, %v", *calls, err)
	}
}

func TestABundleHoldsWhatItsRepositoryLacks(t *testing.T) {
	fs, err := NewFramers(repositoriesOf(t, "zstd", "zstd", "zstd", "zstd", "s2")...)
	if err != nil {
		t.Fatal(err)
	}
	calls := countEncodings(fs)
	contents := [][]byte{bytes.Repeat([]byte("a"), 1000), bytes.Repeat([]byte("b"), 2000), nil, bytes.Repeat([]byte("c"), 3000), bytes.Repeat([]byte("d"), 500)}
	held := []string{"", "b", "", "abc", "b"} // and d by all
	raw := bytes.Join(contents[:4], nil)
	members := make([][]Small, len(held))
	for i := range held {
		for _, c := range contents {
			s := Small{member: member{length: uint32(len(c))}}
			s.reused = len(c) > 0 && (c[0] == 'd' || bytes.IndexByte([]byte(held[i]), c[0]) >= 0)
			members[i] = append(members[i], s)
		}
	}
	_, bundles, err := fs.Bundle(make([]byte, 0, fs.Room(len(raw))), raw, members)
	if err != nil {
		t.Fatal(err)
	}
	if *calls != 3 { // for the first and third together, the second, the fifth; the fourth has nothing
		t.Errorf("it was compressed %d times", *calls)
	}
	for i, want := range [][][]byte{contents[:4], {contents[0], contents[3]}, contents[:4], nil, {contents[0], contents[3]}} {
		plain := bytes.Join(want, nil)
		got := make([]byte, len(plain))
		f := bundles[i].fresh
		if f.raw != len(plain) {
			t.Fatalf("bundle %d has %d bytes, want %d", i, f.raw, len(plain))
		}
		if len(plain) == 0 {
			continue
		}
		if err := codec.NewDecoder().Decode(got, f.payload, f.codec); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("bundle %d has other content than its repository lacks: %v", i, err)
		}
	}
}

// BenchmarkFramers is BenchmarkWindow for several repositories.
func BenchmarkFramers(b *testing.B) {
	for _, c := range []struct {
		title        string
		compressions []string
	}{{"one", []string{"zstd:2"}}, {"two alike", []string{"zstd:2", "zstd:2"}}, {"one encrypted", []string{"zstd:2", "+zstd:2"}}, {"two codecs", []string{"zstd:2", "s2"}}} {
		b.Run(c.title, func(b *testing.B) {
			fs, err := NewFramers(repositoriesOf(b, c.compressions...)...)
			if err != nil {
				b.Fatal(err)
			}
			raw, out, parents := rows(windowBytes, 1), make([]byte, 0, 8*windowBytes), make([]*ParentFile, len(c.compressions))
			b.SetBytes(windowBytes)
			for b.Loop() {
				if _, _, err := fs.Window(context.Background(), out[:0], raw, "base/1/1", 0, testPage, parents); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestSettingsThatDifferInWALAloneAreOneForFrames: "zstd" has a level of its own for WAL.
func TestSettingsThatDifferInWALAloneAreOneForFrames(t *testing.T) {
	all := repositoriesOf(t, "zstd", fmt.Sprintf("zstd:%d", codec.DefaultZstdLevel))
	fs, err := NewFramers(all...)
	if err != nil {
		t.Fatal(err)
	}
	calls := countEncodings(fs)
	_, windows, err := fs.Window(context.Background(), nil, rows(windowBytes, 1), "base/1/1", 0, testPage, make([]*ParentFile, len(all)))
	if err != nil || len(windows) != 2 || *calls != 1 {
		t.Errorf("%d windows were compressed %d times, want once: %v", len(windows), *calls, err)
	}
}
