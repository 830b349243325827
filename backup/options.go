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
	// From is where the files come from: FromLocal when empty.
	From       From
	PGData     string // the data directory as this host sees it; not used for FromStream
	Connection string // a libpq connection string
	// Primary is a libpq connection string that leads to the primary; for
	// FromStandby and FromPreferStandby only.
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
	Exclude []string
	// MaxRate bounds how many bytes per second are read from the data
	// directory, by all workers together, or sent by the server; 0 is no bound.
	MaxRate  int64
	Version  string // of pgbak, for the manifest
	Log      *slog.Logger
	Clock    func() time.Time
	Progress func(Progress) // called from one goroutine, often; may be nil
}

// From tells where the files of a backup come from.
type From string

const (
	// FromLocal is the data directory of a primary, read on this host.
	FromLocal From = "local"
	// FromStandby is that of a standby on this host; start and end of the backup
	// are coordinated with its primary.
	FromStandby From = "standby"
	// FromPreferStandby is the server on this host, whatever it is now: a
	// standby as FromStandby, a primary as FromLocal.
	FromPreferStandby From = "prefer-standby"
	// FromStream is a server that sends its files over the replication protocol.
	FromStream From = "stream"
)

func (o Options) withDefaults() Options {
	if o.Type == "" {
		o.Type = repo.Full
	}
	if o.From == "" {
		o.From = FromLocal
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
	// Total estimates the bytes of the whole cluster; 0 as long as that is not
	// known. Bytes may end at more or less.
	Total int64
}

// Result is what became of a run.
type Result struct {
	Backups  []RepositoryResult // in the order of Options.Repositories
	Duration time.Duration
	Timings  Timings
	Warnings []string
}

// Timings are parts of a run's duration.
type Timings struct {
	Waiting    time.Duration // for the server: to start, to stop, to archive WAL
	Copying    time.Duration
	Committing time.Duration // WAL read back, the last uploads, the manifest
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
