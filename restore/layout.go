package restore

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/pgbak/pgbak/repo"
)

// openPlace is a destination opened for writing. Everything goes through root, so
// that no name and no link leads out of it.
type openPlace struct {
	destination
	root  *os.Root
	mode  fs.FileMode
	owner repo.File // whose owner the directory gets
	made  bool      // it was absent
}

// madeDir is a directory whose mode and owner are set when nothing is written
// to it any more.
type madeDir struct {
	at   *openPlace
	rel  string
	file repo.File
}

// claim makes and opens the destinations. A directory that got content since
// it was checked is refused.
func (r *run) claim() error {
	mode := fs.FileMode(0o750)
	if r.plan.tree.private {
		mode = 0o700
	}
	for _, d := range r.plan.destinations {
		p := &openPlace{destination: d, mode: mode, owner: r.plan.tree.ownFiles}
		err := os.Mkdir(d.dir, 0o700)
		if err != nil && !os.IsExist(err) {
			return fmt.Errorf("make the %s: %w", d.role(), err)
		}
		p.made = err == nil
		if p.root, err = os.OpenRoot(d.dir); err != nil {
			return fmt.Errorf("open the %s: %w", d.role(), err)
		}
		r.places = append(r.places, p)
		if err := checkEmpty(d.role(), d.dir); err != nil {
			return err
		}
	}
	return nil
}

// closePlaces releases the destinations.
func (r *run) closePlaces() {
	for _, p := range r.places {
		_ = p.root.Close()
	}
}

// main is the data directory.
func (r *run) main() *openPlace { return r.places[0] }

// makeDir makes one directory of the backup, or notes the mode of a
// destination that the backup tells.
func (r *run) makeDir(f repo.File) error {
	at, rel := locate(r.places, f.Path)
	if rel == "." {
		at.mode, at.owner = f.Mode, f
		return nil
	}
	if err := at.root.Mkdir(filepath.FromSlash(rel), 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", f.Path, err)
	}
	r.dirs = append(r.dirs, madeDir{at: at, rel: filepath.FromSlash(rel), file: f})
	return nil
}

// makeLinks puts the links of tablespaces and linked directories in place.
func (r *run) makeLinks() error {
	for _, d := range r.places[1:] {
		at, rel := locate(r.places, path.Dir(d.prefix))
		if path.Dir(d.prefix) == "." {
			at, rel = r.main(), "."
		}
		name := filepath.Join(filepath.FromSlash(rel), path.Base(d.prefix))
		if err := at.root.Symlink(d.dir, name); err != nil {
			return fmt.Errorf("make link %s: %w", d.prefix, err)
		}
		if !r.owners.root {
			continue
		}
		uid, gid := r.owners.ids(d.owner.Owner, d.owner.Group)
		if err := at.root.Lchown(name, uid, gid); err != nil {
			return fmt.Errorf("owner of link %s: %w", d.prefix, err)
		}
	}
	return nil
}

// finishDirs sets modes and owners, what is inside first.
func (r *run) finishDirs() error {
	for i := len(r.dirs) - 1; i >= 0; i-- {
		d := r.dirs[i]
		if err := r.finishDir(d.at, d.rel, d.file.Mode, d.file); err != nil {
			return fmt.Errorf("directory %s: %w", d.file.Path, err)
		}
	}
	for _, p := range r.places {
		if err := r.finishDir(p, ".", p.mode, p.owner); err != nil {
			return fmt.Errorf("%s: %w", p.role(), err)
		}
	}
	return nil
}

func (r *run) finishDir(at *openPlace, rel string, mode fs.FileMode, owner repo.File) error {
	if r.owners.root {
		uid, gid := r.owners.ids(owner.Owner, owner.Group)
		if err := at.root.Chown(rel, uid, gid); err != nil {
			return err
		}
	}
	return at.root.Chmod(rel, mode.Perm())
}
