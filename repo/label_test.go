package repo

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestNewLabelIsLaterThanAllThatAreTaken(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 34, 56, 0, time.FixedZone("east", 3600)) // 11:34:56 UTC
	for _, test := range []struct {
		title string
		typ   BackupType
		taken []Label
		want  Label
	}{
		{"the first", Full, nil, "20261120-113456F"},
		{"a differential", Differential, nil, "20261120-113456D"},
		{"an incremental", Incremental, nil, "20261120-113456I"},
		{"after earlier ones", Full, []Label{"20261119-000000F", "20261120-113455I"}, "20261120-113456F"},
		{"in the second of another", Full, []Label{"20261120-113456F"}, "20261120-113457F"},
		{"in the second of one of another type", Full, []Label{"20261120-113456I"}, "20261120-113457F"},
		{"with a clock that went back", Incremental, []Label{"20271231-235959F"}, "20280101-000000I"},
		{"with labels in no order", Full, []Label{"20261120-113458F", "20261120-113456F"}, "20261120-113459F"},
		{"beside what is no time", Full, []Label{"99999999-999999F", "x"}, "20261120-113456F"},
	} {
		t.Run(test.title, func(t *testing.T) {
			if got := newLabel(now, test.typ, test.taken); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestLabelsAreParsed(t *testing.T) {
	for _, good := range []string{"20261120-123456F", "20261120-123456D", "20261120-123456I"} {
		if l, err := ParseLabel(good); err != nil || string(l) != good {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "20261120-123456", "20261120-123456X", "20261120-123456f", "2026112-123456F", "20261120-123456F/..", "20261120-123456F\n", " 20261120-123456F", "latest"} {
		if _, err := ParseLabel(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestBackupsWithAClockThatStandsOrGoesBackKeepTheirOrder(t *testing.T) {
	st := mem.New()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	r, err := Create(context.Background(), st, Options{Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(context.Background(), "main", testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	var labels []Label
	for i := range 4 {
		if i == 2 {
			now = now.Add(-time.Hour)
		}
		labels = append(labels, makeTree(1).store(t, s).Label)
	}
	if !slices.IsSorted(labels) || len(slices.Compact(slices.Clone(labels))) != 4 {
		t.Errorf("labels %v", labels)
	}
}

func TestLabelThatACollectorOccupiesIsTaken(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	frozen := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC)
	s.repo.o.Clock = func() time.Time { return frozen }
	l := newLabel(frozen, Full, nil)
	if err := putDocument(ctx, st, manifestKey("main", l), revokedFormat, struct{}{}, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if h := makeTree(1).store(t, s); h.Label == l {
		t.Error("the revoked label was used again")
	}
}

// TestTwoOperationsNeverClaimOneLabel lets a second operation claim the same
// label at every step of the first one's claim: whichever puts its pin last
// must see the other's.
func TestTwoOperationsNeverClaimOneLabel(t *testing.T) {
	ctx := context.Background()
	frozen := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC)
	claim := func(st storage.Store, s *Stanza, id byte) (Label, error) {
		r := *s.repo
		r.store = st
		on := &Stanza{repo: &r, name: s.name, identities: s.identities}
		op := testPack(id, 0).op
		p := Pin{Operation: op.String(), Kind: "backup", Stanza: "main", Started: frozen, Label: newLabel(frozen, Full, nil)}
		_, err := on.claimLabel(ctx, &p, op, Full, nil)
		return p.Label, err
	}
	for _, ids := range [][2]byte{{1, 2}, {2, 1}} {
		beside := true
		for step := 1; beside; step++ {
			t.Run(fmt.Sprintf("operation %d beside %d at step %d", ids[0], ids[1], step), func(t *testing.T) {
				st := mem.New()
				s := testRepository(t, st, "")
				var second Label
				var n atomic.Int64 // pins are read by several at once
				hooked := faulty.OnOp(st, func(op, _ string) error {
					if n.Add(1) != int64(step) {
						return nil
					}
					var err error
					second, err = claim(st, s, ids[1])
					return err
				})
				first, err := claim(hooked, s, ids[0])
				if err != nil {
					t.Fatal(err)
				}
				if beside = n.Load() >= int64(step); !beside && step < 3 {
					t.Errorf("a claim has %d steps only", n.Load())
				}
				if first == second {
					t.Errorf("both claim %s", first)
				}
			})
		}
	}
}

func TestCommitDoesNotReplaceWhatHasItsLabel(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		title  string
		occupy func(t *testing.T, s *Stanza, w *BackupWriter, other []byte)
		want   error
	}{
		{"a collector's stub", func(t *testing.T, s *Stanza, w *BackupWriter, _ []byte) {
			if err := putDocument(ctx, s.repo.store, manifestKey("main", w.Label()), revokedFormat, struct{}{}, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, ErrRevoked},
		{"another manifest", func(t *testing.T, s *Stanza, w *BackupWriter, other []byte) {
			if err := s.repo.store.Put(ctx, manifestKey("main", w.Label()), storage.Bytes(other), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, ErrLabelTaken},
		{"its own manifest, whose answer was lost", func(t *testing.T, s *Stanza, w *BackupWriter, _ []byte) {
			h, err := w.finishHeader(BackupHeader{Timeline: 1})
			if err == nil {
				err = w.putManifest(ctx, h)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, "")
			before := makeTree(1).store(t, s)
			other, err := storage.ReadAll(ctx, st, manifestKey("main", before.Label), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.AddPath(File{Path: "base", Type: TypeDir}); err != nil {
				t.Fatal(err)
			}
			test.occupy(t, s, w, other)
			if _, err = w.Commit(BackupHeader{Timeline: 1}); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

// TestNamesAreThoseOfTheirForm compares with the regular expressions that say the form.
func TestNamesAreThoseOfTheirForm(t *testing.T) {
	stanza := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9_-])?$`)
	label := regexp.MustCompile(`^\d{8}-\d{6}[FDI]$`)
	long := strings.Repeat("a", 63)
	names := []string{"", "a", long, long + "a", "a\n", "\na", "é", "a\xff", "20261120-123456F\n", "20261120-123456F", "20261120+123456F", "2026112é-12345F", "99999999-999999I"}
	for c := range 256 {
		one := string([]byte{byte(c)})
		names = append(names, one, "a"+one, one+"a", "a"+one+"a", long[:62]+one,
			"2026112"+one+"-123456F", "20261120"+one+"123456F", "20261120-12345"+one+"F", "20261120-123456"+one, one+"0261120-123456D")
	}
	for _, name := range names {
		if got, want := CheckStanzaName(name) == nil, stanza.MatchString(name); got != want {
			t.Errorf("%q as the name of a stanza: %v, want %v", name, got, want)
		}
		if _, err := ParseLabel(name); (err == nil) != label.MatchString(name) {
			t.Errorf("%q as a label: %v", name, err)
		}
	}
}
