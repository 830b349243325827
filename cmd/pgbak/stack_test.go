package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/limit"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/readonly"
	"github.com/pgbak/pgbak/storage/retry"
)

func TestHowLongACommandGoesOnTrying(t *testing.T) {
	two := 2
	for _, c := range []struct {
		command  string
		set      retryConfig
		attempts int
		time     time.Duration
	}{
		{"backup", retryConfig{}, 40, 5 * time.Minute},
		{"restore", retryConfig{}, 40, 5 * time.Minute},
		{archiveGetName, retryConfig{}, 40, 2 * time.Minute},
		{archivePushName, retryConfig{}, 40, 30 * time.Second},
		{archivePushName, retryConfig{Time: "1h"}, 40, time.Hour},
		{archiveGetName, retryConfig{Attempts: &two}, 2, 2 * time.Minute},
		{"backup", retryConfig{Attempts: &two, Time: "7s"}, 2, 7 * time.Second},
	} {
		a := &app{clock: testClock, command: c.command}
		p, err := a.retryPolicy(repositoryConfig{Retry: c.set})
		if err != nil || p.Attempts != c.attempts || p.Time != c.time {
			t.Errorf("%s with %+v: %d attempts in %s, %v", c.command, c.set, p.Attempts, p.Time, err)
		}
	}
}

func TestAnAttemptThatIsMadeAgainIsAWarning(t *testing.T) {
	var out bytes.Buffer
	a := &app{clock: testClock, log: slog.New(slog.NewTextHandler(&out, nil))}
	p, err := a.retryPolicy(repositoryConfig{Name: "s3"})
	if err != nil {
		t.Fatal(err)
	}
	p.Notify(retry.Retry{What: `put "packs/1"`, Err: errors.New("connection\nreset"), Attempt: 3, Pause: 1500 * time.Millisecond})
	contains(t, out.String(), "level=WARN", "repository=s3", `put \"packs/1\"`, "connection; reset", "attempt=3", "next-in=1.5s")
}

func TestWhoOnlyReadsCannotWriteAndTriesAgainNothingThatIsRefused(t *testing.T) {
	rc := repositoryConfig{Name: "local", URL: "file://" + t.TempDir()}
	a := &app{clock: testClock, log: slog.New(slog.DiscardHandler)}
	for to, want := range map[access]error{toRead: readonly.ErrReadOnly, toWrite: nil, toCreate: nil} {
		st, err := a.openStore(t.Context(), rc, to)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Put(t.Context(), "a", storage.Bytes([]byte("x")), storage.PutOptions{}); !errors.Is(err, want) {
			t.Errorf("access %d: put: %v, want %v", to, err, want)
		}
	}
}

// overwriting is a store on which a condition is worth nothing.
type overwriting struct{ storage.Store }

func (o overwriting) Put(ctx context.Context, key string, src storage.Source, _ storage.PutOptions) error {
	return o.Store.Put(ctx, key, src, storage.PutOptions{})
}

func TestInitFindsOutWhetherTheStorageKeepsTwoWritersApart(t *testing.T) {
	for title, c := range map[string]struct {
		st   storage.Store
		kept bool
	}{"one that does": {mem.New(), true}, "one that overwrites": {overwriting{mem.New()}, false}} {
		var out bytes.Buffer
		a := &app{clock: testClock, log: slog.New(slog.NewTextHandler(&out, nil))}
		// What an earlier run left of its probe does not look like a repository.
		if err := c.st.Put(t.Context(), "probe/0/left", storage.Bytes([]byte("x")), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := a.createRepository(t.Context(), repositoryConfig{Name: "s3"}, c.st, repo.Options{Clock: testClock})
		if err != nil {
			t.Fatal(err)
		}
		if r.Config().ConditionalPut != c.kept || r.Store().Properties().ConditionalPut != c.kept {
			t.Errorf("%s: recorded %v, store %v", title, r.Config().ConditionalPut, r.Store().Properties().ConditionalPut)
		}
		if warned := strings.Contains(out.String(), "does not refuse to overwrite"); warned == c.kept {
			t.Errorf("%s: warned %v", title, warned)
		}
		again, err := repo.Open(t.Context(), c.st, repo.Options{Clock: testClock})
		if err != nil || again.Store().Properties().ConditionalPut != c.kept {
			t.Errorf("%s: opened again: %v", title, err)
		}
	}
}

func TestTheProbeShowsEachPromise(t *testing.T) {
	a := &app{clock: testClock, log: slog.New(slog.DiscardHandler)}
	count := func(st storage.Store) (results map[string]int, err error) {
		var info repoCheckInfo
		err = a.probe(t.Context(), st, &info)
		results = map[string]int{}
		for _, p := range info.Promises {
			results[p.Result]++
			if (p.Error != "") != (p.Result == promiseBroken) {
				t.Errorf("promise %+v", p)
			}
		}
		for o, listErr := range st.List(t.Context(), "", "") {
			t.Errorf("the probe left %s (%v)", o.Key, listErr)
		}
		return results, err
	}
	if r, err := count(mem.New()); err != nil || r[promiseKept] < 10 || len(r) != 1 {
		t.Errorf("a good store: %v, %v", r, err)
	}
	if r, err := count(overwriting{mem.New()}); err == nil || r[promiseBroken] == 0 || r[promiseKept] == 0 {
		t.Errorf("one that overwrites: %v, %v", r, err)
	}
}

// seekable notes whether the content of a Put can be read again from its start.
type seekable struct {
	storage.Store
	yes bool
}

func (s *seekable) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, s.yes = r.(io.Seeker)
	return s.Store.Put(ctx, key, src, o)
}

func TestContentReachesTheDriverWithItsSeek(t *testing.T) {
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for title, src := range map[string]storage.Source{"bytes": storage.Bytes([]byte("content")), "a file": storage.File(file, 7)} {
		// The decorators that touch content, in the order of openStore.
		driver := &seekable{Store: mem.New()}
		st := marked{retry.New(limit.New(driver, limit.Limits{Upload: 1 << 30}), retry.Default())}
		if err := st.Put(t.Context(), "key", src, storage.PutOptions{}); err != nil || !driver.yes {
			t.Errorf("%s: error %v, content with Seek %v: a driver must copy it to memory", title, err, driver.yes)
		}
	}
}
