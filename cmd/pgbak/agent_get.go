package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
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
	getter, err := archive.NewGetter(set.sources(of, warmAge)...)
	if err != nil {
		return archive.Got{}, err
	}
	got, err := s.getBy(set, of, getter, r.Path)(ctx, r.Name, into)
	if err != nil && !is[*storageError](err) && ctx.Err() == nil {
		// Absence is proven by what the repositories are now, and so is that none of
		// their identities is the cluster that asks.
		if getter, err = archive.NewGetter(set.sources(of, 0)...); err == nil {
			got, err = getter.GetInto(ctx, r.Name, into)
		}
	}
	if is[*storageError](err) {
		for _, rc := range of.repositories {
			set.warmed(rc, toRead).Forget()
		}
	}
	return got, err
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
		workers := cmp.Or(settings.processes, max(of.processes, minPrefetchWorkers))
		p, err := archive.NewPrefetcher(queue, workers, s.noteAhead, set.sources(of, warmAge)...)
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
