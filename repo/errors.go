package repo

import (
	"errors"
	"fmt"
)

// The refusals that callers tell apart. An absent object is reported by
// storage.ErrNotExist, not by one of these.
var (
	ErrNotInitialized   = errors.New("repository is not initialised")
	ErrNewerFormat      = errors.New("repository has a format that this version does not know")
	ErrWrongPassphrase  = errors.New("passphrase does not open the repository's keys")
	ErrEncrypted        = errors.New("repository is encrypted, but the configuration names no passphrase")
	ErrNotEncrypted     = errors.New("repository is not encrypted, but the configuration asks for encryption")
	ErrUnknownStanza    = errors.New("stanza does not exist in the repository")
	ErrIdentityMismatch = errors.New("cluster is not the one that the stanza belongs to")
	ErrWALConflict      = errors.New("already archived with different content")
	ErrDamaged          = errors.New("damaged")
	ErrLabelTaken       = errors.New("backup label is taken")
	ErrNoBackup         = errors.New("backup does not exist")
	ErrRevoked          = errors.New("backup was revoked by a collector while it ran")
	// ErrPinLeft comes from Commit when the backup exists all the same.
	ErrPinLeft = errors.New("the backup is complete, but its pin could not be removed")
)

// DamagedError says that an object's bytes are not what was written: torn,
// flipped, swapped or lost. It is an ErrDamaged.
type DamagedError struct {
	Key  string // the object
	What string // the part of it, or what was being read; may be empty
	Err  error  // how it was noticed
}

// Error names the object first: it is what an operator can act on.
func (e *DamagedError) Error() string {
	if e.What == "" {
		return fmt.Sprintf("object %s is damaged: %v", e.Key, e.Err)
	}
	return fmt.Sprintf("object %s is damaged (%s): %v", e.Key, e.What, e.Err)
}

// Unwrap gives how the damage was noticed.
func (e *DamagedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrDamaged) true.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

func damaged(key, what string, err error) error { return &DamagedError{Key: key, What: what, Err: err} }

func damagedf(key, what, format string, args ...any) error {
	return &DamagedError{Key: key, What: what, Err: fmt.Errorf(format, args...)}
}

// WALConflictError says that a WAL file was pushed under a name that other
// content has in the archive, which stays. It is an ErrWALConflict.
type WALConflictError struct {
	File     string // its name
	Object   string // what is archived under it
	Location string // of the repository
	// Archived and Pushed are the content ids of both.
	Archived, Pushed ContentID
	// ArchivedSize and PushedSize are the bytes of both.
	ArchivedSize, PushedSize int64
}

// Error names both sides.
func (e *WALConflictError) Error() string {
	return fmt.Sprintf("WAL file %s: %v: object %s in %s has %d bytes with content id %s, the file has %d bytes with %s",
		e.File, ErrWALConflict, e.Object, e.Location, e.ArchivedSize, e.Archived.short(), e.PushedSize, e.Pushed.short())
}

// Is makes errors.Is(err, ErrWALConflict) true.
func (e *WALConflictError) Is(target error) bool { return target == ErrWALConflict }
