package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Target is a repository that WAL goes to or comes from: its configured name,
// for messages, and the stanza in it.
type Target struct {
	Name   string
	Stanza *repo.Stanza
}

// Pusher puts WAL files into every one of its repositories.
type Pusher struct {
	targets []Target
}

// NewPusher returns a Pusher to targets, of which there must be at least one.
func NewPusher(targets ...Target) (*Pusher, error) {
	if len(targets) == 0 {
		return nil, errors.New("no repository to push WAL to")
	}
	return &Pusher{targets: targets}, nil
}

// Result says what became of a pushed file.
type Result struct {
	// File is the name of the WAL file.
	File string
	// Stored has an entry for every repository that holds the file now.
	Stored []Stored
	// Warnings are sentences for the server's log.
	Warnings []string
}

// Stored is the outcome of one repository; sizes in bytes.
type Stored struct {
	Repository string
	Outcome    repo.WALOutcome
	RawSize    int64
	StoredSize int64
}

// Push stores the file at path, which has the name of a WAL file, in every
// repository, and returns without error only when it is durable in all of
// them. A fault of one does not keep it from the others: the error names
// each that failed, and the result tells what was stored all the same.
//
// Errors wrap ErrRefused (the file does not belong here), repo.ErrWALConflict
// (another content is there under its name), or what the repository said.
func (p *Pusher) Push(ctx context.Context, path string) (Result, error) {
	result := Result{File: filepath.Base(path)}
	file, err := look(path)
	if err != nil {
		return result, err
	}
	var failed []error
	for _, t := range p.targets {
		put, err := push(ctx, t, file)
		if err != nil {
			failed = append(failed, fmt.Errorf("push %s to repository %s: %w", result.File, t.Name, err))
			continue
		}
		result.Stored = append(result.Stored, Stored{t.Name, put.Outcome, put.RawSize, put.StoredSize})
		if put.Outcome == repo.WALAlreadyThere {
			result.Warnings = append(result.Warnings,
				fmt.Sprintf("%s was in repository %s already, with the same content", result.File, t.Name))
		}
	}
	return result, errors.Join(failed...)
}

func push(ctx context.Context, t Target, file *walFile) (repo.WALPut, error) {
	id := t.Stanza.Current()
	f, err := postgres.ParseWALFile(filepath.Base(file.path), id.SegmentSize)
	if err != nil {
		return repo.WALPut{}, &refused{text: fmt.Sprintf("%s has not the name of a WAL file", file.path), cause: err}
	}
	if err := file.check(t.Stanza, f); err != nil {
		return repo.WALPut{}, err
	}
	return t.Stanza.PutWAL(ctx, id, f, file)
}
