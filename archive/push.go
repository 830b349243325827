package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// PushTarget is a repository that WAL goes to.
type PushTarget struct {
	Name string // as configured, for messages
	// Place tells this repository and stanza from any other that could be
	// configured under the same name: an acknowledgement is of one place.
	Place string
	// Compression is that of the repository that Open gives. Compressing begins
	// before the repository is open; what turns out to be another setting is
	// still stored as the repository wants it.
	Compression repo.Compression
	// Open opens the repository and the stanza in it; its errors name the
	// repository. It runs at the same time as those of the other targets.
	Open func(ctx context.Context) (*repo.Stanza, error)

	done func(pushed, error) // told what became of a file; nil is nobody
}

// Pusher puts WAL files into every one of its repositories.
type Pusher struct {
	// Processes is how many frames of a file are compressed at the same time; 0
	// is runtime.GOMAXPROCS.
	Processes int
	// Control gives the control file of the server that pushes, or nil if it is
	// not known. Files that are no segments do not say of which cluster they are;
	// without it they are taken from whoever pushes them. nil is not known.
	Control func() (*postgres.Control, error)
	// Log is told, for those who look for faults, why a segment has no summary.
	// [NewPusher] makes it one that keeps nothing.
	Log *slog.Logger
	// Host is the name of the server's host, for whoever reads of a conflict.
	Host string

	targets  []PushTarget
	ancestry ancestry
}

// NewPusher returns a Pusher to targets, of which there must be at least one.
func NewPusher(targets ...PushTarget) (*Pusher, error) {
	if len(targets) == 0 {
		return nil, errors.New("no repository to push WAL to")
	}
	return &Pusher{Log: slog.New(slog.DiscardHandler), targets: targets}, nil
}

// Result says what became of a pushed file.
type Result struct {
	// File is the name of the WAL file.
	File string
	// Stored has an entry for every repository that holds the file now, in the
	// order of the targets.
	Stored []Stored
	// Failed has an entry for every repository that does not, in the same order.
	Failed []Failed
	// Warnings are sentences for the server's log.
	Warnings []string
	// Acknowledged tells that nothing was asked of any repository: an earlier run
	// has left word that this content is in all of them.
	Acknowledged bool
	// Dropped tells that the file is NOT archived and never will be: it was given
	// up, as archive.queue-max wants it.
	Dropped bool
	// Kept tells that the file, which is no segment, is not in every repository
	// yet, but durable in the spool: it stood before segments of which more wait
	// than archive.queue-max allows.
	Kept bool
}

// Failed is a repository that a file could not be pushed to.
type Failed struct {
	Repository string
	Err        error
}

// Unasked tells that the repository did not fail: the file was pushed ahead, and it
// was not its turn there, or the repository is known to fail already.
func (f Failed) Unasked() bool { return errors.Is(f.Err, errNotAsked) }

// Stored is the outcome of one repository; sizes in bytes.
type Stored struct {
	Repository string
	Outcome    repo.WALOutcome
	RawSize    int64
	StoredSize int64
}

// Push stores the file at path, which has the name of a WAL file, in every
// repository, and returns without error only when it is durable in all of
// them. The file is read once, and compressed once for each distinct setting;
// the repositories are opened meanwhile, and served at the same time: one that
// fails or is slow neither keeps the file from the others nor delays it there.
// The error names each that failed, in the order of the targets, and the result
// tells what was stored all the same. With a segment is stored which blocks its
// WAL changed, if that can be found out by the segment and those beside it. A push that is tried again finds the file
// in those and stores only what is missing.
//
// Errors wrap ErrRefused (the file does not belong here), repo.ErrWALConflict
// (another content is there under its name), or what the repository said. With a
// history, or the first segment of a timeline, come the histories of all ancestors
// and the WAL before it that a dead primary has not archived. A partial segment
// whose name is taken is passed over where the next timeline's holds all of it.
func (p *Pusher) Push(ctx context.Context, path string) (Result, error) {
	o, err := p.pushTo(ctx, path, p.targets, nil)
	return o.Result, err
}

// outcome is a Result with what an acknowledgement needs besides.
type outcome struct {
	Result
	content contentSum // of what was pushed; the zero value is not known
	stamp   *fileStamp // of the file with that content; nil is not known
	holders []holder   // of Result.Stored
}

// pushTo is Push to some targets. In a batch, which has buffers, the outcome also
// tells what content it was.
func (p *Pusher) pushTo(ctx context.Context, path string, targets []PushTarget, batch *walBuffers) (outcome, error) {
	file, err := look(path)
	if err != nil {
		return outcome{Result: Result{File: filepath.Base(path)}}, err
	}
	defer file.Close()
	return p.pushFile(ctx, file, targets, batch)
}

