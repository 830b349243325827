package repo

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestRepositoryOfANewerFormatIsRefused(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		title  string
		change func(c *Config)
		write  bool // only writing is refused
		want   string
	}{
		{"a newer format version", func(c *Config) { c.FormatVersion = 2 }, false, "format version 2, this program knows 1"},
		{"no format version", func(c *Config) { c.FormatVersion = 0 }, false, "format version 0"},
		{"a feature for reading", func(c *Config) { c.Features.Read = []string{"redirects"} }, false, "it needs the features redirects"},
		{"features for writing", func(c *Config) { c.Features.Write = []string{"a", "b"} }, true, "writing to it needs the features a, b"},
		{"a feature for collecting", func(c *Config) { c.Features.Collect = []string{"lease"} }, true, ""},
		{"an unknown content id", func(c *Config) { c.IDAlgorithm = "blake9" }, false, `content ids by "blake9"`},
		{"an unknown encryption", func(c *Config) { c.Encryption = "rot13" }, false, `encryption by "rot13"`},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, "")
			label := makeTree(1).store(t, s).Label
			c := s.repo.config
			test.change(&c)
			if err := putDocument(ctx, st, configKey, configFormat, c, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			r, err := Open(ctx, st, Options{Clock: testClock()})
			if !test.write {
				refused(t, "opening", err, test.want)
				_, err = Create(ctx, st, Options{Clock: testClock()})
				refused(t, "creating", err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s, err = r.Stanza(ctx, "main"); err != nil {
				t.Fatal(err)
			}
			if err := checkBackup(s, label, makeTree(1)); err != nil {
				t.Errorf("reading: %v", err)
			}
			writes(t, s, test.want)
		})
	}
}

// writes tries every way to add something; want "" means that all must work.
func writes(t *testing.T, s *Stanza, want string) {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	refused(t, "a backup", err, want)
	if err == nil {
		w.Abort()
	}
	_, err = s.PutWAL(ctx, s.Current(), mustWAL(t, "000000010000000000000001"), NewWALContent(storage.Bytes([]byte("x"))))
	refused(t, "WAL", err, want)
	_, err = s.repo.CreateStanza(ctx, "other", testIdentity())
	refused(t, "a stanza", err, want)
	id := testIdentity()
	id.Major++
	_, err = s.AddIdentity(ctx, id)
	refused(t, "an identity", err, want)
}

func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	expectError(t, err, want)
	if !errors.Is(err, ErrNewerFormat) || hint.Of(err) == "" {
		t.Errorf("%s: %v, want an ErrNewerFormat with a hint", what, err)
	}
}

func TestPlaceWithoutARepositoryIsNotInitialized(t *testing.T) {
	_, err := Open(context.Background(), mem.New(), Options{Clock: testClock()})
	if !errors.Is(err, ErrNotInitialized) || hint.Of(err) == "" {
		t.Error(err)
	}
}

func TestCreatingARepositoryAgainOpensIt(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		st := mem.New()
		ctx := context.Background()
		first, err := Create(ctx, st, fixtureOptions(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		second, err := Create(ctx, st, fixtureOptions(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		if first.Config().ID != second.Config().ID {
			t.Error("it is another repository")
		}
	})
}

func TestCompressionIsParsed(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "zstd 2"}, {"zstd", "zstd 2"}, {"zstd:1", "zstd 1"}, {"zstd:19", "zstd 19"}, {"s2", "s2 0"}, {"none", "none 0"},
		{"zstd:0", ""}, {"zstd:20", ""}, {"zstd:", ""}, {"zstd:x", ""}, {"zstd:+3", ""}, {"zstd:3 ", ""}, {"s2:1", ""}, {"none:1", ""}, {"gzip", ""}, {":3", ""}, {"ZSTD", ""},
	} {
		c, err := ParseCompression(test.text)
		if (err == nil) != (test.want != "") {
			t.Errorf("%q: %v", test.text, err)
		}
		if got := fmt.Sprintf("%s %d", c.codec, c.level); err == nil && got != test.want {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
	}
}
