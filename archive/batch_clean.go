package archive

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// leftOver is the age from which a temporary file is of nobody any more.
const leftOver = time.Hour

// clean removes acknowledgements of files that PostgreSQL has done with, and what
// a run that was killed has left. Other files in the directory are not its own.
func (r *pushRun) clean(ready []string) {
	waiting := make(map[string]bool, len(ready))
	for _, name := range ready {
		waiting[name] = true
	}
	dir := r.spool.part(spoolPush)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if r.spoolErr == nil {
			r.spoolErr = err
		}
		return
	}
	for _, e := range entries {
		_, isWAL := walKind(e.Name())
		if isWAL && !waiting[e.Name()] || strings.HasPrefix(e.Name(), temporaryMark) && r.isLeftOver(e) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next run tries again
		}
	}
}

func (r *pushRun) isLeftOver(e os.DirEntry) bool {
	info, err := e.Info()
	return err == nil && r.clock().Sub(info.ModTime()) > leftOver
}

// warnOnce says why a file that nobody asked for is not in a repository: for a
// repository that fails, or a history that conflicts, once, for a file that is refused each time.
func (r *pushRun) warnOnce(file string, f Failed) {
	once, what := !isOfFile(f.Err), f.Repository
	if c, ok := errors.AsType[*repo.WALConflictError](f.Err); ok && c.File != file {
		once, what = true, f.Repository+"/"+c.File // of all that needs this history
	}
	if once && slices.Contains(r.warned, what) {
		return
	}
	if once {
		r.warned = append(r.warned, what)
	}
	r.pusher.Log.Warn("a file that is ready could not be archived ahead", "file", file, "error", f.Err.Error())
}

// disown removes the acknowledgements by repositories that this run found to be
// others than they were: made anew, or upgraded to another cluster. The calls
// that believe an acknowledgement open no repository, and could not see it.
func (r *pushRun) disown() {
	ready, err := filesReady(r.wal)
	if err != nil {
		return
	}
	for _, name := range ready {
		a, err := r.spool.readAcknowledgement(name)
		if err != nil {
			continue
		}
		for _, t := range r.targets {
			open, isOpen := t.holder()
			if isOpen && slices.ContainsFunc(a.Holders, func(h holder) bool { return h.Place == t.key && !h.same(open) }) {
				r.spoolFailed(os.Remove(r.spool.acknowledgementPath(name)))
				break
			}
		}
	}
}
