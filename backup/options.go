package backup

import (
	"log/slog"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// Repository is one place that the backup goes to.
type Repository struct {
	Name   string // what errors, warnings and the log call it
	Stanza *repo.Stanza
}

// Options say what to back up and how. Repositories, PGData, Connection and Clock are required.
type Options struct {
	// Repositories are at least one. The cluster is read once for all of them.
	Repositories []Repository
	PGData       string // the data directory as this host sees it
	Connection   string // a libpq connection string
	// From is where the files are read; FromLocal when empty.
	From From
	// Primary is a libpq connection string that leads to the primary, for a
	// Connection that may lead to a standby. The other ways do not use it.
	Primary   string
	Type      repo.BackupType
	Processes int // workers; 1 when 0
	// StartFast asks for an immediate checkpoint instead of a spread one.
	StartFast bool
	// ArchiveTimeout bounds each wait for a WAL segment to reach the repository.
	ArchiveTimeout time.Duration
	Annotations    map[string]string
	// Exclude are paths relative to the data directory that are left out; with
	// a slash at the end only what is in the directory.
	Exclude  []string
	Version  string // of pgbak, for the manifest
	Log      *slog.Logger
	Clock    func() time.Time
	Progress func(Progress) // called from one goroutine, often; may be nil
}

// From tells what server the files of a backup belong to.
type From string

const (
	// FromLocal is a primary on this host.
	FromLocal From = "local"
	// FromStandby is a standby on this host; start and end of the backup are
	// coordinated with its primary.
	FromStandby From = "standby"
	// FromPreferStandby is the server on this host, whatever it is now: a
	// standby as FromStandby, a primary as FromLocal.
	FromPreferStandby From = "prefer-standby"
)

func (o Options) withDefaults() Options {
	if o.From == "" {
		o.From = FromLocal
	}
	if o.Type == "" {
		o.Type = repo.Full
	}
	o.Processes = max(o.Processes, 1)
	if o.ArchiveTimeout == 0 {
		o.ArchiveTimeout = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

// Progress is how far the copy has come.
type Progress struct {
	Files  int64
	Bytes  int64 // plain bytes read
	Stored int64 // bytes put into the first repository that has not failed
}

// Result is what became of a run.
type Result struct {
	Backups  []RepositoryResult // in the order of Options.Repositories
	Duration time.Duration
	Warnings []string
}

// RepositoryResult is what became of the backup in one repository.
type RepositoryResult struct {
	Name        string
	Header      repo.BackupHeader
	ReusedBytes int64 // plain bytes that the repository already held
	// Err tells why there is no backup in this repository; the other fields
	// but Name are then empty.
	Err error
}
