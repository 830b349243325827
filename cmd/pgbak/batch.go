package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// pushing is what archive-push, archive-receive and the agent push by: the same but
// for who opens the repositories, and for how long they stay open.
type pushing struct {
	config       *config
	stanza       string
	repositories []repositoryConfig
	processes    int
	control      func() (*postgres.Control, error) // nil is not known
	open         func(ctx context.Context, rc repositoryConfig) (*repo.Stanza, error)
	log          *slog.Logger
}

// pusher puts the Pusher together.
func (a *app) pusher(p pushing) (*archive.Pusher, error) {
	var targets []archive.PushTarget
	for _, rc := range p.repositories {
		compression, err := rc.compression()
		if err != nil {
			return nil, err
		}
		targets = append(targets, archive.PushTarget{Name: rc.Name, Place: pushPlace(rc, p.stanza), Compression: compression,
			Open: func(ctx context.Context) (*repo.Stanza, error) { return p.open(ctx, rc) }})
	}
	pusher, err := archive.NewPusher(targets...)
	if err != nil {
		return nil, err
	}
	pusher.Processes, pusher.Control, pusher.Log = p.processes, p.control, p.log
	pusher.Host, _ = os.Hostname() // for people; the events do without
	return pusher, nil
}

// batch puts the Batch together. spoolErr says why there is no spool although one
// is configured: then each file is pushed by itself.
func (a *app) batch(p pushing) (b *archive.Batch, spoolErr, err error) {
	settings, err := p.config.Archive.parse()
	if err != nil {
		return nil, nil, &configError{err}
	}
	pusher, err := a.pusher(p)
	if err != nil {
		return nil, nil, err
	}
	var spool *archive.Spool
	if settings.spool != "" {
		spool, spoolErr = archive.OpenSpool(settings.spool, p.stanza)
	}
	b = archive.NewBatch(pusher, spool, a.clock)
	b.Processes = cmp.Or(settings.processes, p.processes)
	b.QueueMax, b.Host = settings.queueMax, pusher.Host
	return b, spoolErr, nil
}

// openToPush opens a repository for the run.
func (a *app) openToPush(stanza string) func(ctx context.Context, rc repositoryConfig) (*repo.Stanza, error) {
	return func(ctx context.Context, rc repositoryConfig) (*repo.Stanza, error) {
		o, err := a.openStanza(ctx, rc, stanza, toWrite)
		return o.stanza, err
	}
}

// pushPlace is all that decides where a repository's files of a stanza go to.
func pushPlace(rc repositoryConfig, stanza string) string {
	s := rc.s3()
	return strings.Join([]string{rc.URL, s.Endpoint, s.Region, stanza}, "\x00")
}
