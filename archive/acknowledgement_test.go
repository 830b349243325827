package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// acknowledged makes a server whose segment 1 is acknowledged, and its stanza.
func acknowledged(t *testing.T) (*walServer, *Spool, *repo.Stanza) {
	t.Helper()
	stanza := memStanza(t)
	s, spool := newServer(t, 1), newSpool(t)
	if _, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	result, err := newTestBatch(t, spool, closed(t, "local")).Push(t.Context(), s.path(segmentNumber(1)))
	if err != nil || !result.Acknowledged {
		t.Fatalf("it is not acknowledged: %+v, %v", result, err)
	}
	return s, spool, stanza
}

// mustAsk makes sure that a push believes no acknowledgement.
func mustAsk(t *testing.T, b *Batch, path string) {
	t.Helper()
	result, err := b.Push(t.Context(), path)
	if err != nil || result.Acknowledged {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestOtherContentUnderAnAcknowledgedNameIsNotTakenForArchived(t *testing.T) {
	for title, change := range map[string]func(data []byte) []byte{
		"the last byte":  func(d []byte) []byte { d[len(d)-1] ^= 1; return d },
		"one in between": func(d []byte) []byte { d[len(d)/2] ^= 0x80; return d },
	} {
		t.Run(title, func(t *testing.T) {
			s, spool, stanza := acknowledged(t)
			other := change(bytes.Clone(s.contents[segmentNumber(1)]))
			if err := os.WriteFile(s.path(segmentNumber(1)), other, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(1)))
			if !errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("error %v", err)
			}
		})
	}
	s, spool, _ := acknowledged(t)
	if err := os.Truncate(s.path(segmentNumber(1)), segmentSize-1); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestBatch(t, spool, pushTo("local", memStanza(t))).Push(t.Context(), s.path(segmentNumber(1))); !errors.Is(err, ErrRefused) {
		t.Errorf("truncated: %v", err)
	}
	s, spool, _ = acknowledged(t)
	if err := os.Remove(s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestBatch(t, spool, pushTo("local", memStanza(t))).Push(t.Context(), s.path(segmentNumber(1))); err == nil {
		t.Error("a file that is gone is archived")
	}
}

func TestContentThatChangesBetweenTwoRepositoriesIsAskedOfBoth(t *testing.T) {
	id := testIdentity(17)
	a, b := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	s, spool := newServer(t, 1), newSpool(t)
	down := PushTarget{Name: "b", Open: closedQuietly}
	if _, err := newTestBatch(t, spool, pushTo("a", a), down).Push(t.Context(), s.path(segmentNumber(1))); err == nil {
		t.Fatal("no error")
	}
	other := bytes.Clone(s.contents[segmentNumber(1)])
	other[9999] ^= 1
	if err := os.WriteFile(s.path(segmentNumber(1)), other, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newTestBatch(t, spool, pushTo("a", a), pushTo("b", b)).Push(t.Context(), s.path(segmentNumber(1)))
	if !errors.Is(err, repo.ErrWALConflict) || strings.Contains(err.Error(), "repository b") {
		t.Errorf("error %v", err)
	}
	mustHold(t, b, segmentNumber(1), other)
}

func TestAnAcknowledgementIsOfTheseRepositoriesAndThisCluster(t *testing.T) {
	control := func(change func(*postgres.Control)) func() (*postgres.Control, error) {
		c := &postgres.Control{SystemID: testIdentity(17).SystemID, Major: 17, WALSegmentSize: segmentSize}
		change(c)
		return func() (*postgres.Control, error) { return c, nil }
	}
	for title, change := range map[string]func(*Batch, *repo.Stanza){
		"another url":  func(b *Batch, _ *repo.Stanza) { b.pusher.targets[0].Place = "elsewhere" },
		"another name": func(b *Batch, _ *repo.Stanza) { b.pusher.targets[0].Name = "other" },
		"a repository more": func(b *Batch, _ *repo.Stanza) {
			b.pusher.targets = append(b.pusher.targets, pushTo("new", memStanza(t)))
		},
		"another cluster": func(b *Batch, _ *repo.Stanza) { b.pusher.Control = control(func(c *postgres.Control) { c.SystemID++ }) },
		"another major":   func(b *Batch, _ *repo.Stanza) { b.pusher.Control = control(func(c *postgres.Control) { c.Major++ }) },
		"another segment size": func(b *Batch, _ *repo.Stanza) {
			b.pusher.Control = control(func(c *postgres.Control) { c.WALSegmentSize *= 2 })
		},
		"an hour and a second later": func(b *Batch, _ *repo.Stanza) {
			b.clock = func() time.Time { return clock().Add(time.Hour + time.Second) }
		},
		"a clock that was set back": func(b *Batch, _ *repo.Stanza) { b.clock = func() time.Time { return clock().Add(-time.Second) } },
	} {
		t.Run(title, func(t *testing.T) {
			s, spool, stanza := acknowledged(t)
			b := newTestBatch(t, spool, pushTo("local", stanza))
			change(b, stanza)
			mustAsk(t, b, s.path(segmentNumber(1)))
		})
	}
	s, spool, _ := acknowledged(t)
	b := newTestBatch(t, spool, closed(t, "local"))
	b.pusher.Control = control(func(*postgres.Control) {})
	b.clock = func() time.Time { return clock().Add(time.Hour) }
	if result, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil || !result.Acknowledged {
		t.Errorf("the same: %+v, %v", result, err)
	}
	broken := errors.New("read control file: it is torn")
	b = newTestBatch(t, spool, pushTo("local", memStanza(t)))
	b.pusher.Control = func() (*postgres.Control, error) { return nil, broken }
	mustAsk(t, b, s.path(segmentNumber(1)))
}

func TestAFileThatSaysNothingOfItsClusterIsNotAcknowledgedWithoutTheServers(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 0), newSpool(t)
	s.write(t, "00000002.history", []byte("1\t0/2000000\tno reason\n"))
	for range 2 {
		mustAsk(t, newTestBatch(t, spool, pushTo("local", stanza)), s.path("00000002.history"))
	}
}

// TestARepositoryMadeAnewHoldsNothing: the calls that believe acknowledgements do
// not see it, but the first that opens it takes them away.
func TestARepositoryMadeAnewHoldsNothing(t *testing.T) {
	id := testIdentity(17)
	s, spool := newServer(t, 3), newSpool(t)
	if _, err := newTestBatch(t, spool, pushTo("local", newStanza(t, mem.New(), id))).Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	s.done(t, segmentNumber(1))
	s.write(t, segmentNumber(4), segment(id, walFileOf(4)))
	anew := newStanza(t, mem.New(), id)
	b := newTestBatch(t, spool, pushTo("local", anew))
	if _, err := b.Push(t.Context(), s.path(segmentNumber(4))); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 3} {
		if _, err := b.Push(t.Context(), s.path(segmentNumber(n))); err != nil {
			t.Fatal(err)
		}
		s.mustBeIn(t, anew, segmentNumber(n))
	}
}

