package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// walker meets the files of a cluster in the order of repo.ComparePaths.
type walker struct {
	root    string // PGDATA with links resolved
	version string // the only directory of a tablespace that is this cluster's: PG_15_202209061
	exclude excluder
	owners  owners
	warn    func(format string, args ...any)
	emit    func(item) error
	// tablespaces are those whose directory of this cluster was met, by OID.
	tablespaces map[string]bool
}

// item is a path that the walk met.
type item struct {
	file repo.File // Size as it was when the walk met it
	name string    // where it is on disk
	// parents are the same file in the parent of each repository; kept tells
	// that it is taken from there unread. Set by the copier.
	parents []*repo.ParentFile
	kept    bool
}

// walk walks the whole cluster.
func (w *walker) walk(ctx context.Context) error { return w.dir(ctx, "", w.root) }

// dir walks a directory: path in the backup, name on disk. One that vanishes
// meanwhile belonged to a database or tablespace that was dropped.
func (w *walker) dir(ctx context.Context, path, name string) error {
	entries, err := os.ReadDir(name)
	if errors.Is(err, fs.ErrNotExist) && path != "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	unlogged := unloggedNodes(path, entries)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		child := e.Name()
		if path != "" {
			child = path + "/" + e.Name()
		}
		if w.exclude.excluded(child, e.Name(), unlogged) || w.foreign(path, e.Name()) {
			continue
		}
		if err := w.entry(ctx, child, filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// foreign tells that an entry of a tablespace belongs to another cluster or
// major that shares the location.
func (w *walker) foreign(dir, name string) bool {
	tablespace, ok := strings.CutPrefix(dir, "pg_tblspc/")
	return ok && !strings.Contains(tablespace, "/") && name != w.version
}

func (w *walker) entry(ctx context.Context, path, name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := repo.CheckPath(path); err != nil {
		w.warn("%s is left out: %v", path, err)
		return nil
	}
	it := item{file: w.describe(path, info), name: name}
	switch {
	case info.Mode().IsRegular():
		it.file.Type, it.file.Size = repo.TypeFile, info.Size()
		return w.emit(it)
	case info.IsDir():
		it.file.Type = repo.TypeDir
		w.meet(path)
		if err := w.emit(it); err != nil {
			return err
		}
		return w.dir(ctx, path, name)
	case info.Mode()&fs.ModeSymlink != 0:
		return w.link(ctx, it)
	}
	w.warn("%s is left out: it is a %s, not a file, directory or link", path, info.Mode().Type())
	return nil
}

func (w *walker) describe(path string, info fs.FileInfo) repo.File {
	f := repo.File{Path: path, Mode: info.Mode().Perm(), ModTime: info.ModTime()}
	f.Owner, f.Group = w.owners.of(info)
	return f
}

// link follows a symbolic link: one to a directory is recorded together with
// what is in the directory, one to a file is backed up as a file.
func (w *walker) link(ctx context.Context, it item) error {
	path := it.file.Path
	target, err := os.Readlink(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // of a tablespace that was dropped just now
	}
	if err != nil {
		return fmt.Errorf("read link %s: %w", path, err)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(it.name), target)
	}
	info, err := os.Stat(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(it.name); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return w.dangling(it, target)
	}
	if err != nil {
		return fmt.Errorf("follow link %s: %w", path, err)
	}
	if err := w.checkLink(path, target); err != nil {
		if _, gone := os.Lstat(it.name); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if info.Mode().IsRegular() {
		it.file = w.describe(path, info)
		it.file.Type, it.file.Size = repo.TypeFile, info.Size()
		return w.emit(it)
	}
	if !info.IsDir() {
		w.warn("link %s is left out: it leads to a %s", path, info.Mode().Type())
		return nil
	}
	it.file = w.describe(path, info)
	it.file.Type, it.file.LinkTarget = repo.TypeLink, target
	if err := w.emit(it); err != nil {
		return err
	}
	return w.dir(ctx, path, it.name)
}

// meet remembers that a tablespace's own directory is there.
func (w *walker) meet(path string) {
	if oid, version, ok := strings.Cut(strings.TrimPrefix(path, "pg_tblspc/"), "/"); ok && version == w.version {
		w.tablespaces[oid] = true
	}
}

// dangling decides about a link whose destination is not there. Its content
// would be missing from the backup, so only pg_wal, whose content is left out
// anyway, may lead nowhere as seen from here.
func (w *walker) dangling(it item, target string) error {
	if it.file.Path == "pg_wal" {
		it.file.Type, it.file.LinkTarget, it.file.Mode = repo.TypeLink, target, 0o700
		return w.emit(it)
	}
	return hint.Wrap(fmt.Errorf("link %s leads to %s, which does not exist here", it.file.Path, target),
		"run the backup where every volume of the cluster is mounted; a link that nothing needs can be removed or left out with --exclude.")
}

// checkLink refuses links that a restore could not make again.
func (w *walker) checkLink(path, target string) error {
	if info, err := os.Lstat(target); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return hint.Wrap(fmt.Errorf("link %s leads to another link, %s", path, target),
			"let the link in the data directory point straight to the directory or file.")
	}
	resolved, err := filepath.EvalSymlinks(target)
	if err != nil {
		return fmt.Errorf("follow link %s: %w", path, err)
	}
	if inside(w.root, resolved) {
		return hint.Wrap(fmt.Errorf("link %s leads into the data directory, to %s", path, resolved),
			"move its destination out of the data directory, or remove the link.")
	}
	return nil
}

// inside tells whether path is dir or below it.
func inside(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
