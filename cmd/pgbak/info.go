package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// The output of info. docs/json.md describes every field; they are a contract.

type stanzaInfo struct {
	Name         string           `json:"name"`
	Status       statusInfo       `json:"status"`
	Repositories []repositoryInfo `json:"repositories"`
}

// statusInfo is the exit code that stands for the status, and its words.
type statusInfo struct {
	Code int    `json:"code"`
	Text string `json:"text"`
}

type repositoryInfo struct {
	Name       string         `json:"name"`
	URL        string         `json:"url"`
	Encryption string         `json:"encryption,omitempty"`
	Status     statusInfo     `json:"status"`
	Identities []identityInfo `json:"identities"`
	Backups    []backupInfo   `json:"backups"`
	Strays     *straysInfo    `json:"unknown-objects,omitempty"`
}

type identityInfo struct {
	Number      int       `json:"number"`
	SystemID    string    `json:"system-identifier"`
	Major       int       `json:"postgresql-major"`
	SegmentSize int64     `json:"wal-segment-size"`
	WAL         []walInfo `json:"wal"`
	ledgerInfo
}

// walInfo is a run of segments without a gap.
type walInfo struct {
	Timeline uint32 `json:"timeline"`
	First    string `json:"first"`
	Last     string `json:"last"`
	Segments uint64 `json:"segments"`
}