// TestWhatOnlyWaitsForOneRepositoryIsRememberedForADay: else the others would be
// asked for all of it again every hour.
func TestWhatOnlyWaitsForOneRepositoryIsRememberedForADay(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 1), newSpool(t)
	down := PushTarget{Name: "b", Open: closedQuietly}
	if _, err := newTestBatch(t, spool, pushTo("a", stanza), down).Push(t.Context(), s.path(segmentNumber(1))); err == nil {
		t.Fatal("no error")
	}
	for _, later := range []time.Duration{23 * time.Hour, 25 * time.Hour} {
		asked := later > partialAge
		opened := false
		a := pushTo("a", stanza)
		open := a.Open
		a.Open = func(ctx context.Context) (*repo.Stanza, error) { opened = true; return open(ctx) }
		b := newTestBatch(t, spool, a, down)
		b.clock = func() time.Time { return clock().Add(later) }
		if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err == nil || opened != asked {
			t.Errorf("after %s: opened %t, %v", later, opened, err)
		}
	}
}

func TestAHostileAcknowledgementIsNone(t *testing.T) {
	s, spool, stanza := acknowledged(t)
	path := spool.acknowledgementPath(segmentNumber(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var a acknowledgement
	if err := decodeDocument(whole, &a); err != nil {
		t.Fatal(err)
	}
	encode := func(change func(*acknowledgement)) []byte {
		c := a
		c.Holders = append([]holder{}, a.Holders...)
		change(&c)
		data, err := encodeDocument(c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	flipped := bytes.Replace(whole, []byte(`"identity":1`), []byte(`"identity":2`), 1)
	plain, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	for title, content := range map[string][]byte{
		"empty": {}, "zeros": make([]byte, len(whole)), "torn": whole[:len(whole)/2], "without its last byte": whole[:len(whole)-1],
		"with a byte more": append(bytes.Clone(whole), '\n'), "twice": append(bytes.Clone(whole), whole...), "flipped": flipped, "without its sum": plain,
		"of another file":   encode(func(a *acknowledgement) { a.File = segmentNumber(2) }),
		"of a newer format": encode(func(a *acknowledgement) { a.Version = 2 }),
		"by nobody":         encode(func(a *acknowledgement) { a.Holders = nil }),
		"endless":           bytes.Repeat([]byte("x"), maxDocument+1),
	} {
		t.Run(title, func(t *testing.T) {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			mustAsk(t, newTestBatch(t, spool, pushTo("local", stanza)), s.path(segmentNumber(1)))
		})
	}
	elsewhere := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(elsewhere, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for title, make := range map[string]func() error{
		"a link":      func() error { return os.Symlink(elsewhere, path) },
		"a pipe":      func() error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func() error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(title, func(t *testing.T) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := make(); err != nil {
				t.Fatal(err)
			}
			mustAsk(t, newTestBatch(t, spool, pushTo("local", stanza)), s.path(segmentNumber(1)))
		})
	}
}

func TestWhatAKilledRunLeftIsRemovedWhenItIsOld(t *testing.T) {
	s, spool := newServer(t, 1), newSpool(t)
	kept := []string{temporaryMark + "young", "ancestry-00000002", segmentNumber(1)}
	for _, name := range []string{temporaryMark + "old", kept[0], kept[1], segmentNumber(9)} {
		path := filepath.Join(spool.part(spoolPush), name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := clock().Add(-2 * time.Hour)
		if name == kept[0] {
			at = clock()
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newTestBatch(t, spool, pushTo("local", memStanza(t))).Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	left := spooled(t, spool)
	if len(left) != len(kept) {
		t.Errorf("left are %q", left)
	}
}

func TestALargeFileIsSummedBeforeAndAfter(t *testing.T) {
	path := writeFile(t, segmentNumber(1), make([]byte, 10))
	file, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if sum := file.sumLarge()(); sum != (contentSum{}) {
		t.Errorf("a small file: %+v", sum)
	}
	if err := os.Truncate(path, heldContent+1); err != nil {
		t.Fatal(err)
	}
	large, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	want, err := sumFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum := large.sumLarge()(); sum != want || sum.Size != heldContent+1 {
		t.Errorf("sum %+v, want %+v", sum, want)
	}
	after := large.sumLarge()
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteAt([]byte{1}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if sum := after(); sum != (contentSum{}) {
		t.Errorf("a file that changed: %+v", sum)
	}
}

// FuzzDocument: whatever lies in the spool, only what this program wrote is read.
func FuzzDocument(f *testing.F) {
	whole, err := encodeDocument(acknowledgement{Version: 1, File: segmentNumber(1), Holders: []holder{{Place: "x"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte("{}\n"))
	dropped, err := encodeDocument(droppedRanges{Version: 1, Ranges: []droppedRange{{First: segmentNumber(1), Last: segmentNumber(2), SegmentSize: segmentSize}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dropped)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a acknowledgement
		if decodeDocument(data, &a) == nil {
			_ = a.counting([]string{"x"}, nil, nil, clock())
		}
		var j droppedRanges
		if decodeDocument(data, &j) == nil {
			for i := range j.Ranges {
				j.Ranges[i].extend(droppedRange{First: segmentNumber(3), SegmentSize: segmentSize})
			}
			j.forget(nil, []string{"x"}, clock())
		}
	})
}
