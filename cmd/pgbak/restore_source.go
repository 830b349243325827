package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/restore"
)

// restoreSource is the repository that a restore is from.
type restoreSource struct {
	opened
	plan *restore.Plan
	// alone says that another repository could not answer, so that recovery must
	// not ask it: at the end of WAL it would stop there and not end.
	alone bool
}

// chooseRepository asks the selected repositories in order, each opened when its
// turn comes, and takes the first one from which the target can be reached. Why
// others before it were passed over is a warning; if none is left, the reasons
// of all are the error.
func (a *app) chooseRepository(ctx context.Context, sel selection, o restore.Options) (restoreSource, error) {
	var passed []error
	for _, rc := range sel.repositories {
		var plan *restore.Plan
		source, err := a.openStanza(ctx, rc, sel.stanza.Name, toRead)
		if err == nil {
			o.Stanza = source.stanza
			if plan, err = restore.MakePlan(ctx, o); err != nil {
				err = fmt.Errorf("repository %q: %w", rc.Name, err)
			}
		}
		// Unfit directories are unfit whatever the repository; the target can be reached.
		if err == nil || ctx.Err() != nil || errors.Is(err, restore.ErrDirectory) {
			alone := false
			for _, p := range passed {
				a.log.Warn("a repository was passed over", "reason", oneLine(p.Error()))
				alone = alone || generalCode(p) != exitRestoreRefused
			}
			return restoreSource{source, plan, alone}, err
		}
		passed = append(passed, err)
	}
	return restoreSource{}, noSource(passed)
}

// noneLeads is the error when no repository leads to the target: it tells all
// reasons and is, for the exit code and the hint, the most useful of them.
type noneLeads struct {
	text string
	best error
}

func (e *noneLeads) Error() string { return e.text }
func (e *noneLeads) Unwrap() error { return e.best }

// noSource joins the reasons why no repository can be used.
func noSource(reasons []error) error {
	if len(reasons) == 1 {
		return reasons[0]
	}
	var texts []string
	for _, r := range reasons {
		texts = append(texts, r.Error())
	}
	return &noneLeads{strings.Join(texts, "; "), slices.MinFunc(reasons, func(a, b error) int { return usefulness(a) - usefulness(b) })}
}

// usefulness orders reasons: first what keeps a repository from answering and
// may be mended, then what one that answered has said, then what keeps
// a repository from being one.
func usefulness(err error) int {
	order := []int{exitStorage, exitDamaged, exitRestoreRefused}
	if i := slices.Index(order, generalCode(err)); i >= 0 {
		return i
	}
	return len(order)
}
