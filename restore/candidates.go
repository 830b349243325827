package restore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Passed is a backup that was not chosen.
type Passed struct {
	Label  repo.Label `json:"label"`
	Reason string     `json:"reason"`
}

// candidate is a backup that lies on the way to the target's timeline, with
// what the archive holds from its start on.
type candidate struct {
	repo.BackupHeader
	reach reach
	// setting is what recovery_target_timeline has to be.
	setting string
}

// complete tells whether the WAL that makes the backup consistent is there.
func (c candidate) complete() bool {
	return c.reach.holds(c.reach.path.segmentBefore(c.Stop.LSN))
}

// endsBefore tells whether the backup is consistent at position lsn.
func (c candidate) endsBefore(lsn postgres.LSN) bool { return c.Stop.LSN <= lsn }

// pickIdentity finds the cluster that is to be restored: that of the backup that the
// user named, or the one that archives now.
func pickIdentity(c *repo.Catalog, set repo.Label) (repo.Identity, error) {
	if len(c.Identities) == 0 {
		return repo.Identity{}, fmt.Errorf("stanza %s: %w", c.Stanza, repo.ErrUnknownStanza)
	}
	if set == "" {
		return c.Identities[len(c.Identities)-1], nil
	}
	i := slices.IndexFunc(c.Backups, func(b repo.BackupInfo) bool { return b.Label == set })
	switch {
	case i < 0 || c.Backups[i].Tombed:
		return repo.Identity{}, hint.Wrap(fmt.Errorf("backup %s of stanza %s: %w", set, c.Stanza, repo.ErrNoBackup),
			"%s", labelsHint(c))
	case c.Backups[i].Err != nil:
		return repo.Identity{}, fmt.Errorf("backup %s: %w", set, c.Backups[i].Err)
	}
	id := c.Backups[i].Header.Identity
	if j := slices.IndexFunc(c.Identities, func(o repo.Identity) bool { return o.Number == id.Number }); j >= 0 {
		return c.Identities[j], nil
	}
	return repo.Identity{}, fmt.Errorf("backup %s: %w: the stanza has no identity %d", set, repo.ErrIdentityMismatch, id.Number)
}

func labelsHint(c *repo.Catalog) string {
	var labels []string
	for _, b := range c.Backups {
		if b.Err == nil && !b.Tombed {
			labels = append(labels, string(b.Label))
		}
	}
	if len(labels) == 0 {
		return "the stanza has no backup: take one with 'pgbak backup'."
	}
	return "the stanza has the backups " + strings.Join(labels, ", ") + "."
}

// candidates are the backups that can lead to the target's timeline, newest
// first. What was passed over, and why, goes into d.
func (q *request) candidates(id repo.Identity, archive *walArchive, d *decision) ([]candidate, error) {
	var found []candidate
	for _, b := range q.catalog.Backups {
		if q.set != "" && b.Label != q.set || b.Tombed {
			continue
		}
		if b.Err != nil {
			d.warn("backup %s cannot be used: %v", b.Label, b.Err)
			d.damage = errors.Join(d.damage, b.Err)
			continue
		}
		if b.Header.Identity.Number != id.Number {
			d.pass(b.Label, "it is of another cluster: "+b.Header.Identity.String())
			continue
		}
		c, err := newCandidate(archive, q.target, b.Header)
		if err != nil {
			d.pass(b.Label, err.Error())
			q.noteRival(archive, b.Header, d)
			continue
		}
		found = append(found, c)
	}
	slices.SortStableFunc(found, func(x, y candidate) int {
		if n := y.Stop.Time.Compare(x.Stop.Time); n != 0 {
			return n
		}
		return strings.Compare(string(y.Label), string(x.Label))
	})
	if len(found) == 0 {
		return nil, q.noCandidate(id, archive, d)
	}
	return found, nil
}

// newCandidate puts a backup on its way to the target's timeline, or says why
// there is none.
func newCandidate(a *walArchive, t Target, h repo.BackupHeader) (candidate, error) {
	if h.Timeline == 0 || h.Stop.LSN < h.Start.LSN || h.Start.LSN == 0 {
		return candidate{}, fmt.Errorf("its positions in the WAL make no sense: %s to %s on timeline %d", h.Start.LSN, h.Stop.LSN, h.Timeline)
	}
	tli, setting, err := resolveTimeline(a, t, h)
	if err != nil {
		return candidate{}, err
	}
	history, known := a.history(tli)
	if !known && tli != h.Timeline {
		return candidate{}, fmt.Errorf("timeline %d has no history file in the archive", tli)
	}
	if !history.Contains(h.Timeline, h.Stop.LSN) {
		return candidate{}, notInHistory(history, h)
	}
	if !known && setting != TimelineLatest {
		// PostgreSQL refuses a number without a history file, but not its own timeline.
		setting = TimelineCurrent
	}
	p := walPath{history: history, size: a.size}
	return candidate{BackupHeader: h, reach: a.follow(p, h.Start.LSN.Segment(a.size)), setting: setting}, nil
}

