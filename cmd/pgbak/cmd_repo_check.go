package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/conformance"
)

// repoCommand holds the commands about repositories themselves, whatever the stanza.
func (a *app) repoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Look at repositories themselves",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return noCommand(cmd) },
	}
	cmd.AddCommand(a.repoCheckCommand())
	return cmd
}

func (a *app) repoCheckCommand() *cobra.Command {
	var output outputFlag
	probe := false
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look whether repositories can be reached, and what their storage is like",
		Long: `repo check opens every repository (or the one named by --repo) and shows its
format, its encryption, whether its storage keeps two writers apart, and how
long a small request takes. Nothing is written, and no server is asked.

With --probe it tries every promise that pgbak relies on, with objects of its own
below probe/ in the repository, which it deletes again. That works before init
too. It takes some hundred requests.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return a.repoCheck(cmd.Context(), output, probe)
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "try what the storage promises")
	output.add(cmd)
	return cmd
}

// repoCheckResult is the output of repo check; docs/json.md describes it.
type repoCheckResult struct {
	OK           bool            `json:"ok"`
	Repositories []repoCheckInfo `json:"repositories"`
}

type repoCheckInfo struct {
	Name     string `json:"name"`
	Location string `json:"location"`
	OK       bool   `json:"ok"`
	// Reachable tells whether the storage answered.
	Reachable   bool `json:"reachable"`
	Initialised bool `json:"initialised"`
	// RoundTrip is how long a small request takes, in seconds.
	RoundTrip      float64         `json:"round-trip-seconds,omitempty"`
	Format         int             `json:"format-version,omitempty"`
	ID             string          `json:"id,omitempty"`
	Encryption     string          `json:"encryption,omitempty"`
	ConditionalPut *bool           `json:"conditional-put,omitempty"`
	Promises       []promiseResult `json:"promises,omitempty"`
	Error          string          `json:"error,omitempty"`
	Hint           string          `json:"hint,omitempty"`

	faults []error
}

// promiseResult is what became of one promise of the storage.
type promiseResult struct {
	Promise string `json:"promise"`
	Result  string `json:"result"` // ok, FAILED or not promised
	Error   string `json:"error,omitempty"`
}

const (
	promiseKept    = "ok"
	promiseBroken  = "FAILED"
	promiseNotMade = "not promised"
)

func (a *app) repoCheck(ctx context.Context, output outputFlag, probe bool) error {
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	repositories, err := c.repositories(a.repositoryName())
	if err != nil {
		return err
	}
	result := repoCheckResult{OK: true, Repositories: []repoCheckInfo{}}
	var faults []error
	for _, rc := range repositories {
		info := a.checkRepository(ctx, rc, probe)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, f := range info.faults {
			faults = append(faults, fmt.Errorf("repository %q: %w", rc.Name, f))
		}
		result.Repositories = append(result.Repositories, info)
	}
	result.OK = len(faults) == 0
	if err := output.print(a, result, result.text); err != nil || result.OK {
		return err
	}
	return &checkError{errors.Join(faults...)}
}

// checkRepository looks at one repository. That it is not initialised yet is
// a fault only if it was not to be probed.
func (a *app) checkRepository(ctx context.Context, rc repositoryConfig, probe bool) (info repoCheckInfo) {
	info = repoCheckInfo{Name: rc.Name, Location: rc.URL}
	defer func() {
		info.OK = len(info.faults) == 0
		if !info.OK {
			all := errors.Join(info.faults...)
			info.Error, info.Hint = oneLine(all.Error()), hint.Of(all)
		}
	}()
	to := toRead
	if probe {
		to = toWrite
	}
	st, err := a.openStore(ctx, rc, to)
	if err == nil {
		info.Location = st.Properties().Location
		info.RoundTrip, err = a.roundTrip(ctx, st)
	}
	if err != nil {
		info.faults = append(info.faults, err)
		return info
	}
	info.Reachable = true
	r, err := a.lookAt(ctx, rc, st, &info)
	if err != nil && !(probe && errors.Is(err, repo.ErrNotInitialized)) {
		info.faults = append(info.faults, err)
	}
	if !probe {
		return info
	}
	if r != nil {
		st = r.Store() // with what the repository has recorded about the storage
	}
	if err := a.probe(ctx, st, &info); err != nil {
		info.faults = append(info.faults, err)
	}
	return info
}

// roundTrip is the time, in seconds, of the quickest of a few requests for an
// object that need not be there; the first one makes the connection.
func (a *app) roundTrip(ctx context.Context, st storage.Store) (float64, error) {
	const requests = 4
	best := time.Duration(-1)
	for range requests {
		begin := a.clock()
		body, err := st.Get(ctx, "pgbak-repository.json", storage.Range{Length: 1})
		if err == nil {
			_, err = io.Copy(io.Discard, body)
			body.Close()
		}
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return 0, err
		}
		if took := a.clock().Sub(begin); best < 0 || took < best {
			best = took
		}
	}
	return best.Seconds(), nil
}

// lookAt opens the repository and takes down what it says of itself.
func (a *app) lookAt(ctx context.Context, rc repositoryConfig, st storage.Store, info *repoCheckInfo) (*repo.Repository, error) {
	o, err := a.repositoryOptions(rc)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, st, o)
	info.Initialised = !errors.Is(err, repo.ErrNotInitialized)
	if err != nil {
		return nil, err
	}
	c := r.Config()
	info.Format, info.ID, info.Encryption, info.ConditionalPut = c.FormatVersion, c.ID, c.Encryption, &c.ConditionalPut
	return r, nil
}

// probe runs the suite of promises in a place of its own.
func (a *app) probe(ctx context.Context, st storage.Store, info *repoCheckInfo) error {
	prefix, err := a.probePrefix()
	if err != nil {
		return err
	}
	return conformance.Probe(ctx, st, prefix, func(c conformance.Check, err error) {
		p := promiseResult{Promise: c.Name, Result: promiseKept}
		switch {
		case errors.Is(err, conformance.ErrNotPromised):
			p.Result = promiseNotMade
		case err != nil:
			p.Result, p.Error = promiseBroken, oneLine(err.Error())
		}
		a.log.Debug("promise", "repository", info.Name, "promise", p.Promise, "result", p.Result)
		info.Promises = append(info.Promises, p)
	})
}

func (r repoCheckResult) text() string {
	var b strings.Builder
	for _, info := range r.Repositories {
		info.writeText(&b)
	}
	return b.String()
}

func (i repoCheckInfo) writeText(b *strings.Builder) {
	state := "ok"
	if !i.OK {
		state = "FAILED"
	}
	fmt.Fprintf(b, "repository %s (%s): %s\n", i.Name, i.Location, state)
	if i.Reachable {
		fmt.Fprintf(b, "    a small request takes %.1f ms\n", i.RoundTrip*1000)
	}
	switch {
	case i.ConditionalPut != nil:
		fmt.Fprintf(b, "    format %d, encryption %s, id %s\n", i.Format, i.Encryption, i.ID)
		kept := "the storage keeps two writers of one object apart"
		if !*i.ConditionalPut {
			kept = "the storage does not keep two writers of one object apart: pgbak looks before it puts"
		}
		fmt.Fprintf(b, "    %s\n", kept)
	case i.Reachable && !i.Initialised:
		fmt.Fprintf(b, "    not initialised\n")
	}
	for _, p := range i.Promises {
		fmt.Fprintf(b, "    %-13s %s\n", p.Result, p.Promise)
		if p.Error != "" {
			fmt.Fprintf(b, "        %s\n", p.Error)
		}
	}
	broken := slices.ContainsFunc(i.Promises, func(p promiseResult) bool { return p.Result == promiseBroken })
	if i.Error != "" && !broken {
		fmt.Fprintf(b, "    %s\n", i.Error)
	}
	if i.Hint != "" {
		fmt.Fprintf(b, "    hint: %s\n", i.Hint)
	}
}
