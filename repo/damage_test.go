package repo

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// thorough asks for many more damages: minutes instead of seconds.
var thorough = flag.Bool("thorough", false, "damage every byte of small objects and many of large ones")

// The law of damage: whatever happens to one object, a reader gets exactly what
// was written, or an error that says damage and names the object.

// sweep damages one fixture in many ways.
type sweep struct {
	*fixture
	encrypted bool
	tried     int
	noticed   int
	crcOnly   int // damage that only the CRC of a file showed
}

// check reads everything that may depend on the object at key from the
// damaged store.
func (s *sweep) check(t *testing.T, what, key string, st *mem.Store) {
	t.Helper()
	s.tried++
	before := s.noticed
	if strings.HasPrefix(key, "stanzas/") || strings.HasPrefix(key, keysPrefix) || key == configKey {
		s.checkOpening(t, what, key, st)
	} else {
		s.checkContent(t, what, key, st)
	}
	if s.noticed > before {
		s.noticed = before + 1
	}
}

// allowed tells whether an error is what the law asks for.
func (s *sweep) allowed(t *testing.T, what, key string, err error) {
	t.Helper()
	s.noticed++
	named := strings.Contains(err.Error(), key)
	switch {
	case errors.Is(err, errCRC):
		s.crcOnly++
		t.Errorf("%s: only the CRC showed it: %v", what, err)
	case errors.Is(err, ErrDamaged) && (named || strings.Contains(err.Error(), keysPrefix)):
	case (errors.Is(err, ErrNewerFormat) || errors.Is(err, ErrNoBackup) || errors.Is(err, storage.ErrNotExist)) && named:
	case key == configKey && (errors.Is(err, ErrNotInitialized) || errors.Is(err, ErrNotEncrypted) || errors.Is(err, ErrEncrypted) || errors.Is(err, ErrWrongPassphrase)):
	case strings.HasPrefix(key, keysPrefix) && errors.Is(err, ErrWrongPassphrase):
	case strings.HasPrefix(key, "stanzas/") && errors.Is(err, ErrUnknownStanza):
	default:
		t.Errorf("%s: the error is not what it should be: %v", what, err)
	}
}

// checkOpening opens repository and stanza anew.
func (s *sweep) checkOpening(t *testing.T, what, key string, st *mem.Store) {
	t.Helper()
	o := Options{Clock: testClock()}
	if s.encrypted {
		o = passphraseOptions(fixturePassphrase)
	}
	ctx := context.Background()
	r := s.on(st).repo
	if !strings.HasPrefix(key, "stanzas/") { // opening takes the time of a passphrase
		var err error
		if r, err = Open(ctx, st, o); err != nil {
			s.allowed(t, what, key, err)
			return
		}
	}
	for _, name := range []string{"main", "other"} {
		stanza, err := r.Stanza(ctx, name)
		if err != nil {
			s.allowed(t, what, key, err)
			continue
		}
		want := testIdentity().SystemID
		if name == "other" {
			want++
		}
		if stanza.Current().SystemID != want {
			t.Errorf("%s: stanza %s has another identity", what, name)
		}
	}
}

// checkContent reads backups, WAL and pins by the open repository.
func (s *sweep) checkContent(t *testing.T, what, key string, st *mem.Store) {
	t.Helper()
	ctx := context.Background()
	stanza := s.on(st)
	labels, wal := s.labels, s.wal
	if strings.HasPrefix(key, "wal/") {
		labels = nil
	} else {
		wal = nil
	}
	got := readAll(ctx, stanza, labels, wal)
	for name, err := range got.errs {
		s.allowed(t, what+", "+name, key, err)
	}
	for name, value := range got.values {
		if want, ok := s.truth[name]; ok && value != want {
			t.Errorf("%s: WRONG CONTENT of %s: %s, want %s", what, name, value, want)
		}
	}
	for name := range s.truth {
		if wal == nil == strings.HasPrefix(name, "wal/") {
			continue
		}
		if _, ok := got.values[name]; !ok && got.errs[name] == nil && got.errs[name[:min(len(name), len("backup/20261120-120005F"))]] == nil {
			t.Errorf("%s: %s is missing without an error", what, name)
		}
	}
	if strings.HasPrefix(key, pinsPrefix) {
		if pins, err := stanza.Pins(ctx); err != nil {
			s.allowed(t, what, key, err)
		} else if len(pins) == 1 && pins[0].Operation != strings.TrimPrefix(s.objects(pinsPrefix)[0], pinsPrefix) {
			t.Errorf("%s: pins %v", what, pins)
		}
	}
	if strings.HasPrefix(key, "backups/") {
		s.checkCatalog(t, what, key, stanza)
	}
}

