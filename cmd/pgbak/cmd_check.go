package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) checkCommand() *cobra.Command {
	var output outputFlag
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Prove that the configuration works and that WAL reaches the repository",
		Long: `check opens every repository, compares the stanza with the data directory and
the server, looks at the server's settings, and then lets the server switch to a
new WAL segment and waits until the finished one is in every repository. It fails
for every gap in the archived WAL that no backup was taken behind and nobody has
acknowledged, and for conflicts alike; see ledger.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return a.check(cmd.Context(), output, timeout)
		},
	}
	output.add(cmd)
	cmd.Flags().DurationVar(&timeout, "archive-timeout", time.Minute, "how long to wait for a WAL segment (`DURATION` like 60s)")
	return cmd
}

// checkResult is the output of check; docs/json.md describes it.
type checkResult struct {
	Stanza       string            `json:"stanza"`
	OK           bool              `json:"ok"`
	Repositories []checkRepository `json:"repositories"`
	Problems     []checkProblem    `json:"problems"`
}

type checkRepository struct {
	Name string `json:"name"`
	// WALSegment is the segment that was seen to arrive; "" if none did.
	WALSegment string `json:"wal-segment,omitempty"`
}

type checkProblem struct {
	Fatal   bool   `json:"fatal"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (a *app) check(ctx context.Context, output outputFlag, timeout time.Duration) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	id, err := clusterIdentity(ctx, sel.stanza)
	if err != nil {
		return err
	}
	stanzas, err := a.openStanzas(ctx, sel, id)
	if err != nil {
		return err
	}
	conn, err := server.Connect(ctx, sel.stanza.Connection)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	info, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	result := checkResult{Stanza: sel.stanza.Name, Repositories: []checkRepository{}, Problems: []checkProblem{}}
	pgdata := sel.stanza.PGData
	if pgdata == "" {
		pgdata = info.DataDirectory // it is not reached from here, so there is nothing to compare
	}
	problems := readiness.Problems(info, pgdata, stanzas[0].stanza.Current())
	isArchiving := false
	if readiness.Fatal(problems) == nil {
		arrived, err := a.proveArchiving(ctx, conn, info, stanzas, timeout)
		result.Repositories = arrived
		if err != nil && !errors.Is(err, readiness.ErrWALTimeout) {
			return err
		}
		if err != nil {
			problems = append(problems, readiness.Problem{Error: err, Fatal: true})
		}
		isArchiving = err == nil
	}
	patience := time.Duration(0)
	if isArchiving {
		patience = timeout
	}
	for _, o := range stanzas {
		found, err := a.checkLedger(ctx, o, info.Timeline, patience)
		if err != nil {
			return fmt.Errorf("repository %q: %w", o.repository.Name, err)
		}
		problems = append(problems, found...)
	}
	return a.reportCheck(result, problems, output)
}

// openStanzas opens the stanza in every selected repository and compares it
// with the cluster in pgdata.
func (a *app) openStanzas(ctx context.Context, sel selection, id repo.Identity) ([]opened, error) {
	var stanzas []opened
	for _, rc := range sel.repositories {
		o, err := a.openStanza(ctx, rc, sel.stanza.Name, toRead)
		if err != nil {
			return nil, err
		}
		if err := sameCluster(o, sel.stanza, id); err != nil {
			return nil, err
		}
		stanzas = append(stanzas, o)
	}
	return stanzas, nil
}

// proveArchiving switches the WAL segment and waits until the finished one is
// in every repository.
func (a *app) proveArchiving(ctx context.Context, conn *server.Conn, info server.Info, stanzas []opened, timeout time.Duration) ([]checkRepository, error) {
	switched, err := conn.SwitchWAL(ctx)
	if err != nil {
		return nil, err
	}
	archiver := func(ctx context.Context) (string, error) {
		status, err := conn.ArchiverStatus(ctx)
		return status.String(), err
	}
	arrived := []checkRepository{}
	for _, o := range stanzas {
		id := o.stanza.Current()
		file := postgres.WALFile{Kind: postgres.WALSegment, Timeline: info.Timeline, Segment: switched.Segment(id.SegmentSize)}
		err := readiness.WaitForWAL(ctx, o.stanza, id, []postgres.WALFile{file},
			readiness.WaitOptions{Timeout: timeout, Clock: a.clock, Archiver: archiver})
		if err != nil {
			return arrived, fmt.Errorf("repository %q: %w", o.repository.Name, err)
		}
		arrived = append(arrived, checkRepository{o.repository.Name, file.Name(id.SegmentSize)})
	}
	return arrived, nil
}

// lookAgain is the pause between two looks at the ledger.
const lookAgain = time.Second

// checkLedger finds what is wrong with the WAL that is archived. A gap counts only
// if it is still there at a second look, and one near the end of the WAL if it
// outlasts patience: a batch of archive-push does not store in order.
func (a *app) checkLedger(ctx context.Context, o opened, current postgres.Timeline, patience time.Duration) ([]readiness.Problem, error) {
	deadline := a.clock().Add(patience)
	for looks := 1; ; looks++ {
		c, err := o.stanza.Catalog(ctx)
		if err != nil {
			return nil, err
		}
		identities := archive.NewLedger(c, current).Identities
		l := identities[len(identities)-1]
		open := l.OpenGaps()
		isRecent := slices.ContainsFunc(open, func(g archive.Gap) bool { return g.IsRecent })
		if len(open) == 0 || looks > 1 && (!isRecent || !a.clock().Before(deadline)) {
			beside, err := o.stanza.StrayWAL(ctx)
			if err != nil {
				return nil, err
			}
			problems := ledgerProblems(o.repository.Name, l, c.UnreadEvents)
			return append(problems, strayProblem(o.repository.Name, c.Strays.With(beside))...), nil
		}
		if err := pause.For(ctx, lookAgain); err != nil {
			return nil, err
		}
	}
}

func (a *app) reportCheck(result checkResult, problems []readiness.Problem, output outputFlag) error {
	var fatal []error
	for _, p := range problems {
		result.Problems = append(result.Problems, checkProblem{p.Fatal, oneLine(p.Error.Error()), hint.Of(p.Error)})
		if p.Fatal {
			fatal = append(fatal, p.Error)
		}
	}
	result.OK = len(fatal) == 0
	if err := output.print(a, result, result.text); err != nil {
		return err
	}
	if result.OK {
		return nil
	}
	return &checkError{errors.Join(fatal...)}
}

func (r checkResult) text() string {
	var b strings.Builder
	for _, repository := range r.Repositories {
		fmt.Fprintf(&b, "repository %s: WAL segment %s arrived\n", repository.Name, repository.WALSegment)
	}
	for _, p := range r.Problems {
		word := "warning"
		if p.Fatal {
			word = "problem"
		}
		fmt.Fprintf(&b, "%s: %s\n", word, p.Message)
		if p.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", p.Hint)
		}
	}
	if r.OK {
		fmt.Fprintf(&b, "stanza %s: ok\n", r.Stanza)
	}
	return b.String()
}
