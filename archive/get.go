package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// ErrAbsent is wrapped by the error of Get when every repository has proved
// that it does not hold the file. It also is a storage.ErrNotExist; the
// opposite does not hold, because a repository that is not there at all is
// trouble and not the end of WAL.
var ErrAbsent = fmt.Errorf("not in the archive: %w", storage.ErrNotExist)

// Source is a repository that WAL is taken from, and the identity of the
// cluster that asks: one that was restored to the time before pg_upgrade is
// not the stanza's current one.
type Source struct {
	Target
	Identity repo.Identity
}

// Getter fetches WAL files from the first of its repositories that has them.
type Getter struct {
	sources []Source
}

// NewGetter returns a Getter from sources, of which there must be at least one.
func NewGetter(sources ...Source) (*Getter, error) {
	if len(sources) == 0 {
		return nil, errors.New("no repository to get WAL from")
	}
	return &Getter{sources: sources}, nil
}

// Get writes the WAL file called name to dest, a path as PostgreSQL gives it:
// relative to the working directory, of a file that may exist. dest is
// replaced in one step by the whole, verified and durable file, or left alone.
//
// The returned warnings name repositories that failed although another one
// had the file. The error wraps ErrAbsent if no repository has it; if one
// failed and the others do not have it, the error is that repository's, for
// then nobody knows.
func (g *Getter) Get(ctx context.Context, name, dest string) (warnings []string, err error) {
	var failed []error
	for _, s := range g.sources {
		err := get(ctx, s, name, dest)
		if err == nil {
			for _, f := range failed {
				warnings = append(warnings, f.Error())
			}
			return warnings, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("get %s: %w", name, context.Cause(ctx))
		}
		if !errors.Is(err, ErrAbsent) {
			failed = append(failed, fmt.Errorf("get %s from repository %s: %w", name, s.Name, err))
		}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return nil, fmt.Errorf("%s is %w", name, ErrAbsent)
}

func get(ctx context.Context, s Source, name, dest string) error {
	f, err := postgres.ParseWALFile(name, s.Identity.SegmentSize)
	if err != nil {
		return err
	}
	r, err := s.Stanza.OpenWAL(ctx, s.Identity, f)
	if errors.Is(err, storage.ErrNotExist) {
		return proveAbsent(ctx, s.Target)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	return replace(dest, func(w io.Writer) error {
		head := &headWriter{w: w}
		// The reader ends without error only after it compared every frame, the
		// length and the hash of the whole with what was pushed.
		if _, err := io.Copy(head, r); err != nil {
			return err
		}
		return checkHead(head.head, f, s)
	})
}

// proveAbsent returns ErrAbsent if the stanza is still there. A directory that
// was unmounted or removed since it was opened answers "no such file" for
// every key, and that must not look like the end of WAL.
func proveAbsent(ctx context.Context, t Target) error {
	if _, err := t.Stanza.Repository().Stanza(ctx, t.Stanza.Name()); err != nil {
		return fmt.Errorf("the repository went away: %w", err)
	}
	return ErrAbsent
}

// checkHead proves that what the repository keeps under a segment's name is
// that segment: the hash shows only that it is what was once put there.
func checkHead(head []byte, f postgres.WALFile, s Source) error {
	if f.Kind != postgres.WALSegment && f.Kind != postgres.WALPartial {
		return nil
	}
	name := f.Name(s.Identity.SegmentSize)
	what := ""
	h, err := postgres.ParseWALHeader(head)
	switch {
	case err != nil:
		what = "is not a WAL segment"
	case h.SystemID != s.Identity.SystemID:
		what = fmt.Sprintf("is of system identifier %d, not %d", h.SystemID, s.Identity.SystemID)
	default:
		if err = checkPosition(name, h, f, s.Identity.SegmentSize); err != nil {
			what = "is another segment"
		}
	}
	if what == "" {
		return nil
	}
	return &repo.DamagedError{Key: name, What: what, Err: err}
}

// headWriter passes everything on and keeps the first bytes.
type headWriter struct {
	w    io.Writer
	head []byte
}

func (h *headWriter) Write(p []byte) (int, error) {
	if want := postgres.WALHeaderSize - len(h.head); want > 0 {
		h.head = append(h.head, p[:min(want, len(p))]...)
	}
	return h.w.Write(p)
}

// replace lets fill write a temporary file beside dest, makes it durable and
// renames it over dest. On failure dest is as it was and nothing is left.
func replace(dest string, fill func(io.Writer) error) (err error) {
	dir := filepath.Dir(dest)
	file, err := os.CreateTemp(dir, ".pgbak-get-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	if err := fill(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	if err := os.Rename(file.Name(), dest); err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	return syncDirectory(dir)
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
