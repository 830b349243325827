package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) ledgerCommand() *cobra.Command {
	var output outputFlag
	var how ledgerOptions
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Show which WAL is archived, what is missing, and how far recovery gets",
		Long: `ledger shows for each repository and timeline which WAL is there, every gap
and conflict with what became of it, and how far recovery gets from each backup.
A gap is open until a backup is taken behind it or a person acknowledges it.
Which timeline the server is on is not asked, and gaps are judged for each that it may
be on; --timeline says it, and what lies beside the way to it is aside.

What is marked as complete is not listed. With --full every segment is, which
takes a request for each thousand on S3, and the marks are compared: a
difference is damage.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return a.ledger(cmd.Context(), output, how)
		},
	}
	output.add(cmd)
	cmd.Flags().Uint32Var(&how.timeline, "timeline", 0, "judge gaps and conflicts for a server on timeline `N`")
	cmd.Flags().BoolVar(&how.full, "full", false, "list every segment, and compare the marks with that")
	cmd.AddCommand(a.acknowledgeCommand())
	return cmd
}

// ledgerResult is the output of ledger; docs/json.md describes it.
type ledgerResult struct {
	Stanza       string             `json:"stanza"`
	Repositories []ledgerRepository `json:"repositories"`
}

type ledgerRepository struct {
	Name       string         `json:"name"`
	Identities []identityInfo `json:"identities"`
	Backups    []ledgerBackup `json:"backups"`
	Strays     *straysInfo    `json:"unknown-objects,omitempty"`
}

type ledgerBackup struct {
	Label       repo.Label  `json:"label"`
	Recoverable []reachInfo `json:"recoverable"`
}

type ledgerOptions struct {
	full     bool
	timeline uint32 // 0 is unknown
}

func (a *app) ledger(ctx context.Context, output outputFlag, how ledgerOptions) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	result := ledgerResult{Stanza: sel.stanza.Name, Repositories: []ledgerRepository{}}
	var lies error
	for _, rc := range sel.repositories {
		o, err := a.openStanza(ctx, rc, sel.stanza.Name, toRead)
		if err != nil {
			return err
		}
		c, err := o.stanza.Catalog(ctx)
		if err == nil && how.full {
			err = compareMarks(ctx, o.stanza, c)
			if errors.Is(err, repo.ErrDamaged) {
				lies, err = errors.Join(lies, fmt.Errorf("repository %q: %w", rc.Name, err)), nil
			}
		}
		if err != nil {
			return fmt.Errorf("repository %q: %w", rc.Name, err)
		}
		result.Repositories = append(result.Repositories, newLedgerRepository(rc.Name, c, a.readLedger(ctx, o.stanza, c, postgres.Timeline(how.timeline))))
	}
	if err := output.print(a, result, result.text); err != nil {
		return err
	}
	return lies
}

// readLedger works out the ledger and reads the ends of WAL. What cannot be read
// stays unknown. It adds to the catalogue what lies beside the WAL. current is the timeline that the server is on, 0 if that is unknown.
func (a *app) readLedger(ctx context.Context, s *repo.Stanza, c *repo.Catalog, current postgres.Timeline) *archive.Ledger {
	l := archive.NewLedger(c, current)
	for _, err := range l.ReadEnds(ctx, s) {
		a.log.Warn("the last commit that can be recovered is unknown", "stanza", s.Name(), "cause", err)
	}
	beside, err := s.StrayWAL(ctx)
	if err != nil {
		a.log.Warn("what is not WAL in the archive is unknown", "stanza", s.Name(), "cause", err)
	}
	c.Strays = c.Strays.With(beside)
	if c.UnreadEvents != nil {
		a.log.Warn("events of the ledger cannot be read", "stanza", s.Name(), "cause", c.UnreadEvents)
	}
	return l
}

// compareMarks lists all segments. What marks say more than that is damage; the
// catalogue has what is there in any case.
func compareMarks(ctx context.Context, s *repo.Stanza, c *repo.Catalog) error {
	var listed []repo.WALRange
	var strays repo.Strays
	for _, id := range c.Identities {
		ranges, among, err := s.ListedWAL(ctx, id)
		if err != nil {
			return err
		}
		listed, strays = append(listed, ranges...), strays.With(among)
	}
	var lies error
	for _, r := range c.WAL {
		// Both are in order, and what covers r ends with it or behind it.
		i := sort.Search(len(listed), func(i int) bool { return compareEnds(listed[i], r) >= 0 })
		covered := i < len(listed) && r.Identity == listed[i].Identity && r.Timeline == listed[i].Timeline && listed[i].First <= r.First
		if !covered {
			l := archive.IdentityLedger{Identity: identityNumbered(c, r.Identity)}
			lies = errors.Join(lies, &repo.DamagedError{Key: fmt.Sprintf("ledger/%s/marks/%08d/%s", s.Name(), r.Identity, r.Timeline), What: "marks",
				Err: fmt.Errorf("not all WAL from %s to %s is there, though it is marked as complete", l.Name(r.Timeline, r.First), l.Name(r.Timeline, r.Last))})
		}
	}
	c.WAL, c.Strays = listed, strays
	return hint.Wrap(lies, "something other than pgbak has removed WAL: delete the marks under that key, they are made anew from what is there.")
}

// compareEnds orders runs as a catalogue has them, by where they end.
func compareEnds(a, b repo.WALRange) int {
	return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.Last, b.Last))
}

func identityNumbered(c *repo.Catalog, number int) repo.Identity {
	for _, id := range c.Identities {
		if id.Number == number {
			return id
		}
	}
	return repo.Identity{Number: number, SegmentSize: postgres.MaxWALSegmentSize}
}

func newLedgerRepository(name string, c *repo.Catalog, l *archive.Ledger) ledgerRepository {
	r := ledgerRepository{Name: name, Identities: []identityInfo{}, Backups: []ledgerBackup{}, Strays: newStraysInfo(c.Strays)}
	for i, id := range c.Identities {
		r.Identities = append(r.Identities, newIdentityInfo(id, c.WAL, l.Identities[i]))
	}
	for _, b := range c.Backups {
		if reaches := newReaches(l, b.Label); reaches != nil {
			r.Backups = append(r.Backups, ledgerBackup{b.Label, reaches})
		}
	}
	return r
}

func (r ledgerResult) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stanza: %s\n", r.Stanza)
	for _, repository := range r.Repositories {
		fmt.Fprintf(&b, "\n    repository: %s\n", repository.Name)
		for _, id := range repository.Identities {
			fmt.Fprintf(&b, "\n        cluster: PostgreSQL %d, system identifier %s (identity %d)\n", id.Major, id.SystemID, id.Number)
			id.writeWAL(&b, 0)
		}
		repository.Strays.writeText(&b, 0)
		for _, backup := range repository.Backups {
			fmt.Fprintf(&b, "\n        backup: %s\n", backup.Label)
			for _, reach := range backup.Recoverable {
				fmt.Fprintf(&b, "            recoverable: %s\n", reach.text())
			}
		}
	}
	return b.String()
}

func (a *app) acknowledgeCommand() *cobra.Command {
	note := ""
	cmd := &cobra.Command{
		Use:   "acknowledge FIRST LAST",
		Short: "Say that a gap or a conflict is known",
		Long: `acknowledge records, in every selected repository, that the loss of the WAL
from the segment FIRST to the segment LAST is known, or that a conflict about a
file is (then both are its name). Only what is missing now is acknowledged of the
range. check does not fail for it any more. Recovery still cannot pass a gap.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(note) == "" {
				return &usageError{err: errors.New("--note is missing: say what is known of it"), command: cmd.CommandPath()}
			}
			return a.acknowledge(cmd.Context(), args[0], args[1], note)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` that is shown with it, such as the reason")
	return cmd
}

func (a *app) acknowledge(ctx context.Context, first, last, note string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	done := 0
	for _, rc := range sel.repositories {
		o, err := a.openStanza(ctx, rc, sel.stanza.Name, toWrite)
		if err != nil {
			return err
		}
		id := o.stanza.Current()
		if err := segmentNames(id, first, last); err != nil {
			return &usageError{err: err, command: "pgbak ledger acknowledge"}
		}
		c, err := o.stanza.Catalog(ctx)
		if err != nil {
			return fmt.Errorf("repository %q: %w", rc.Name, err)
		}
		ledgers := archive.NewLedger(c, 0).Identities
		known := ledgers[len(ledgers)-1].Within(first, last)
		if len(known) > maxAcknowledged {
			return hint.Wrap(fmt.Errorf("repository %q: there are %d gaps and conflicts from %s to %s", rc.Name, len(known), first, last),
				"acknowledge smaller ranges, of at most %d; or take a new backup, which closes them all.", maxAcknowledged)
		}
		for _, e := range known {
			e.Kind, e.Note, e.By = repo.WALGapAcknowledged, note, who()
			if now := a.clock(); e.Time.Before(now) {
				e.Time = now
			}
			if err := o.stanza.RecordWALEvent(ctx, id, e); err != nil {
				return fmt.Errorf("repository %q: %w", rc.Name, err)
			}
			done++
			fmt.Fprintf(a.stdout, "repository %s: %s to %s is acknowledged\n", rc.Name, e.First, e.Last)
		}
	}
	if done == 0 {
		return hint.Wrap(fmt.Errorf("there is no gap or conflict from %s to %s", first, last), "'pgbak ledger' shows them.")
	}
	return nil
}

// maxAcknowledged bounds the events of one command: all are read at each look at the ledger.
const maxAcknowledged = 1000

// who names the person for the record, as well as this machine knows.
func who() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
