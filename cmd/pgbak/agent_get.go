package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Get implements agent.Service.
func (s *agentService) Get(ctx context.Context, r agent.Request, into *os.File) (archive.Got, error) {
	set, err := s.current()
	if err != nil {
		return archive.Got{}, err
	}
	of := recovering{identity: r.Identity, directory: r.Directory}
	of.config = set.config
	if of.stanza, of.repositories, err = set.choose(r); err != nil {
		return archive.Got{}, err
	}
	if of.processes, err = s.app.processes(set.config); err != nil {
		return archive.Got{}, err
	}
	if c := r.Cluster; c != nil {
		of.control = &postgres.Control{SystemID: c.SystemID, Major: c.Major, WALSegmentSize: c.SegmentSize}
		of.instance = c.Instance
	}
	// Absence is proven by what the repositories are now, and so is that none of
	// their identities is the cluster that asks.
	age := warmAge
	if set.ends.expects(r) {
		age = 0
	}
	getter, err := archive.NewGetter(set.sources(of, age)...)
	if err != nil {
		return archive.Got{}, err
	}
	got, err := s.getBy(set, of, getter, r.Path)(ctx, r.Name, into)
	if err != nil && age > 0 && !is[*storageError](err) && ctx.Err() == nil {
		if getter, err = archive.NewGetter(set.sources(of, 0)...); err == nil {
			got, err = getter.GetInto(ctx, r.Name, into)
		}
	}
	set.ends.met(r, err)
	if is[*storageError](err) {
		for _, rc := range of.repositories {
			set.warmed(rc, toRead).Forget()
		}
	}
	return got, err
}

// archiveEnds knows what the servers asked for in vain. A standby asks again every
// few seconds, and is answered by one look at the repositories instead of two:
// one at what is held of them, and one that proves.
type archiveEnds struct {
	mu     sync.Mutex
	absent map[string]string // name, by stanza and directory
}

// maxArchiveEnds bounds what clients can make the agent remember.
const maxArchiveEnds = 64

// expects says whether the file is probably absent: the history of the next
// timeline always is, but once.
func (e *archiveEnds) expects(r agent.Request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.HasSuffix(r.Name, ".history") || e.absent[r.Stanza+" "+r.Directory] == r.Name
}

// met notes what became of a request.
func (e *archiveEnds) met(r agent.Request, err error) {
	if !errors.Is(err, archive.ErrAbsent) || strings.HasSuffix(r.Name, ".history") {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.absent == nil || len(e.absent) >= maxArchiveEnds {
		e.absent = map[string]string{}
	}
	e.absent[r.Stanza+" "+r.Directory] = r.Name
}

// sources are repositories that stay open.
func (set *agentSet) sources(of recovering, maxAge time.Duration) []archive.Source {
	var sources []archive.Source
	for _, rc := range of.repositories {
		sources = append(sources, archive.Source{Name: rc.Name, Open: func(ctx context.Context) (*repo.Stanza, []repo.Identity, error) {
			stanza, err := set.stanza(ctx, rc, of.stanza.Name, toRead, maxAge)
			if err != nil {
				return nil, nil, err
			}
			ids := wantedIdentities(stanza.Identities(), of.identity, of.control)
			if len(ids) == 0 {
				return nil, nil, noIdentity(rc.Name, of.stanza.Name, of.identity, of.control)
			}
			return stanza, ids, nil
		}})
	}
	return sources
}

// getBy is app.getBy for the agent, where a part of the same process fetches ahead.
func (s *agentService) getBy(set *agentSet, of recovering, getter *archive.Getter, dest string) func(ctx context.Context, name string, into *os.File) (archive.Got, error) {
	if of.config.Archive.Spool == "" || of.control == nil || !filepath.IsAbs(of.directory) {
		return getter.GetInto
	}
	queue, settings, err := s.app.prefetchQueue(of)
	if err != nil {
		s.app.log.Warn("nothing is fetched ahead", "error", oneLine(err.Error()))
		return getter.GetInto
	}
	ahead := archive.NewPrefetchGetter(getter, queue, func() error {
		p, err := archive.NewPrefetcher(queue, of.workersAhead(settings), s.noteAhead, set.sources(of, warmAge)...)
		if err != nil {
			return err
		}
		// Of several that are started only one runs: it holds the queue's lock.
		s.behind.Go(func() {
			if err := p.Run(s.life); err != nil {
				s.noteAhead(err)
			}
		})
		return nil
	})
	return func(ctx context.Context, name string, into *os.File) (archive.Got, error) {
		return ahead.GetInto(ctx, name, dest, into)
	}
}

func (s *agentService) noteAhead(err error) {
	s.app.log.Warn("fetching ahead", "error", oneLine(err.Error()))
}
