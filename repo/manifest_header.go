package repo

import (
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// BackupHeader is the first block of a manifest, as JSON: what info shows and
// what restore decides by. Unknown fields are ignored by readers.
type BackupHeader struct {
	Label     Label             `json:"label"`
	Type      BackupType        `json:"type"`
	Parent    Label             `json:"parent,omitempty"` // whose frames it may share; not needed to restore
	Operation string            `json:"operation"`
	Stanza    string            `json:"stanza"`
	Identity  Identity          `json:"identity"`
	Timeline  postgres.Timeline `json:"timeline"`
	Start     BackupPoint       `json:"start"`
	Stop      BackupPoint       `json:"stop"`
	PageSize  int               `json:"page-size"` // bytes
	// Features name what a reader of this backup must know; version 1 has none.
	Features []string `json:"features,omitempty"`

	// Source is where the files were read: local, standby or stream. It is empty
	// in backups of before there was a choice.
	Source string `json:"source,omitempty"`
	// Ways tell how it was found out what has changed; WayReason why not by a
	// better way. For people.
	Ways      []WayUse `json:"ways,omitempty"`
	WayReason string   `json:"way-reason,omitempty"`

	Checksums bool `json:"data-checksums"`

	DatabaseSize   int64 `json:"database-size"`   // bytes of all files
	AddedSize      int64 `json:"added-size"`      // bytes that this backup added to the repository, its manifest apart
	ReferencedSize int64 `json:"referenced-size"` // stored bytes that a restore of it reads, metadata apart
	Files          int64 `json:"files"`

	PageErrorCount int64        `json:"page-error-count"`
	PageErrors     []PageError  `json:"page-errors,omitempty"`
	Tablespaces    []Tablespace `json:"tablespaces,omitempty"`
	Databases      []Database   `json:"databases,omitempty"`
	// Owners are "user:group" names; file entries refer to them by number.
	Owners      []string          `json:"owners,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Version     string            `json:"pgbak-version"`
	// WrappedKeys are the data keys of every operation whose frames the backup
	// uses, wrapped for the repository's recipient; empty in a plain repository.
	WrappedKeys map[string][]byte `json:"wrapped-keys,omitempty"`
}

// BackupPoint is the beginning or the end of a backup.
type BackupPoint struct {
	Time time.Time    `json:"time"` // the server's clock
	LSN  postgres.LSN `json:"lsn"`
	WAL  string       `json:"wal"` // name of the segment that holds LSN (at the end: the byte before it)
}

// WayUse is one way of finding what has changed, and for what it was used.
type WayUse struct {
	Way   string `json:"way"`   // full, server-summaries, archive-summaries, page-hashes, times
	Files int64  `json:"files"` // for which it was used
	Bytes int64  `json:"bytes"` // of these files
	Read  int64  `json:"read"`  // of these bytes, those that were read
}

// PageError is pages of one file whose checksum failed twice.
type PageError struct {
	Path   string   `json:"path"`
	Blocks []uint32 `json:"blocks"` // block numbers in the relation
	// Truncated tells that there are more than are listed.
	Truncated bool `json:"truncated,omitempty"`
}

// Tablespace is one that is not pg_default or pg_global.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name"`
	Location string `json:"location"` // absolute; empty when in place
	InPlace  bool   `json:"in-place,omitempty"`
}

// Database is a database of the cluster at the time of the backup.
type Database struct {
	OID  uint32 `json:"oid"`
	Name string `json:"name"`
}