// resolveTimeline finds the number that the target's timeline stands for, and
// what to tell PostgreSQL. A target that was proven on one timeline must not
// be looked for on another that appears meanwhile, so only the end of the WAL
// is left to PostgreSQL's own search.
func resolveTimeline(a *walArchive, t Target, h repo.BackupHeader) (tli postgres.Timeline, setting string, err error) {
	switch word := t.timeline(); word {
	case TimelineCurrent:
		return h.Timeline, TimelineCurrent, nil
	case TimelineLatest:
		tli = a.newest(h.Timeline)
		if lost, ok := a.beyond(tli, h.Timeline, h.Stop.LSN); ok {
			return 0, "", fmt.Errorf("timeline %d descends from it, but PostgreSQL looks no further than timeline %d because %08X.history is not in the archive; name the timeline to restore to one of them",
				lost, tli, uint32(tli+1))
		}
		if t.Type == TargetLatest {
			return tli, TimelineLatest, nil
		}
		return tli, strconv.FormatUint(uint64(tli), 10), nil
	default:
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil || n == 0 {
			return 0, "", fmt.Errorf("timeline %q is not a number", word)
		}
		return postgres.Timeline(n), word, nil
	}
}

// notInHistory says where the way to the timeline left the backup's own.
func notInHistory(history postgres.History, h repo.BackupHeader) error {
	for _, e := range history.Entries {
		if e.Timeline == h.Timeline {
			return fmt.Errorf("timeline %d leaves timeline %d at %s, before the backup's end at %s",
				history.Timeline, h.Timeline, e.Switch, h.Stop.LSN)
		}
	}
	return fmt.Errorf("timeline %d does not descend from the backup's timeline %d", history.Timeline, h.Timeline)
}

// noCandidate explains why no backup can be used at all.
func (q *request) noCandidate(id repo.Identity, a *walArchive, d *decision) error {
	if len(d.passed) == 0 || !slices.ContainsFunc(q.catalog.Backups, func(b repo.BackupInfo) bool {
		return b.Err == nil && !b.Tombed && b.Header.Identity.Number == id.Number
	}) {
		if d.damage != nil {
			return fmt.Errorf("stanza %s, %s: no backup can be used: %w", q.catalog.Stanza, id, d.damage)
		}
		return hint.Wrap(fmt.Errorf("stanza %s, %s: %w", q.catalog.Stanza, id, repo.ErrNoBackup),
			"take one with 'pgbak backup', or name one of an older cluster with --set; 'pgbak info' lists them.")
	}
	last := d.passed[len(d.passed)-1]
	return unreachable(possibleTimelines(q, id, a), "no backup leads to timeline %q: backup %s: %s", q.target.timeline(), last.Label, last.Reason)
}

// possibleTimelines lists for each backup the timelines that it leads to.
func possibleTimelines(q *request, id repo.Identity, a *walArchive) string {
	var lines []string
	for _, b := range q.catalog.Backups {
		if b.Err != nil || b.Tombed || b.Header.Identity.Number != id.Number || q.set != "" && b.Label != q.set {
			continue
		}
		timelines := []postgres.Timeline{b.Header.Timeline}
		for t, h := range a.histories {
			if t != b.Header.Timeline && h.Contains(b.Header.Timeline, b.Header.Stop.LSN) {
				timelines = append(timelines, t)
			}
		}
		slices.Sort(timelines)
		lines = append(lines, fmt.Sprintf("backup %s leads to timeline %s", b.Label, joinTimelines(timelines)))
	}
	const most = 5 // the newest are what one wants to restore
	return strings.Join(lines[max(0, len(lines)-most):], "; ") + ": choose one with --target-timeline."
}

func joinTimelines(ts []postgres.Timeline) string {
	var s []string
	for _, t := range ts {
		s = append(s, strconv.FormatUint(uint64(t), 10))
	}
	return strings.Join(s, ", ")
}