type backupInfo struct {
	Label  repo.Label `json:"label"`
	Status string     `json:"status"` // ok, page errors, WAL missing, damaged, expired
	Error  string     `json:"error,omitempty"`
	// WALComplete tells whether all WAL from start to stop is archived; without
	// it no server gets consistent from the backup.
	WALComplete bool `json:"wal-complete"`

	Type     repo.BackupType   `json:"type,omitempty"`
	Parent   repo.Label        `json:"parent,omitempty"`
	Identity int               `json:"identity,omitempty"`
	Timeline uint32            `json:"timeline,omitempty"`
	Start    *repo.BackupPoint `json:"start,omitempty"`
	Stop     *repo.BackupPoint `json:"stop,omitempty"`
	Source   string            `json:"source,omitempty"`
	// Recoverable is how far recovery gets: on the backup's own timeline, and, if
	// that is another one, on the way to the newest.
	Recoverable []reachInfo `json:"recoverable,omitempty"`
	Seconds     float64     `json:"duration-seconds"`

	DatabaseSize int64 `json:"database-size"`
	StoredSize   int64 `json:"stored-size"`
	AddedSize    int64 `json:"added-size"`
	Files        int64 `json:"files"`

	// Ways tell how it was found out what has changed, and WayReason why not by a better way.
	Ways           []repo.WayUse `json:"ways,omitempty"`
	WayReason      string        `json:"way-reason,omitempty"`
	PageErrorCount int64         `json:"page-error-count"`

	PageErrors  []repo.PageError  `json:"page-errors,omitempty"`
	Tablespaces []repo.Tablespace `json:"tablespaces,omitempty"`
	Databases   []repo.Database   `json:"databases,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Version     string            `json:"pgbak-version,omitempty"`
}

// What is wrong with a stanza although its repository can be read. One backup
// is enough: who relies on it has to know before the restore.
var (
	errNoValidBackups   = errors.New("no valid backups")
	errDamagedManifest  = errors.New("damaged manifest")
	errBackupWithoutWAL = errors.New("backup without its WAL")
)

// newRepositoryInfo turns a catalogue, or the error that came instead, into
// what info shows. The error it returns is the status as an error; nil is ok.
func newRepositoryInfo(rc repositoryConfig, h holdings, err error) (repositoryInfo, error) {
	c := h.catalog
	r := repositoryInfo{Name: rc.Name, URL: rc.URL, Encryption: h.encryption, Identities: []identityInfo{}, Backups: []backupInfo{}}
	if err == nil {
		for i, id := range c.Identities {
			r.Identities = append(r.Identities, newIdentityInfo(id, c.WAL, h.ledger.Identities[i]))
		}
		for _, b := range c.Backups {
			info := newBackupInfo(b, walComplete(b.Header, c.WAL))
			info.Recoverable = newReaches(h.ledger, b.Label)
			r.Backups = append(r.Backups, info)
		}
		r.Strays = newStraysInfo(c.Strays)
		err = judgeBackups(rc.Name, c.Backups, r.Backups)
	}
	r.Status = newStatus(err)
	return r, err
}

// judgeBackups finds the worst that there is to say about the backups. They are
// in the same order in both lists.
func judgeBackups(repository string, backups []repo.BackupInfo, infos []backupInfo) error {
	var damage, missing error
	valid := false
	for i, b := range infos {
		valid = valid || b.valid()
		switch {
		case b.Status == statusDamaged && damage == nil:
			damage = fmt.Errorf("repository %q: backup %s: %w: %w", repository, b.Label, errDamagedManifest, backups[i].Err)
		case b.Status == statusWALMissing && missing == nil:
			missing = hint.Wrap(fmt.Errorf("repository %q: %w: %s needs %s to %s", repository, errBackupWithoutWAL, b.Label, b.Start.WAL, b.Stop.WAL),
				"the backup cannot be restored without them: look for the missing ones in the server's pg_wal and push them, and take a new backup.")
		}
	}
	if !valid {
		return fmt.Errorf("repository %q: %w", repository, errNoValidBackups)
	}
	return cmp.Or(damage, missing)
}

// walComplete tells whether the archive holds every segment from the start of
// a backup to the one with the last byte before its stop.
func walComplete(h repo.BackupHeader, ranges []repo.WALRange) bool {
	size := h.Identity.SegmentSize
	if !postgres.ValidSegmentSize(size) || h.Start.LSN == 0 || h.Stop.LSN <= h.Start.LSN {
		return false
	}
	first, last := h.Start.LSN.Segment(size), (h.Stop.LSN - 1).Segment(size)
	return slices.ContainsFunc(ranges, func(r repo.WALRange) bool {
		return r.Identity == h.Identity.Number && r.Timeline == h.Timeline && r.First <= first && last <= r.Last
	})
}

func newStatus(err error) statusInfo {
	code := generalCode(err)
	switch {
	case err == nil:
		return statusInfo{code, "ok"}
	case errors.Is(err, errNoValidBackups):
		return statusInfo{code, errNoValidBackups.Error()}
	case errors.Is(err, errDamagedManifest):
		return statusInfo{code, "error (" + errDamagedManifest.Error() + ")"}
	case errors.Is(err, errBackupWithoutWAL):
		return statusInfo{code, "error (" + errBackupWithoutWAL.Error() + ")"}
	case errors.Is(err, repo.ErrUnknownStanza):
		return statusInfo{code, "missing stanza"}
	}
	return statusInfo{code, "error (" + oneLine(err.Error()) + ")"}
}

func firstNotOK(repositories []repositoryInfo) statusInfo {
	for _, r := range repositories {
		if r.Status.Code != exitOK {
			return r.Status
		}
	}
	return newStatus(nil)
}

func newIdentityInfo(id repo.Identity, ranges []repo.WALRange, l archive.IdentityLedger) identityInfo {
	info := identityInfo{Number: id.Number, SystemID: strconv.FormatUint(id.SystemID, 10), Major: id.Major,
		SegmentSize: id.SegmentSize, WAL: []walInfo{}, ledgerInfo: newLedgerInfo(l)}
	for _, w := range ranges {
		if w.Identity != id.Number {
			continue
		}
		name := func(segment uint64) string {
			return postgres.WALFile{Kind: postgres.WALSegment, Timeline: w.Timeline, Segment: segment}.Name(id.SegmentSize)
		}
		info.WAL = append(info.WAL, walInfo{uint32(w.Timeline), name(w.First), name(w.Last), w.Count()})
	}
	return info
}

// The statuses of a backup.
const (
	statusOK         = "ok"
	statusPageErrors = "page errors"
	statusWALMissing = "WAL missing"
	statusDamaged    = "damaged"
	statusExpired    = "expired"
)

func newBackupInfo(b repo.BackupInfo, walComplete bool) backupInfo {
	info := backupInfo{Label: b.Label, Status: statusOK}
	if b.Err != nil {
		info.Status, info.Error = statusDamaged, oneLine(b.Err.Error())
		return info
	}
	info.WALComplete = walComplete
	h := b.Header
	info.Type, info.Parent, info.Identity, info.Timeline = h.Type, h.Parent, h.Identity.Number, uint32(h.Timeline)
	info.Start, info.Stop, info.Seconds = &h.Start, &h.Stop, h.Stop.Time.Sub(h.Start.Time).Seconds()
	info.Source = h.Source
	info.DatabaseSize, info.StoredSize, info.AddedSize, info.Files = h.DatabaseSize, h.ReferencedSize, h.AddedSize, h.Files
	info.Ways, info.WayReason = h.Ways, h.WayReason
	info.PageErrorCount, info.PageErrors = h.PageErrorCount, h.PageErrors
	info.Tablespaces, info.Databases, info.Annotations, info.Version = h.Tablespaces, h.Databases, h.Annotations, h.Version
	switch {
	case b.Tombed:
		info.Status = statusExpired
	case !walComplete:
		info.Status = statusWALMissing
	case h.PageErrorCount > 0:
		info.Status = statusPageErrors
	}
	return info
}

// valid tells whether a restore can use the backup. One with page errors can
// be used: the rest of the cluster may be all that is needed.
func (b backupInfo) valid() bool { return b.Status == statusOK || b.Status == statusPageErrors }

// infoText is info for people, laid out as pgBackRest's.
func infoText(stanzas []stanzaInfo, detail bool) string {
	var b strings.Builder
	for i, s := range stanzas {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "stanza: %s\n    status: %s\n", s.Name, s.Status.Text)
		for _, r := range s.Repositories {
			r.writeText(&b, detail)
		}
	}
	return b.String()
}

func (r repositoryInfo) writeText(b *strings.Builder, detail bool) {
	fmt.Fprintf(b, "\n    repository: %s (%s)\n        status: %s\n", r.Name, r.URL, r.Status.Text)
	if r.Encryption != "" {
		fmt.Fprintf(b, "        encryption: %s\n", r.Encryption)
	}
	for _, id := range r.Identities {
		fmt.Fprintf(b, "\n        cluster: PostgreSQL %d, system identifier %s (identity %d)\n", id.Major, id.SystemID, id.Number)
		id.writeWAL(b, infoLines)
		for _, backup := range r.Backups {
			if backup.Identity == id.Number {
				backup.writeText(b, detail)
			}
		}
	}
	r.Strays.writeText(b, infoLines)
	for _, backup := range r.Backups {
		if backup.Status == statusDamaged {
			fmt.Fprintf(b, "\n        backup: %s\n            status: damaged (%s)\n", backup.Label, backup.Error)
		}
	}
}

// writeWAL shows a run of segments per line, so that a gap is between two lines. Above
// the limit, if it is not 0, it shows the newest and counts the rest.
func (id identityInfo) writeWAL(b *strings.Builder, limit int) {
	if len(id.WAL) == 0 {
		fmt.Fprintf(b, "            wal archive: none\n")
	}
	older := 0
	if limit > 0 {
		older = max(0, len(id.WAL)-limit)
	}
	if older > 0 {
		segments := uint64(0)
		for _, w := range id.WAL[:older] {
			segments += w.Segments
		}
		fmt.Fprintf(b, "            wal archive: %d older runs of %d segments, from %s: 'pgbak ledger' shows them\n", older, segments, id.WAL[0].First)
	}
	for i, w := range id.WAL[older:] {
		gap := ""
		if i += older; i > 0 && id.WAL[i-1].Timeline == w.Timeline {
			gap = ", after a gap"
		}
		fmt.Fprintf(b, "            wal archive min/max (timeline %d): %s/%s (%d segments%s)\n", w.Timeline, w.First, w.Last, w.Segments, gap)
	}
	id.ledgerInfo.writeText(b, limit)
}

func (i backupInfo) writeText(b *strings.Builder, detail bool) {
	fmt.Fprintf(b, "\n        %s backup: %s\n", i.Type, i.Label)
	if i.Status != statusOK {
		fmt.Fprintf(b, "            status: %s\n", i.Status)
	}
	fmt.Fprintf(b, "            timestamp start/stop: %s / %s\n", timeText(i.Start.Time), timeText(i.Stop.Time))
	fmt.Fprintf(b, "            lsn start/stop: %s / %s (timeline %d)\n", i.Start.LSN, i.Stop.LSN, i.Timeline)
	fmt.Fprintf(b, "            wal start/stop: %s / %s\n", i.Start.WAL, i.Stop.WAL)
	fmt.Fprintf(b, "            database size: %s, stored size: %s (added: %s), duration: %s\n",
		sizeText(i.DatabaseSize), sizeText(i.StoredSize), sizeText(i.AddedSize), durationText(seconds(i.Seconds)))
	for _, r := range i.Recoverable {
		fmt.Fprintf(b, "            recoverable: %s\n", r.text())
	}
	if i.Source != "" && i.Source != string(backup.FromLocal) {
		fmt.Fprintf(b, "            source: %s\n", i.Source)
	}
	if i.PageErrorCount > 0 {
		fmt.Fprintf(b, "            page errors: %d\n", i.PageErrorCount)
	}
	if detail {
		i.writeDetail(b)
	}
}

// wayLines tell in a few words by which ways changes were found.
func (i backupInfo) wayLines() []string {
	var lines []string
	for _, w := range i.Ways {
		lines = append(lines, fmt.Sprintf("%s: %s in %d files, %s read", w.Way, sizeText(w.Bytes), w.Files, sizeText(w.Read)))
	}
	if i.WayReason != "" {
		lines = append(lines, "no better way: "+i.WayReason)
	}
	return lines
}

func (i backupInfo) writeDetail(b *strings.Builder) {
	if i.Parent != "" {
		fmt.Fprintf(b, "            parent: %s\n", i.Parent)
	}
	for _, line := range i.wayLines() {
		fmt.Fprintf(b, "            changes: %s\n", line)
	}
	fmt.Fprintf(b, "            files: %d\n            pgbak version: %s\n", i.Files, i.Version)
	for _, d := range i.Databases {
		fmt.Fprintf(b, "            database: %s (%d)\n", d.Name, d.OID)
	}
	for _, t := range i.Tablespaces {
		location := t.Location
		if t.InPlace {
			location = "in place"
		}
		fmt.Fprintf(b, "            tablespace: %s (%d) => %s\n", t.Name, t.OID, location)
	}
	for _, e := range i.PageErrors {
		more := ""
		if e.Truncated {
			more = " and more"
		}
		fmt.Fprintf(b, "            page errors in %s: blocks %s%s\n", e.Path, strings.Trim(fmt.Sprint(e.Blocks), "[]"), more)
	}
	for _, name := range sortedKeys(i.Annotations) {
		fmt.Fprintf(b, "            annotation: %s: %s\n", name, i.Annotations[name])
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
