package restore

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// Options say what to restore, and where to. Stanza, TargetDir, RestoreCommand
// and Clock are required.
type Options struct {
	Stanza    *repo.Stanza
	TargetDir string     // made if absent, in a directory that exists; must be empty
	Target    Target     // zero: the end of the WAL
	Set       repo.Label // the backup; empty: the one that fits the target best
	Processes int        // files are written by so many workers; at least 1
	// TablespaceMap gives tablespaces, by OID or name, another directory than
	// the recorded one.
	TablespaceMap map[string]string
	// TablespaceMapAll puts every tablespace that TablespaceMap does not name
	// into a directory below it that is called by its OID.
	TablespaceMapAll string
	// LinkMap gives linked directories, by their path in the data directory,
	// another destination than the recorded one, or the same.
	LinkMap map[string]string
	// LinkAll lets root restore the linked directories that LinkMap does not
	// name to their recorded destinations, as other users do without it.
	LinkAll bool
	// ArchiveModeOff keeps the restored server from archiving.
	ArchiveModeOff bool
	// RestoreCommand is the restore_command that fetches the WAL of the backup's
	// identity from the repository, ready for PostgreSQL but for the
	// quoting of its value.
	RestoreCommand string
	// Received is the directory of an archive-receive, whose WAL is used where the
	// repository has not got it; nil: there is none.
	Received *received.Directory
	Log      *slog.Logger // nil: nothing is logged
	Clock    func() time.Time
	// Progress is called now and then while files are written, by one
	// goroutine at a time; nil: nobody wants to know.
	Progress func(Progress)
}

// Progress is how far the writing of files has come.
type Progress struct {
	Files, FilesTotal int64
	Bytes, BytesTotal int64 // of the files' content
}

func (o Options) withDefaults() (Options, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Target.Type == "" {
		o.Target.Type = TargetLatest
	}
	o.Processes = max(o.Processes, 1)
	var err error
	o.TargetDir, err = filepath.Abs(o.TargetDir)
	return o, err
}

// Plan is a restore that has been proven to be possible, before anything is
// written. Its JSON form is a contract.
type Plan struct {
	Stanza     string            `json:"stanza"`
	Repository string            `json:"repository"`
	TargetDir  string            `json:"target-dir"`
	Target     TargetPlan        `json:"target"`
	Backup     repo.BackupHeader `json:"backup"`
	// Why says why that backup, in a few words.
	Why string `json:"why"`
	// Passed are the backups that could not be chosen.
	Passed    []Passed       `json:"passed,omitempty"`
	Timelines []TimelineStep `json:"timelines"`
	WAL       WALPlan        `json:"wal"`
	// Received is the part of it that is not in the archive.
	Received  *ReceivedPlan `json:"received,omitempty"`
	Reachable Window        `json:"reachable"`
	// Stop is the record that ends recovery, for targets by time, transaction
	// and restore point.
	Stop        *StopPoint       `json:"stop,omitempty"`
	Tablespaces []TablespacePlan `json:"tablespaces,omitempty"`
	Links       []LinkPlan       `json:"links,omitempty"`
	Files       int64            `json:"files"`
	Bytes       int64            `json:"bytes"`        // of the files' content
	StoredBytes int64            `json:"stored-bytes"` // that have to be read for it
	Warnings    []string         `json:"warnings,omitempty"`
	Notes       []string         `json:"notes,omitempty"`

	destinations []destination
	tree         tree
}

// TargetPlan is the target as PostgreSQL will be told.
type TargetPlan struct {
	Type      TargetType `json:"type"`
	Value     string     `json:"value,omitempty"`
	Exclusive bool       `json:"exclusive,omitempty"`
	Timeline  string     `json:"timeline"` // recovery_target_timeline
	Action    string     `json:"action,omitempty"`
}

// TimelineStep is one timeline on the way, from its beginning to where the
// next leaves it; the last has no end.
type TimelineStep struct {
	Timeline postgres.Timeline `json:"timeline"`
	Begin    postgres.LSN      `json:"begin"`
	End      *postgres.LSN     `json:"end,omitempty"`
}

// WALPlan is the WAL that recovery reads. All of it is in the archive, or received.
type WALPlan struct {
	First string `json:"first"`
	Last  string `json:"last"`
	Files uint64 `json:"files"`
}

// StopPoint is where recovery will end.
type StopPoint struct {
	Kind string       `json:"kind"` // "commit", "abort" or "restore point"
	LSN  postgres.LSN `json:"lsn"`  // of the record's beginning
	Time time.Time    `json:"time"`
	XID  uint32       `json:"xid,omitempty"`
	Name string       `json:"name,omitempty"`
}

