package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/postgres"
)

// pushByAgent leaves the push to the agent; not done means that there is none and
// that the configuration wants the work done here then.
func (a *app) pushByAgent(ctx context.Context, sel selection, path string) (result archive.Result, done bool, err error) {
	done, err = a.byAgent(ctx, sel, func(c agent.Client, r agent.Request) error {
		r.Path = path
		result, err = c.Push(ctx, r)
		return err
	})
	return result, done, err
}

// getByAgent is pushByAgent for a get.
func (a *app) getByAgent(ctx context.Context, sel selection, identity int, control *postgres.Control, name, dest string) (got archive.Got, done bool, err error) {
	if a.takeAhead(ctx, sel, identity, control, name, dest) {
		return archive.Got{}, true, nil
	}
	done, err = a.byAgent(ctx, sel, func(c agent.Client, r agent.Request) error {
		r.Name, r.Identity = name, identity
		if control != nil {
			r.Cluster = &agent.Cluster{SystemID: control.SystemID, Major: control.Major, SegmentSize: control.WALSegmentSize, Instance: instanceOf(a.directory)}
		}
		got, err = c.Get(ctx, r, dest)
		return err
	})
	return got, done, err
}

// takeAhead takes what the agent has fetched ahead out of the spool, where that is the
// same for both: to have it copied would cost more than all the rest. Whatever is
// in the way of that, the agent is asked.
func (a *app) takeAhead(ctx context.Context, sel selection, identity int, control *postgres.Control, name, dest string) bool {
	if sel.config.Agent.Socket == "" || sel.config.Archive.Spool == "" || control == nil {
		return false
	}
	r := recovering{selection: sel, asked: a.repositoryName(), identity: identity, control: control}
	var err error
	if r.directory, err = filepath.Abs(a.directory); err != nil {
		return false
	}
	r.instance = instanceOf(r.directory)
	queue, _, err := a.prefetchQueue(r)
	taken := false
	if err == nil {
		taken, err = queue.Take(ctx, name, dest)
	}
	if err != nil {
		a.log.Debug("what the agent has fetched ahead cannot be taken", "error", oneLine(err.Error()))
	}
	if taken && err == nil {
		a.log.Debug("taken out of the spool", "file", name)
		return true
	}
	return false
}

func (a *app) byAgent(ctx context.Context, sel selection, ask func(agent.Client, agent.Request) error) (done bool, err error) {
	if sel.config.Agent.Socket == "" {
		return false, nil
	}
	directory, err := filepath.Abs(a.directory)
	if err != nil {
		return true, fmt.Errorf("working directory: %w", err)
	}
	r := agent.Request{Stanza: sel.stanza.Name, Directory: directory}
	for _, rc := range sel.repositories {
		r.Repositories = append(r.Repositories, rc.Name)
	}
	err = ask(agent.Client{Socket: sel.config.Agent.Socket, Clock: a.clock}, r)
	if errors.Is(err, agent.ErrAway) && sel.config.Agent.WhenAbsent == whenAbsentFallback && ctx.Err() == nil {
		a.log.Warn("working without the agent", "error", oneLine(err.Error()))
		return false, nil
	}
	return true, err
}

// failureCode is the code that the agent gave an error, which is what the error
// would have got here. One that says how the agent's process was ended, or what
// PostgreSQL is told by archive-get alone, is not for its clients.
func failureCode(f *agent.Failure) int {
	if f.Code > exitUsage && f.Code <= exitWALRefused {
		return f.Code
	}
	return exitFailed
}
