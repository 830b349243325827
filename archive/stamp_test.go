package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// later is long after the files of a test were written, so that their stamps are settled.
func later() time.Time { return time.Now().Add(10 * time.Minute) }

// stamped makes a server whose segment 1 is acknowledged with its stamp.
func stamped(t *testing.T) (*walServer, *Spool, *repo.Stanza) {
	t.Helper()
	stanza, s, spool := memStanza(t), newServer(t, 1), newSpool(t)
	file, err := look(s.path(segmentNumber(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if now, ok := file.stamp(); !ok || now.CTime%int64(time.Second) == 0 {
		t.Skip("this file system gives no stamps")
	}
	b := newTestBatch(t, spool, pushTo("local", stanza))
	b.clock = later
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	if a, err := spool.readAcknowledgement(segmentNumber(1)); err != nil || a.Stamp == nil {
		t.Fatalf("acknowledged without a stamp: %+v, %v", a, err)
	}
	return s, spool, stanza
}

// unsum changes the sum in an acknowledgement: who reads the file then does not believe it.
func unsum(t *testing.T, spool *Spool) {
	t.Helper()
	a, err := spool.readAcknowledgement(segmentNumber(1))
	if err != nil {
		t.Fatal(err)
	}
	a.Sum = strings.Repeat("0", len(a.Sum))
	if err := spool.writeAcknowledgement(a); err != nil {
		t.Fatal(err)
	}
}

func TestAFileThatHasItsStampIsNotRead(t *testing.T) {
	s, spool, _ := stamped(t)
	unsum(t, spool)
	b := newTestBatch(t, spool, closed(t, "local"))
	b.clock = later
	if result, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil || !result.Acknowledged {
		t.Errorf("%+v, %v", result, err)
	}
}

// keepTimes gives a file, after change, the times that another had before.
func keepTimes(t *testing.T, path string, change func()) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	change()
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
}

func TestAStampDoesNotHideOtherContent(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for title, change := range map[string]func(t *testing.T, path string, other []byte){
		"written over, mtime put back": func(t *testing.T, path string, other []byte) {
			keepTimes(t, path, func() { must(t, os.WriteFile(path, other, 0o600)) })
		},
		"one byte written in place, mtime put back": func(t *testing.T, path string, other []byte) {
			keepTimes(t, path, func() {
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				must(t, err)
				_, err = f.WriteAt(other[5000:5001], 5000)
				must(t, errors.Join(err, f.Close()))
			})
		},
		"another file renamed onto it, mtime put back": func(t *testing.T, path string, other []byte) {
			keepTimes(t, path, func() {
				must(t, os.WriteFile(path+".new", other, 0o600))
				must(t, os.Rename(path+".new", path))
			})
		},
		"recycled: renamed, renamed back and written, mtime put back": func(t *testing.T, path string, other []byte) {
			keepTimes(t, path, func() {
				must(t, os.Rename(path, path+".old"))
				must(t, os.WriteFile(path+".old", other, 0o600))
				must(t, os.Rename(path+".old", path))
			})
		},
		"shortened and filled up, mtime put back": func(t *testing.T, path string, other []byte) {
			keepTimes(t, path, func() {
				must(t, os.Truncate(path, 5000))
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				must(t, err)
				_, err = f.Write(other[5000:])
				must(t, errors.Join(err, f.Close()))
			})
		},
		"a directory from elsewhere in place of its own": func(t *testing.T, path string, other []byte) {
			dir := filepath.Dir(path)
			must(t, os.Rename(dir, dir+".old"))
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(path, other, 0o600))
		},
	} {
		t.Run(title, func(t *testing.T) {
			s, spool, stanza := stamped(t)
			path := s.path(segmentNumber(1))
			other := bytes.Clone(s.contents[segmentNumber(1)])
			other[5000] ^= 1
			change(t, path, other)
			b := newTestBatch(t, spool, pushTo("local", stanza))
			b.clock = later
			if result, err := b.Push(t.Context(), path); !errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
}

func TestACopyIsBelievedByItsContent(t *testing.T) {
	s, spool, _ := stamped(t)
	path := s.path(segmentNumber(1))
	keepTimes(t, path, func() {
		for _, err := range []error{os.Remove(path), os.WriteFile(path, s.contents[segmentNumber(1)], 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	push := func() (Result, error) {
		b := newTestBatch(t, spool, pushTo("local", memStanza(t)))
		b.clock = later
		return b.Push(t.Context(), path)
	}
	if result, err := push(); err != nil || !result.Acknowledged {
		t.Errorf("%+v, %v", result, err)
	}
	unsum(t, spool)
	if result, err := push(); err != nil || result.Acknowledged {
		t.Errorf("the copy was not read: %+v, %v", result, err)
	}
}

// A crash leaves the content that the server had written by fdatasync, and the ctime of before.
func TestAStampOfAnotherBootIsNotBelieved(t *testing.T) {
	s, spool, stanza := stamped(t)
	path := s.path(segmentNumber(1))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("other"), 5000)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	a, err := spool.readAcknowledgement(segmentNumber(1))
	if err != nil {
		t.Fatal(err)
	}
	now, _ := file.stamp()
	a.Stamp = &now // as if the file had the stamp of before
	a.Stamp.Boot = "00000000-0000-4000-8000-000000000000"
	if err := spool.writeAcknowledgement(a); err != nil {
		t.Fatal(err)
	}
	b := newTestBatch(t, spool, pushTo("local", stanza))
	b.clock = later
	if result, err := b.Push(t.Context(), path); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestAStampIsTakenOfASettledFileOnly(t *testing.T) {
	for title, test := range map[string]struct {
		clock  func() time.Time
		during func(path string) error
	}{
		"just written":                   {time.Now, func(string) error { return nil }},
		"written in the future":          {func() time.Time { return time.Now().Add(-time.Hour) }, func(string) error { return nil }},
		"touched while it was stored":    {later, func(path string) error { return os.Chtimes(path, time.Unix(1, 1), time.Unix(1, 1)) }},
		"the mode changed while stored":  {later, func(path string) error { return os.Chmod(path, 0o640) }},
		"another name while it was read": {later, func(path string) error { return os.Link(path, path+".link") }},
	} {
		t.Run(title, func(t *testing.T) {
			stanza, s, spool := memStanza(t), newServer(t, 1), newSpool(t)
			path := s.path(segmentNumber(1))
			target := pushTo("local", stanza)
			open := target.Open
			target.Open = func(ctx context.Context) (*repo.Stanza, error) {
				if err := test.during(path); err != nil {
					t.Error(err)
				}
				return open(ctx)
			}
			b := newTestBatch(t, spool, target)
			b.clock = test.clock
			if _, err := b.Push(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			if a, err := spool.readAcknowledgement(segmentNumber(1)); err != nil || a.Stamp != nil {
				t.Errorf("%+v, %v", a.Stamp, err)
			}
		})
	}
}

func TestAStampInWholeSecondsIsNeverSettled(t *testing.T) {
	now := time.Unix(2_000_000_000, 0)
	for _, test := range []struct {
		ctime time.Time
		want  bool
	}{
		{now.Add(-time.Hour), false},
		{now.Add(-time.Hour + 1), true},
		{now.Add(-stampAge - 1), true},
		{now.Add(-stampAge + 1), false},
		{now.Add(1), false},
	} {
		if got := (fileStamp{CTime: test.ctime.UnixNano()}).isSettled(now); got != test.want {
			t.Errorf("ctime %s: %v", test.ctime, got)
		}
	}
}
