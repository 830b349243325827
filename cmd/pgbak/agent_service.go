package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// agentService does the work of the agent with the configuration of the moment.
type agentService struct {
	app     *app
	metrics *agent.Metrics
	life    context.Context // of work that nobody waits for
	end     context.CancelFunc
	behind  sync.WaitGroup // that work

	mu  sync.Mutex
	set *agentSet
}

// agentSet is what belongs to one state of the configuration file.
type agentSet struct {
	config *config
	file   fs.FileInfo // nil where it could not be read
	push   *app        // with the patience and the counters of pushes
	get    *app
	mu     sync.Mutex
	warm   map[warmKey]*agent.Warm
	lines  map[string]*line
	ends   archiveEnds
}

type warmKey struct {
	repository string
	to         access
}

// warmAge is how old what is known of a repository may be. It is about as long as
// an archive-push of its own takes from its first request to its last.
const warmAge = time.Second

func newAgentService(a *app, c *config, counted *agent.Metrics) *agentService {
	s := &agentService{app: a, metrics: counted}
	s.life, s.end = context.WithCancel(context.Background())
	s.set = s.newSet(c)
	return s
}

// close ends what is done for nobody.
func (s *agentService) close() {
	s.end()
	s.behind.Wait()
}

func (s *agentService) newSet(c *config) *agentSet {
	info, err := os.Stat(c.path)
	if err != nil {
		info = nil
	}
	return &agentSet{config: c, file: info, push: s.app.as(archivePushName), get: s.app.as(archiveGetName),
		warm: map[warmKey]*agent.Warm{}, lines: map[string]*line{}}
}

// as is the program as the command of that name would see it.
func (a *app) as(command string) *app {
	return &app{stdout: a.stdout, stderr: a.stderr, getenv: a.getenv, clock: a.clock, directory: a.directory,
		flags: a.flags, log: a.log, command: command, began: true}
}

// current gives the set of the configuration as it is now. A file that cannot be
// read or is wrong is the error that each archive-push would meet.
func (s *agentService) current() (*agentSet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.set.config.path)
	if err == nil && s.set.file != nil && os.SameFile(info, s.set.file) && info.ModTime().Equal(s.set.file.ModTime()) && info.Size() == s.set.file.Size() {
		return s.set, nil
	}
	c, err := s.app.loadConfig()
	if err != nil {
		return nil, err
	}
	if c.Agent != s.set.config.Agent {
		s.app.log.Warn("the configuration of the agent itself has changed, which counts when it is started anew", "file", c.path)
	}
	set := s.newSet(c)
	set.file = info // from before it was read
	s.set = set
	s.app.log.Info("the configuration was read again", "file", c.path)
	return set, nil
}

// choose finds what a request names.
func (set *agentSet) choose(r agent.Request) (stanzaConfig, []repositoryConfig, error) {
	stanza, err := set.config.stanza(r.Stanza)
	if err != nil {
		return stanza, nil, err
	}
	var chosen []repositoryConfig
	for _, name := range r.Repositories {
		found, err := set.config.repositories(name)
		if err != nil || name == allRepositories || name == "" {
			return stanza, nil, hint.Wrap(&configError{fmt.Errorf("the agent's configuration %s has no repository %q", set.config.path, name)},
				"agent and server must be configured with the same repositories.")
		}
		chosen = append(chosen, found...)
	}
	if len(chosen) == 0 {
		return stanza, nil, errors.New("the request names no repository")
	}
	return stanza, chosen, nil
}

// stanza opens a stanza in a repository that stays open.
func (set *agentSet) stanza(ctx context.Context, rc repositoryConfig, name string, to access, maxAge time.Duration) (*repo.Stanza, error) {
	s, err := set.warmed(rc, to).Stanza(ctx, name, maxAge)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	return s, nil
}

func (set *agentSet) warmed(rc repositoryConfig, to access) *agent.Warm {
	set.mu.Lock()
	defer set.mu.Unlock()
	key := warmKey{rc.Name, to}
	if set.warm[key] == nil {
		a := set.get
		if to == toWrite {
			a = set.push
		}
		set.warm[key] = agent.NewWarm(func(ctx context.Context) (*repo.Repository, func() error, error) { return a.openWarm(ctx, rc, to) }, a.clock)
	}
	return set.warm[key]
}

// openWarm opens a repository, and gives what tells whether its url still leads to
// the directory that was opened. Errors do not name the repository.
func (a *app) openWarm(ctx context.Context, rc repositoryConfig, to access) (*repo.Repository, func() error, error) {
	same, err := sameDirectory(rc)
	if err != nil {
		return nil, nil, err
	}
	o, err := a.repositoryOptions(rc)
	if err != nil {
		return nil, nil, err
	}
	a.uncount(rc.Name)
	st, err := a.openStore(ctx, rc, to)
	if err != nil {
		return nil, nil, err
	}
	r, err := repo.Open(ctx, st, o)
	return r, same, err
}

// sameDirectory remembers the directory of a file:// repository; nil for others.
func sameDirectory(rc repositoryConfig) (func() error, error) {
	p, err := rc.place()
	if err != nil {
		return nil, &configError{err}
	}
	if p.directory == "" {
		return nil, nil
	}
	was, err := os.Stat(p.directory)
	if err != nil {
		return nil, nil // opening it says why
	}
	return func() error {
		now, err := os.Stat(p.directory)
		if err == nil && !os.SameFile(was, now) {
			err = fmt.Errorf("%s is another directory now", p.directory)
		}
		return err
	}, nil
}

// uncount forgets the counters of a repository that is opened anew.
func (a *app) uncount(repository string) {
	a.counting.Lock()
	defer a.counting.Unlock()
	var others []counter
	for _, c := range a.counters {
		if c.repository != repository {
			others = append(others, c)
		}
	}
	a.counters = others
}

// probe opens every repository of every stanza, or finds it open.
func (s *agentService) probe(ctx context.Context) error {
	set, err := s.current()
	if err != nil {
		return err
	}
	errs := make([]error, len(set.config.Repositories)*len(set.config.Stanzas))
	var running sync.WaitGroup
	for i, rc := range set.config.Repositories {
		for j, stanza := range set.config.Stanzas {
			running.Go(func() {
				_, err := set.stanza(ctx, rc, stanza.Name, toWrite, warmAge)
				if err != nil {
					err = fmt.Errorf("%s", strings.TrimSpace(oneLine(err.Error())))
				}
				errs[i*len(set.config.Stanzas)+j] = err
			})
		}
	}
	running.Wait()
	return errors.Join(errs...)
}