func (s *sweep) checkCatalog(t *testing.T, what, key string, stanza *Stanza) {
	t.Helper()
	manifests, err := stanza.manifests(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	backups, err := stanza.backups(context.Background(), manifests)
	if err != nil {
		s.allowed(t, what, key, err)
	}
	for i, b := range backups {
		if b.Err != nil {
			s.allowed(t, what, key, b.Err)
		} else if b.Header.Label != b.Label || b.Tombed != (b.Label == s.labels[1]) || b.Header.Start.LSN == 0 {
			t.Errorf("%s: entry %d of the catalogue is %+v", what, i, b)
		}
	}
}

// positions chooses bytes of an object: all of a small one, of a larger one
// the beginning, the end and a sample.
func positions(rng *rand.Rand, size, every, edge, sample int) []int {
	var at []int
	for i := range size {
		if size <= every || i < edge || i >= size-edge {
			at = append(at, i)
		}
	}
	if size > every {
		for range sample {
			at = append(at, rng.IntN(size))
		}
	}
	return at
}

// kind groups objects that could stand for one another.
func kind(key string) string {
	kind, _, _ := strings.Cut(key, "/")
	return kind
}

func TestDamageIsNeverReadAsContent(t *testing.T) {
	ctx := context.Background()
	eachRepository(t, func(t *testing.T, passphrase string) {
		s := &sweep{fixture: newFixture(t, passphrase), encrypted: passphrase != ""}
		other := testIdentity()
		other.SystemID++
		if _, err := s.stanza.repo.CreateStanza(ctx, "other", other); err != nil {
			t.Fatal(err)
		}
		every, edge, sample := 0, 8, 8
		if underRace {
			edge, sample = 1, 2
		}
		if *thorough {
			every, edge, sample = 2000, 60, 100
		}
		rng := rand.New(rand.NewPCG(5, 6))
		for _, key := range s.objects("") {
			size := len(s.content(t, key))
			whole := every
			if strings.HasPrefix(key, "stanzas/") || key == configKey {
				whole = every + 40*edge // cheap to try
			}
			for _, at := range positions(rng, size, whole, edge, sample) {
				st := s.store.Clone()
				if err := faulty.Flip(ctx, st, key, int64(at), 1<<rng.IntN(8)); err != nil {
					t.Fatal(err)
				}
				s.check(t, fmt.Sprintf("%s, byte %d of %d flipped", key, at, size), key, st)
			}
			for _, at := range positions(rng, size, 0, 1, 3) {
				st := s.store.Clone()
				if err := faulty.Truncate(ctx, st, key, int64(at)); err != nil {
					t.Fatal(err)
				}
				s.check(t, fmt.Sprintf("%s, cut to %d of %d", key, at, size), key, st)
			}
			st := s.store.Clone()
			if err := st.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			s.check(t, key+", removed", key, st)
			for _, with := range s.objects(kind(key)) {
				if with == key || bytes.Equal(s.content(t, with), s.content(t, key)) {
					continue
				}
				st := s.store.Clone()
				copyObject(t, s.store, st, with, key)
				s.check(t, key+", replaced by "+with, key, st)
			}
		}
		t.Logf("%d damages, %d noticed by a reader, the others in bytes that it does not need; only by a file's CRC: %d", s.tried, s.noticed, s.crcOnly)
	})
}

// TestEveryByteOfAPacksDescriptionCounts: header and footer are not needed to
// restore, so reading content does not look at them.
func TestEveryByteOfAPacksDescriptionCounts(t *testing.T) {
	ctx := context.Background()
	eachRepository(t, func(t *testing.T, passphrase string) {
		f := newFixture(t, passphrase)
		b, err := f.stanza.OpenBackup(ctx, f.labels[0])
		if err != nil {
			t.Fatal(err)
		}
		id := b.tables.packs[0].id
		pack := f.content(t, id.key())
		footer, err := f.stanza.repo.readFooter(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		header, err := f.stanza.repo.readPackHeader(ctx, id)
		if err != nil || header.id != id || (len(header.wrapped) > 0) != (passphrase != "") {
			t.Fatalf("%+v, %v", header, err)
		}
		first, last := int(footer.frames[0].ref.offset), int(footer.frames[len(footer.frames)-1].ref.end())
		for at := range pack {
			if at >= first && at < last {
				continue
			}
			st := f.store.Clone()
			if err := faulty.Flip(ctx, st, id.key(), int64(at), 0x10); err != nil {
				t.Fatal(err)
			}
			r := f.on(st).repo
			_, err := r.readPackHeader(ctx, id)
			if at >= first {
				again, footerErr := r.readFooter(ctx, id)
				if err = footerErr; err == nil {
					_, err = r.readPageHashes(ctx, id, again)
				}
			}
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), id.key()) {
				t.Errorf("byte %d: %v", at, err)
			}
		}
	})
}

// TestDamagedParentIsNotShared: a backup whose parent cannot be read stores
// everything again, and is whole.
func TestDamagedParentIsNotShared(t *testing.T) {
	ctx := context.Background()
	eachRepository(t, func(t *testing.T, passphrase string) {
		for _, prefix := range []string{"packs/", "maps/", "backups/main/"} {
			st := mem.New()
			s := testRepository(t, st, passphrase)
			tree := makeTree(1)
			tree.store(t, s)
			for o, err := range st.Clone().List(ctx, prefix, "") {
				if err != nil {
					t.Fatal(err)
				}
				for at := range int64(60) { // footer, map block, header: whatever a reader looks at first
					if err := faulty.Flip(ctx, st, o.Key, -1-at, 0x40); err != nil {
						t.Fatal(err)
					}
				}
				if err := faulty.Flip(ctx, st, o.Key, objectHeaderSize+blockHeaderSize+2, 0x40); err != nil {
					t.Fatal(err)
				}
			}
			h := tree.store(t, s)
			if err := checkBackup(s, h.Label, tree); err != nil {
				t.Errorf("%s damaged: the next backup: %v", prefix, err)
			}
			if h.AddedSize == 0 {
				t.Errorf("%s damaged: the next backup stored nothing", prefix)
			}
		}
	})
}
