package main

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
)

// TestTheAgentAsksForPostgreSQLWhomARunAheadDidNotAsk: what a run that goes on has pushed to
// some repositories only, because it was not the file's turn in others, is no failure.
func TestTheAgentAsksForPostgreSQLWhomARunAheadDidNotAsk(t *testing.T) {
	w := newSite(t, strings.Replace(plainConfig, "repositories:\n", "repositories:\n  - name: second\n    url: file://DIR/second\n", 1)+"archive: {spool: DIR/spool, processes: 1}\n")
	if err := os.Mkdir(w.path("spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, "init")
	_, content := w.writeSegment(t)
	w.write(t, "data/pg_wal/"+segmentName, content)
	const history = "00000002.history"
	w.write(t, "data/pg_wal/"+history, []byte("1\t0/3000000\tno recovery target specified\n"))
	for _, name := range []string{history, segmentName} {
		w.write(t, "data/pg_wal/archive_status/"+name+".ready", nil)
	}
	synctest.Test(t, func(t *testing.T) {
		a := &app{getenv: func(string) string { return "" }, clock: time.Now, directory: "/", log: slog.New(slog.DiscardHandler)}
		a.flags.config = w.config
		c, err := a.loadConfig()
		if err != nil {
			t.Fatal(err)
		}
		s := newAgentService(a, c, &agent.Metrics{})
		defer s.close()
		l := s.line(s.set, "main", c.Repositories, w.path("data"))
		rename := func(from, to string) {
			if err := os.Rename(w.path(from), w.path(to)); err != nil {
				t.Fatal(err)
			}
		}
		rename("second", "away")
		ahead, _, err := l.batch(0)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]archive.Pushed{}
		ahead.Each = func(p archive.Pushed) { told[p.File] = p }
		if _, err := ahead.Push(t.Context(), w.path("data/pg_wal/"+history)); err == nil {
			t.Fatal("no error")
		}
		if p := told[segmentName]; p.Err == nil || len(p.Stored) != 1 || !p.Unasked() {
			t.Fatalf("ahead of the history: %+v", p)
		}
		if p := told[history]; p.Unasked() {
			t.Errorf("the history was asked for: %+v", p)
		}
		s.metrics.Stored("main", told[segmentName])
		for _, f := range s.metrics.Families() {
			if f.Name == "pgbak_agent_failed_files_total" && len(f.Samples) > 0 {
				t.Errorf("as failed are counted %+v", f.Samples)
			}
		}
		rename("away", "second")

		run := l.begin()
		answer := make(chan error)
		go func() {
			_, err := l.push(t.Context(), w.path("data/pg_wal/"+segmentName), warmAge)
			answer <- err
		}()
		synctest.Wait() // it has met the run
		l.mu.Lock()
		run.told = append(run.told, told[segmentName])
		close(run.news)
		run.news = make(chan struct{})
		l.mu.Unlock()
		if err := <-answer; err != nil {
			t.Errorf("PostgreSQL is told: %v", err)
		}
	})
	w.mustRun(t, "--repo", "second", "archive-get", segmentName, w.path("got"))
}
