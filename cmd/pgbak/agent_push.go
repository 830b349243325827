package main

import (
	"context"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// lines has what is kept of those who push.
type lines struct{}

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
	result, err := s.push(ctx, set, stanza.Name, repositories, pgdata, path, warmAge)
	if err != nil && !is[*storageError](err) && ctx.Err() == nil {
		// What was refused may fit what the repositories are since a moment ago, such
		// as a stanza that was upgraded.
		result, err = s.push(ctx, set, stanza.Name, repositories, pgdata, path, 0)
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

func (s *agentService) push(ctx context.Context, set *agentSet, stanza string, repositories []repositoryConfig, pgdata, path string, maxAge time.Duration) (archive.Result, error) {
	var targets []archive.PushTarget
	for _, rc := range repositories {
		compression, err := repo.ParseCompression(rc.Compression)
		if err != nil {
			return archive.Result{}, &configError{err}
		}
		targets = append(targets, archive.PushTarget{Name: rc.Name, Compression: compression, Open: func(ctx context.Context) (*repo.Stanza, error) {
			return set.stanza(ctx, rc, stanza, toWrite, maxAge)
		}})
	}
	pusher, err := archive.NewPusher(targets...)
	if err != nil {
		return archive.Result{}, err
	}
	if pusher.Processes, err = s.app.processes(set.config); err != nil {
		return archive.Result{}, err
	}
	pusher.Control = func() (*postgres.Control, error) { return readControl(pgdata) }
	pusher.Log = s.app.log
	return pusher.Push(ctx, path)
}
