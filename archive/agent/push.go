package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
)

// push has the file of a request pushed, or waits for the push of it that runs.
func (v *serving) push(r Request, file *os.File) *answer {
	start := v.Clock()
	result, err := v.pushFile(r, file)
	v.Metrics.pushed(r.Stanza, v.Clock().Sub(start), err, v.Code)
	if err != nil {
		v.Log.Error("push failed", "stanza", r.Stanza, "file", filepath.Base(r.Path), "error", err)
		a := v.failure(err)
		a.setPushed(result)
		return a
	}
	a := &answer{}
	a.setPushed(result)
	return a
}

func (v *serving) pushFile(r Request, file *os.File) (archive.Result, error) {
	pgdata, path, info, err := v.find(r, file)
	if err != nil {
		return archive.Result{}, err
	}
	key := pushKey{stanza: r.Stanza, repositories: strings.Join(r.Repositories, "\n"), path: path, size: info.Size()}
	if st, isUnix := info.Sys().(*syscall.Stat_t); isUnix {
		key.device, key.inode, key.modified = uint64(st.Dev), st.Ino, info.ModTime().UnixNano()
	}
	return v.pushes.do(key, func() (archive.Result, error) {
		release, err := v.turn(v.work, opPush)
		if err != nil {
			return archive.Result{}, err
		}
		defer release()
		return v.Service.Push(v.work, r, pgdata, path)
	})
}

// find locates the file to push: under the path that the server gave, or, where
// nothing is seen there, in the data directory that the configuration says. A file
// that the client has open must be the one that was found: in containers the same
// path can lead to different volumes.
func (v *serving) find(r Request, opened *os.File) (pgdata, path string, info fs.FileInfo, err error) {
	var is fs.FileInfo // what the client has open
	if opened != nil {
		if is, err = opened.Stat(); err != nil {
			return "", "", nil, fmt.Errorf("look at the file to push: %w", err)
		}
	}
	pgdata, path, info, err = locate(r.Directory, r.Path)
	if err == nil && is != nil && !os.SameFile(is, info) {
		err = hint.Wrap(fmt.Errorf("push %s: the agent sees another file there than the server", path),
			"let the agent see the data directory under the server's path, or set the stanza's pgdata to where it sees it.")
	}
	if err == nil || is == nil || !is.Mode().IsRegular() {
		return pgdata, path, info, err
	}
	configured := v.Service.DataDirectory(r.Stanza)
	if configured == "" {
		return pgdata, path, info, err
	}
	elsewhere, at, found, failed := locate("", filepath.Join(configured, "pg_wal", filepath.Base(r.Path)))
	if failed != nil || !os.SameFile(is, found) {
		return pgdata, path, info, err
	}
	return elsewhere, at, found, nil
}

// locate finds the file to push and the data directory that it belongs to. The
// file must lie directly in pg_wal, as those that the server wants archived do. That
// the data directory is the stanza's is for the push to prove, by the file's header
// or by the control file.
func locate(directory, path string) (pgdata, absolute string, info fs.FileInfo, err error) {
	if !filepath.IsAbs(path) {
		if !filepath.IsAbs(directory) {
			return "", "", nil, fmt.Errorf("push %s: its directory is not said", path)
		}
		path = filepath.Join(directory, path)
	}
	absolute = filepath.Clean(path)
	wal := filepath.Dir(absolute)
	pgdata = filepath.Dir(wal)
	refuse := func(text string, args ...any) error {
		return hint.Wrap(fmt.Errorf("%w: %s %s", archive.ErrRefused, absolute, fmt.Sprintf(text, args...)),
			"the agent pushes from a server's own pg_wal; push other files with a configuration without agent.socket.")
	}
	if filepath.Base(wal) != "pg_wal" {
		return "", "", nil, refuse("is not in a directory pg_wal")
	}
	if _, err := os.Stat(filepath.Join(pgdata, "global", "pg_control")); err != nil {
		return "", "", nil, refuse("is not in the pg_wal of a data directory: %v", err)
	}
	info, err = os.Lstat(absolute)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil, hint.Wrap(fmt.Errorf("read WAL file: %w", err), "the agent must see the data directory under the same path as the server, or where the stanza's pgdata says.")
	}
	if err != nil {
		return "", "", nil, fmt.Errorf("read WAL file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", "", nil, refuse("is not a regular file")
	}
	return pgdata, absolute, info, nil
}

// pushKey is one file as it is now: another that takes its name is not joined.
type pushKey struct {
	stanza, repositories, path string
	size                       int64
	device, inode              uint64
	modified                   int64 // nanoseconds
}

// joined lets those who want the same wait for the one that does it. The zero
// value is ready.
type joined struct {
	mu      sync.Mutex
	running map[pushKey]*pushRun
}

type pushRun struct {
	done   chan struct{}
	result archive.Result
	err    error
}

// do runs push, or waits for the run of the same key that has not ended.
func (j *joined) do(key pushKey, push func() (archive.Result, error)) (archive.Result, error) {
	j.mu.Lock()
	if run := j.running[key]; run != nil {
		j.mu.Unlock()
		<-run.done
		return run.result, run.err
	}
	if j.running == nil {
		j.running = map[pushKey]*pushRun{}
	}
	run := &pushRun{done: make(chan struct{})}
	j.running[key] = run
	j.mu.Unlock()
	run.result, run.err = push()
	j.mu.Lock()
	delete(j.running, key)
	j.mu.Unlock()
	close(run.done)
	return run.result, run.err
}

// get has the file of a request written into the client's file.
func (v *serving) get(ctx context.Context, r Request, file *os.File) *answer {
	start := v.Clock()
	var got archive.Got
	err := writable(file)
	if err == nil {
		var release func()
		if release, err = v.turn(ctx, opGet); err == nil {
			got, err = v.Service.Get(ctx, r, file)
			release()
		}
	}
	v.Metrics.fetched(r.Stanza, got, file, v.Clock().Sub(start), err, v.Code)
	if err != nil {
		if !errors.Is(err, archive.ErrAbsent) {
			v.Log.Error("get failed", "stanza", r.Stanza, "file", r.Name, "error", err)
		}
		a := v.failure(err)
		a.Warnings = got.Warnings
		return a
	}
	return &answer{From: got.Repository, Warnings: got.Warnings}
}

// writable makes sure that the client passed a file which it may write itself.
func writable(file *os.File) error {
	if file == nil {
		return errors.New("no destination was passed along")
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("look at the destination: %w", err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("the destination is not a regular file")
	}
	return checkWriteMode(file)
}