// pushFile is pushTo of an open file.
func (p *Pusher) pushFile(ctx context.Context, file *walFile, targets []PushTarget, batch *walBuffers) (outcome, error) {
	o := outcome{Result: Result{File: filepath.Base(file.path)}}
	content := repo.NewWALContent(file)
	content.Compressors, content.MayBeThere = p.compressors(batch), file.known
	content.Buffer = batch.take(file.size)
	defer batch.give(content.Buffer)
	defer content.Close()
	file.summarize(content)
	for _, t := range targets {
		content.Compress(t.Compression)
	}
	sumLarge := func() contentSum { return contentSum{} }
	if batch.sums() {
		sumLarge = file.sumLarge()
	}
	puts, holders, errs := make([]pushed, len(targets)), make([]holder, len(targets)), make([]error, len(targets))
	var running sync.WaitGroup
	for i, t := range targets {
		running.Go(func() { puts[i], holders[i], errs[i] = p.push(ctx, t, file, content) })
	}
	if batch.sums() {
		o.content = file.sumHeld(content) // what cannot be summed is not acknowledged, and that is all
	}
	running.Wait()
	if o.content == (contentSum{}) {
		o.content = sumLarge()
	}
	p.logSummary(ctx, file, content)
	for i, t := range targets {
		o.Warnings = append(o.Warnings, puts[i].warnings...)
		if errs[i] != nil {
			o.Failed = append(o.Failed, Failed{t.Name, errs[i]})
			continue
		}
		if puts[i].needless {
			continue
		}
		o.holders = append(o.holders, holders[i])
		o.Stored = append(o.Stored, Stored{t.Name, puts[i].Outcome, puts[i].RawSize, puts[i].StoredSize})
		if puts[i].Outcome == repo.WALAlreadyThere {
			o.Warnings = append(o.Warnings,
				fmt.Sprintf("%s was in repository %s already, with the same content", o.File, t.Name))
		}
	}
	return o, errors.Join(errs...)
}

// compressors gives those of the batch, or new ones without one.
func (p *Pusher) compressors(batch *walBuffers) *repo.WALCompressors {
	if batch != nil {
		return batch.compressors
	}
	return repo.NewWALCompressors(p.Processes)
}

// pushed is the outcome of one repository, with sentences for the server's log.
type pushed struct {
	repo.WALPut
	needless bool // not stored, and not needed
	warnings []string
}

func (p *Pusher) push(ctx context.Context, t PushTarget, file *walFile, content *repo.WALContent) (done pushed, h holder, err error) {
	defer func() {
		if t.done != nil {
			t.done(done, err)
		}
	}()
	s, err := t.Open(ctx)
	if err != nil {
		return pushed{}, holder{}, err
	}
	done, err = p.pushInto(ctx, t.Name, s, file, content)
	if err != nil {
		err = fmt.Errorf("push %s to repository %s: %w", filepath.Base(file.path), t.Name, err)
	}
	return done, holderOf(t, s), err
}

func (p *Pusher) pushInto(ctx context.Context, target string, s *repo.Stanza, file *walFile, content *repo.WALContent) (pushed, error) {
	id := s.Current()
	f, err := postgres.ParseWALFile(filepath.Base(file.path), id.SegmentSize)
	if err != nil {
		return pushed{}, &refused{text: fmt.Sprintf("%s has not the name of a WAL file", file.path), cause: err}
	}
	var done pushed
	if err = file.check(s, f, content); err == nil {
		err = p.checkCluster(s, f, file)
	}
	if err == nil {
		done, err = p.putWithAncestry(ctx, target, s, f, file, content)
	}
	if done.MarkErr != nil {
		p.Log.Debug("the WAL before it could not be marked as complete", "file", filepath.Base(file.path), "cause", done.MarkErr)
	}
	if needless, settleErr := settle(ctx, s, f, file, content, err); needless != "" {
		done.needless, done.warnings = true, append(done.warnings, needless)
		return done, nil
	} else if settleErr != nil {
		p.Log.WarnContext(ctx, "it is not known whether the conflict means anything", "file", filepath.Base(file.path), "cause", settleErr)
	}
	return done, p.tellConflict(ctx, s, f, file, err)
}

// checkCluster compares the cluster that pushes a file without a header with the stanza's.
func (p *Pusher) checkCluster(s identified, f postgres.WALFile, file *walFile) error {
	if p.Control == nil || f.Kind != postgres.WALHistory && f.Kind != postgres.WALBackup {
		return nil
	}
	c, err := p.Control()
	if c == nil || err != nil {
		return err
	}
	return file.checkIdentity(s, c.SystemID, c.Major, c.WALSegmentSize)
}
