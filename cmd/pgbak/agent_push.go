package main

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// DataDirectory implements agent.Service.
func (s *agentService) DataDirectory(stanza string) string {
	set, err := s.current()
	if err != nil {
		return ""
	}
	c, err := set.config.stanza(stanza)
	if err != nil {
		return ""
	}
	return c.PGData
}

// Push implements agent.Service.
func (s *agentService) Push(ctx context.Context, r agent.Request, pgdata, path string) (archive.Result, error) {
	set, err := s.current()
	if err != nil {
		return archive.Result{}, err
	}
	stanza, repositories, err := set.choose(r)
	if err != nil {
		return archive.Result{}, err
	}
	l := s.line(set, stanza.Name, repositories, pgdata)
	result, err := l.push(ctx, path, warmAge)
	if err != nil && !is[*storageError](err) && ctx.Err() == nil {
		// What was refused may fit what the repositories are since a moment ago, such
		// as a stanza that was upgraded.
		result, err = l.push(ctx, path, 0)
	}
	if is[*storageError](err) {
		set.forget(repositories, result.Stored)
	}
	return result, err
}

// forget has the repositories opened anew that did not store a file.
func (set *agentSet) forget(repositories []repositoryConfig, stored []archive.Stored) {
	holds := map[string]bool{}
	for _, s := range stored {
		holds[s.Repository] = true
	}
	for _, rc := range repositories {
		if !holds[rc.Name] {
			set.warmed(rc, toWrite).Forget()
		}
	}
}

// line pushes the WAL of one data directory. It answers as soon as the file that
// was asked for is done, and goes on with what else is ready: PostgreSQL asks for
// that next, and then it is done or on its way.
type line struct {
	service      *agentService
	set          *agentSet
	stanza       string
	repositories []repositoryConfig
	pgdata       string

	mu  sync.Mutex
	run *lineRun // that goes on; nil if there is none
}

// lineRun is a run of a batch.
type lineRun struct {
	done chan struct{}
	news chan struct{}    // closed, and made anew, with each file that is done; under line.mu
	told []archive.Pushed // the files that are done
}

func (s *agentService) line(set *agentSet, stanza string, repositories []repositoryConfig, pgdata string) *line {
	var names []string
	for _, rc := range repositories {
		names = append(names, rc.Name)
	}
	key := strings.Join(append(names, stanza, pgdata), "\x00")
	set.mu.Lock()
	defer set.mu.Unlock()
	if set.lines[key] == nil {
		set.lines[key] = &line{service: s, set: set, stanza: stanza, repositories: repositories, pgdata: pgdata}
	}
	return set.lines[key]
}

// push returns when the file is done. While a run goes on that may do it next,
// it is waited for, rather than done a second time beside it.
func (l *line) push(ctx context.Context, path string, maxAge time.Duration) (archive.Result, error) {
	batch, warnings, err := l.batch(maxAge)
	if err != nil {
		return archive.Result{}, err
	}
	var met *lineRun // the run that was going on when it was first looked for
	var before int   // how much it had told by then
	for {
		if result, ok := batch.Acknowledged(path); ok {
			return result, nil
		}
		l.mu.Lock()
		run := l.run
		if run == nil {
			run = l.begin()
			l.mu.Unlock()
			result, err := l.lead(ctx, run, batch, path)
			result.Warnings = append(result.Warnings, warnings...)
			return result, err
		}
		if run != met {
			met, before = run, len(run.told)
		}
		p, told, since := run.find(filepath.Base(path), before)
		news := run.news
		l.mu.Unlock()
		switch {
		case since && p.Err != nil && !p.Unasked():
			return p.Result, p.Err
		case told:
			return batch.Push(ctx, path) // as the run goes on, only this file
		}
		select {
		case <-news:
		case <-run.done:
		case <-ctx.Done():
			return archive.Result{}, context.Cause(ctx)
		}
	}
}

// find looks for a file that is done, and says whether it is since the run had told of so many.
func (r *lineRun) find(name string, before int) (p archive.Pushed, told, since bool) {
	for i := len(r.told) - 1; i >= 0; i-- {
		if r.told[i].File == name {
			return r.told[i], true, i >= before
		}
	}
	return p, false, false
}

// begin needs l.mu.
func (l *line) begin() *lineRun {
	l.run = &lineRun{done: make(chan struct{}), news: make(chan struct{})}
	return l.run
}

// lead runs a batch, and returns when the file that it was begun for is done.
func (l *line) lead(ctx context.Context, run *lineRun, batch *archive.Batch, path string) (archive.Result, error) {
	first := make(chan archive.Pushed, 2)
	each := batch.Each
	batch.Each = func(p archive.Pushed) {
		each(p)
		l.mu.Lock()
		run.told = append(run.told, p)
		close(run.news)
		run.news = make(chan struct{})
		l.mu.Unlock()
		if p.Asked {
			first <- p
		}
	}
	l.service.behind.Go(func() {
		result, err := batch.Push(l.service.life, path)
		first <- archive.Pushed{Result: result, Err: err}
		l.mu.Lock()
		l.run = nil
		l.mu.Unlock()
		close(run.done)
	})
	select {
	case p := <-first:
		return p.Result, p.Err
	case <-ctx.Done():
		return archive.Result{}, context.Cause(ctx)
	}
}

// batch makes what pushes by repositories that stay open. A spool that cannot be
// used is a warning, as it is without the agent.
func (l *line) batch(maxAge time.Duration) (b *archive.Batch, warnings []string, err error) {
	c, a := l.set.config, l.service.app
	processes, err := a.processes(c)
	if err != nil {
		return nil, nil, err
	}
	b, spoolErr, err := a.batch(pushing{config: c, stanza: l.stanza, repositories: l.repositories, processes: processes,
		control: func() (*postgres.Control, error) { return readControl(l.pgdata) },
		open: func(ctx context.Context, rc repositoryConfig) (*repo.Stanza, error) {
			return l.set.stanza(ctx, rc, l.stanza, toWrite, maxAge)
		},
		log: a.log.With("stanza", l.stanza)})
	if err != nil {
		return nil, nil, err
	}
	if spoolErr != nil {
		warnings = append(warnings, "archiving goes on without the spool, file by file: "+spoolErr.Error()+"; "+hint.Of(spoolErr))
	}
	b.Each = func(p archive.Pushed) { l.service.metrics.Stored(l.stanza, p) }
	return b, warnings, nil
}
