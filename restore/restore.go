package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// Result is what a restore did. Its JSON form is a contract.
type Result struct {
	Plan     *Plan         `json:"plan"`
	Files    int64         `json:"files"`
	Bytes    int64         `json:"bytes"` // of the files' content
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"-"`
	Seconds  float64       `json:"seconds"`
	Warnings []string      `json:"warnings,omitempty"` // those of the plan and later ones
}

// run is a restore under way.
type run struct {
	o      Options
	plan   *Plan
	backup *repo.Backup
	owners *owners
	places []*openPlace // the data directory first
	dirs   []madeDir
	syncs  syncer

	mu         sync.Mutex
	unfinished map[*outFile]struct{}
	sums       map[string]uint32 // CRC-32C of files of which the backup recorded none
	done       Progress
}

// Run restores: it plans, writes, configures recovery and, last, puts
// pg_control in place. A refusal (ErrUnreachable, ErrDirectory) has written
// nothing; a later error is an ErrIncomplete and leaves a directory on which
// no server starts.
func Run(ctx context.Context, o Options) (Result, error) {
	plan, err := MakePlan(ctx, o)
	if err != nil {
		return Result{}, err
	}
	return Execute(ctx, o, plan)
}

// Execute is the part of Run that writes, for who has made the plan already, to
// choose a repository by it. The options are those of the plan; what may differ
// is RestoreCommand, which MakePlan does not need.
func Execute(ctx context.Context, o Options, plan *Plan) (Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Result{}, err
	}
	r := &run{o: o, plan: plan, unfinished: map[*outFile]struct{}{}, sums: map[string]uint32{}}
	r.syncs.run = r
	r.done.FilesTotal, r.done.BytesTotal = plan.Files, plan.Bytes
	start := o.Clock()
	if r.owners, err = newOwners(plan.TargetDir); err != nil {
		return Result{}, err
	}
	if r.backup, err = o.Stanza.OpenBackup(ctx, plan.Backup.Label); err != nil {
		return Result{}, fmt.Errorf("open backup %s: %w", plan.Backup.Label, err)
	}
	defer r.closePlaces()
	if err := r.steps(ctx); err != nil {
		return Result{}, err
	}
	return r.result(start), nil
}

// steps are what a restore does, in order. The order of the last three is the
// law: settings before durability, durability before pg_control.
func (r *run) steps(ctx context.Context) error {
	if err := r.claim(); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"writing files", r.writeFiles},
		{"making links", func(context.Context) error { return r.makeLinks() }},
		{"writing received WAL", r.writeReceived},
		{"writing the recovery settings", func(context.Context) error { return r.configure() }},
		{"writing backup_manifest", r.writeManifest},
		{"setting modes and owners of directories", func(context.Context) error { return r.finishDirs() }},
		{"making it durable", r.settle},
		{"putting pg_control in place", func(context.Context) error { return r.putControl() }},
	} {
		r.o.Log.Debug("restore", "step", step.name, "backup", r.plan.Backup.Label, "target-dir", r.plan.TargetDir)
		err := ctx.Err()
		if err == nil {
			err = step.do(ctx)
		}
		if err != nil {
			return r.incomplete(step.name, err)
		}
	}
	return nil
}

// incomplete says what an error left behind.
func (r *run) incomplete(step string, err error) error {
	advice := fmt.Sprintf("%s holds a part of the cluster, without global/pg_control, and no server starts on it; remove what was written before the next attempt.",
		r.plan.TargetDir)
	if more := hint.Of(err); more != "" {
		advice = more + " " + advice
	} else if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		advice = "the disk, or the quota, that it is written to is full. " + advice
	}
	return hint.Wrap(fmt.Errorf("%w: backup %s to %s failed while %s: %w", ErrIncomplete, r.plan.Backup.Label, r.plan.TargetDir, step, err), "%s", advice)
}

func (r *run) result(start time.Time) Result {
	res := Result{Plan: r.plan, Files: r.done.Files, Bytes: r.done.Bytes, Start: start.UTC(), Duration: r.o.Clock().Sub(start)}
	res.Seconds = res.Duration.Seconds()
	res.Warnings = append(res.Warnings, r.plan.Warnings...)
	if w := r.owners.warning(); w != "" {
		res.Warnings = append(res.Warnings, w)
	}
	for _, w := range res.Warnings {
		r.o.Log.Warn(w)
	}
	return res
}

// String describes the result for people.
func (r Result) String() string {
	var b strings.Builder
	p := r.Plan
	fmt.Fprintf(&b, "restored backup %s to %s: %d files, %s in %.1f s\n", p.Backup.Label, p.TargetDir, r.Files, size(r.Bytes), r.Seconds)
	fmt.Fprintf(&b, "start PostgreSQL %d on it: recovery goes to %s\n", p.Backup.Identity.Major, p.describeTarget())
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}
