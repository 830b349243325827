package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/limit"
	"github.com/pgbak/pgbak/storage/metrics"
	"github.com/pgbak/pgbak/storage/posix"
	"github.com/pgbak/pgbak/storage/readonly"
	"github.com/pgbak/pgbak/storage/retry"
	"github.com/pgbak/pgbak/storage/s3"
)

// access is what a command means to do with a repository.
type access int

const (
	toRead   access = iota // nothing can be put or deleted, by whatever mistake
	toWrite                // the repository must be there
	toCreate               // its directory is made where it is missing
)

// openStore puts a repository's store together, from the disk or the network
// upwards. This is the one place that knows the order and why:
//
//	driver     posix or s3
//	faults     only in builds with the tag pgbak_faults: fails or kills at the
//	           n-th operation. Next to the driver, so that what stands above
//	           treats an injected fault as it would treat the driver's.
//	metrics    counts what the driver did. Below retry, so that each attempt is
//	           seen, and below limit, so that waiting is not taken for slowness.
//	limit      below retry, because an attempt that is made again costs
//	           bandwidth and requests again.
//	retry      tries again what may pass.
//	readonly   for commands that never write. Above retry, whose business a
//	           refusal is not.
//	marked     marks what failed as a failure of the storage, for the exit
//	           code. Outermost, because only the error that the caller sees counts.
//
// lookfirst, for storage that does not keep two puts of one key apart, is put on
// top of all by repo.Open and by init, which alone know of it.
func (a *app) openStore(ctx context.Context, rc repositoryConfig, to access) (storage.Store, error) {
	limits, err := rc.Limits.parse()
	if err != nil {
		return nil, &configError{err}
	}
	policy, err := a.retryPolicy(rc)
	if err != nil {
		return nil, &configError{err}
	}
	st, err := a.openDriver(ctx, rc, to, policy)
	if err != nil {
		return nil, err
	}
	counted := metrics.New(withFaults(st), a.clock)
	a.count(rc.Name, counted)
	st = counted
	if limits.Upload > 0 || limits.Download > 0 || limits.Requests > 0 {
		limits.Clock = a.clock
		st = limit.New(st, limits)
	}
	st = retry.New(st, policy)
	if to == toRead {
		st = readonly.New(st)
	}
	return marked{st}, nil
}

// openDriver opens what the url leads to. No request is made to a bucket yet.
func (a *app) openDriver(ctx context.Context, rc repositoryConfig, to access, policy retry.Policy) (storage.Store, error) {
	p, err := rc.place()
	if err != nil {
		return nil, &configError{err}
	}
	if p.bucket != "" {
		st, err := s3.Open(ctx, a.s3Options(rc, p, policy))
		if err != nil {
			return nil, &configError{err}
		}
		return st, nil
	}
	open := posix.Open
	if to == toCreate {
		open = posix.Create
	}
	st, err := open(p.directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Wrap(fmt.Errorf("directory %s does not exist: %w", p.directory, repo.ErrNotInitialized),
			"check the url in the configuration and whether its file system is mounted, or run 'pgbak init' to create a repository there.")
	}
	if err != nil {
		return nil, &storageError{err}
	}
	return st, nil
}

func (a *app) s3Options(rc repositoryConfig, p place, policy retry.Policy) s3.Options {
	c := rc.s3()
	o := s3.Options{Bucket: p.bucket, Prefix: p.prefix, Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.pathStyle(), CAFile: c.CAFile,
		StorageClass: c.StorageClass, SSE: c.SSE, KMSKeyID: c.KMSKeyID,
		Again: policy.Do, Clock: a.clock, Log: a.log.With("repository", rc.Name)}
	if f := c.Credentials; f != nil {
		o.Credentials = s3.CredentialFiles{KeyFile: f.KeyFile, SecretFile: f.SecretFile, TokenFile: f.TokenFile}
	}
	if rc.Limits.Connections != nil {
		o.Connections = *rc.Limits.Connections
	}
	return o
}

// How long a command goes on trying when the configuration does not say.
const (
	// patience of who waits for a command: longer than a server needs to restart.
	patience = 5 * time.Minute
	// PostgreSQL in recovery stands still meanwhile, and stops after trouble.
	getPatience = 2 * time.Minute
	// PostgreSQL keeps the segment and calls again by itself, and a shutdown of
	// the server waits for this call.
	pushPatience = 30 * time.Second
	// attempts is so many that the time above ends it first, also when a server
	// refuses at once: pauses grow to 30 s, of which the average is half.
	attempts = 40
	// What cannot be fetched ahead is fetched when it is needed, with patience.
	prefetchPatience = 10 * time.Second
)

// retryPolicy is what the configuration says, or else what fits the command.
// Each attempt that is followed by another is a warning.
func (a *app) retryPolicy(rc repositoryConfig) (retry.Policy, error) {
	bounds, err := rc.Retry.parse()
	if err != nil {
		return retry.Policy{}, err
	}
	p := retry.Default()
	p.Attempts, p.Time, p.Clock = attempts, patience, a.clock
	switch a.command {
	case archiveGetName:
		p.Time = getPatience
	case archivePushName, archiveReceiveName:
		p.Time = pushPatience
	case archivePrefetchName:
		p.Time = prefetchPatience
	}
	if bounds.attempts > 0 {
		p.Attempts = bounds.attempts
	}
	if bounds.time > 0 {
		p.Time = bounds.time
	}
	p.Notify = func(r retry.Retry) {
		a.log.Warn("the repository's storage failed and is tried again", "repository", rc.Name, "operation", r.What,
			"error", oneLine(r.Err.Error()), "attempt", r.Attempt, "next-in", r.Pause.Round(time.Millisecond).String())
	}
	return p, nil
}

// counter is what a run has asked of a repository's storage.
type counter struct {
	repository string
	store      *metrics.Store
}

func (a *app) count(repository string, st *metrics.Store) {
	a.counting.Lock()
	defer a.counting.Unlock()
	a.counters = append(a.counters, counter{repository, st})
}

// logCounters says at the end of a run what it has asked of the storage.
func (a *app) logCounters() {
	a.counting.Lock()
	defer a.counting.Unlock()
	for _, c := range a.counters {
		a.log.Debug("storage operations", "repository", c.repository, "operations", c.store.Snapshot().String())
	}
}