// MakePlan chooses the backup and proves that the target can be reached and
// that the directories are fit. It writes nothing. Refusals are ErrUnreachable,
// ErrDirectory or repo.ErrNoBackup and carry a hint.
func MakePlan(ctx context.Context, o Options) (*Plan, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("target directory: %w", err)
	}
	catalog, err := o.Stanza.Catalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue of stanza %s: %w", o.Stanza.Name(), err)
	}
	identity, err := pickIdentity(catalog, o.Set)
	if err != nil {
		return nil, err
	}
	var beyond *receivedWAL
	if o.Received != nil {
		if beyond, err = readReceived(ctx, o.Received, o.Stanza, catalog, identity); err != nil {
			return nil, err
		}
		catalog = beyond.added(catalog, identity)
	}
	q := request{target: o.Target, set: o.Set, catalog: catalog,
		wal: &archiveReader{stanza: o.Stanza, identity: identity, log: o.Log, received: beyond}}
	q.list = func(ctx context.Context, first, last postgres.WALFile) ([]repo.WALRange, error) {
		ranges, err := o.Stanza.ListedWALRanges(ctx, identity, first, last)
		return beyond.addedTo(ranges, identity), err
	}
	d, err := q.decideProven(ctx, identity)
	if err != nil {
		return nil, err
	}
	p := newPlan(o, d)
	if err := p.planReceived(ctx, beyond, &q, d); err != nil {
		return nil, err
	}
	backup, err := o.Stanza.OpenBackup(ctx, d.Label)
	if err != nil {
		return nil, fmt.Errorf("open backup %s: %w", d.Label, err)
	}
	if p.tree, err = survey(ctx, backup); err != nil {
		return nil, err
	}
	return p, p.place(o)
}

// newPlan puts the decision into the words of the plan.
func newPlan(o Options, d decision) *Plan {
	p := &Plan{Stanza: o.Stanza.Name(), Repository: o.Stanza.Repository().Store().Properties().Location,
		TargetDir: o.TargetDir, Backup: d.BackupHeader, Why: d.why, Passed: d.passed,
		Target: TargetPlan{Type: o.Target.Type, Value: o.Target.Value(), Exclusive: o.Target.Exclusive,
			Timeline: d.setting, Action: o.Target.action()},
		Timelines: timelineSteps(d.Timeline, d.reach.path.history),
		WAL: WALPlan{First: d.reach.path.name(d.reach.First), Last: d.reach.path.name(d.needed),
			Files: d.needed - d.reach.First + 1},
		Reachable: Window{From: Moment{LSN: d.Stop.LSN, Time: &d.Stop.Time}, To: Moment{LSN: d.reach.end()}},
		Warnings:  d.warnings, Notes: d.notes}
	p.Backup.WrappedKeys, p.Backup.Owners = nil, nil // of no use outside the repository
	if d.last != nil {
		p.Reachable.To.Time = &d.last.Time
	}
	if d.stop != nil {
		p.Stop = newStopPoint(*d.stop)
	}
	return p
}

func newStopPoint(e postgres.WALEvent) *StopPoint {
	kind := map[postgres.WALEventKind]string{postgres.WALCommit: "commit", postgres.WALAbort: "abort",
		postgres.WALRestorePoint: "restore point"}[e.Kind]
	return &StopPoint{Kind: kind, LSN: e.LSN, Time: e.Time, XID: e.XID, Name: e.Name}
}

// timelineSteps lists the timelines from the backup's own on.
func timelineSteps(from postgres.Timeline, h postgres.History) []TimelineStep {
	var steps []TimelineStep
	begin := postgres.LSN(0)
	for _, e := range h.Entries {
		if e.Timeline >= from {
			steps = append(steps, TimelineStep{Timeline: e.Timeline, Begin: begin, End: &e.Switch})
		}
		begin = e.Switch
	}
	return append(steps, TimelineStep{Timeline: h.Timeline, Begin: begin})
}

// tree is what a first reading of a backup's list of files tells. The reading
// also verifies the list to its end.
type tree struct {
	files, bytes int64
	links        []repo.File
	settings     bool // postgresql.conf is there
	ownFiles     repo.File
	private      bool // directories are not open to the group
}

// survey reads the list of files and refuses a backup that no server could
// recover from.
func survey(ctx context.Context, b *repo.Backup) (tree, error) {
	t := tree{private: true}
	need := map[string]bool{controlFile: true, labelFile: true, versionFile: true}
	for f, err := range b.Files(ctx) {
		if err != nil {
			return t, fmt.Errorf("list the files of backup %s: %w", b.Header().Label, err)
		}
		switch {
		case f.Type == repo.TypeLink:
			t.links = append(t.links, f)
		case f.Type == repo.TypeDir && f.Path == "global":
			t.private = f.Mode&0o070 == 0
		case f.Type == repo.TypeFile && !left(f.Path):
			t.files++
			t.bytes += f.Size
			delete(need, f.Path)
			t.settings = t.settings || f.Path == settingsFile
			if f.Path == versionFile {
				t.ownFiles = f
			}
		}
	}
	for _, path := range []string{versionFile, labelFile, controlFile} {
		if need[path] {
			return t, hint.Wrap(fmt.Errorf("backup %s has no file %s: no server can recover from it", b.Header().Label, path),
				"restore another backup with --set; 'pgbak info' lists them.")
		}
	}
	return t, nil
}

// Files that the restore knows by name.
const (
	controlFile     = "global/pg_control"
	labelFile       = "backup_label"
	versionFile     = "PG_VERSION"
	settingsFile    = "postgresql.conf"
	ownSettingsFile = "postgresql.auto.conf"
	signalFile      = "recovery.signal"
	manifestFile    = "backup_manifest"
)

// left tells which files of a backup are not restored: a server would obey
// them. tablespace_map would put the links of pg_tblspc back to the recorded
// locations; the signal files and the manifest are written anew.
func left(path string) bool {
	switch path {
	case "tablespace_map", signalFile, "standby.signal", manifestFile, "postmaster.pid", "postmaster.opts":
		return true
	}
	return false
}
