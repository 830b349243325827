package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// ErrAbsent is wrapped by the error of Get when every repository has proved
// that it does not hold the file. It also is a storage.ErrNotExist; the
// opposite does not hold, because a repository that is not there at all is
// trouble and not the end of WAL.
var ErrAbsent = fmt.Errorf("not in the archive: %w", storage.ErrNotExist)

// Source is a repository that WAL is taken from.
type Source struct {
	Name string // as configured, for messages
	// Open opens the repository and the stanza in it, and says which of its
	// identities may have the file, in the order in which they are asked: the
	// cluster that asks need not be the stanza's current one, when it was restored
	// to the time before pg_upgrade. Its errors name the repository.
	Open func(ctx context.Context) (*repo.Stanza, []repo.Identity, error)
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

// Got says where a file came from.
type Got struct {
	// Repository is the name of the source that had the file; "" when it had been
	// fetched ahead.
	Repository string
	// Warnings name repositories that failed although another one had the file.
	Warnings []string
}

// Get writes the WAL file called name to dest, a path as PostgreSQL gives it:
// relative to the working directory, of a file that may exist. dest is
// replaced in one step by the whole, verified and durable file, or left alone.
// Sources are opened and asked one after the other, up to the one that has the
// file.
//
// The error wraps ErrAbsent if every repository was opened and has not got it; if
// one failed and the others do not have it, the error is that repository's, for
// then nobody knows.
func (g *Getter) Get(ctx context.Context, name, dest string) (Got, error) {
	return g.get(ctx, name, func(fill filling) error { return replace(dest, fill) })
}

// GetInto is Get for a caller that has opened the file and gives it its name
// itself, when there was no error: then file holds the WAL file, whole, verified
// and durable, and nothing else. After an error it may hold anything.
func (g *Getter) GetInto(ctx context.Context, name string, file *os.File) (Got, error) {
	return g.get(ctx, name, func(fill filling) error { return rewrite(file, fill) })
}

// filling writes a whole file, or fails.
type filling func(io.Writer) error

// get asks one source after the other. What placing puts somewhere may only
// appear there when its filling succeeded; it is called again for the next source.
func (g *Getter) get(ctx context.Context, name string, placing func(filling) error) (Got, error) {
	var trouble []error
	for _, s := range g.sources {
		found, failed := s.get(ctx, name, placing)
		trouble = append(trouble, failed...)
		if found {
			got := Got{Repository: s.Name}
			for _, err := range trouble {
				got.Warnings = append(got.Warnings, err.Error())
			}
			return got, nil
		}
		if ctx.Err() != nil {
			return Got{}, fmt.Errorf("get %s: %w", name, context.Cause(ctx))
		}
	}
	if len(trouble) > 0 {
		return Got{}, errors.Join(trouble...)
	}
	return Got{}, fmt.Errorf("%s is %w", name, ErrAbsent)
}

// get asks one repository. Neither found nor trouble is the proof that the file
// is not there.
func (s Source) get(ctx context.Context, name string, placing func(filling) error) (found bool, trouble []error) {
	stanza, ids, found, trouble := s.ask(ctx, name, placing)
	if found || len(trouble) > 0 {
		return found, trouble
	}
	if len(ids) == 0 {
		return false, []error{fmt.Errorf("get %s from repository %s: %w", name, s.Name, errNoIdentity)}
	}
	// A directory that was unmounted or removed since it was opened says of
	// every key that it is not there, and that must not look like the end of WAL.
	if err := stanza.StillThere(ctx); err != nil {
		return false, []error{fmt.Errorf("get %s from repository %s: the repository went away: %w", name, s.Name, err)}
	}
	return false, nil
}

var errNoIdentity = errors.New("there is no identity to ask")

// ask asks one repository for the file of each identity in turn. That it was
// neither found nor in trouble proves nothing yet.
func (s Source) ask(ctx context.Context, name string, placing func(filling) error) (stanza *repo.Stanza, ids []repo.Identity, found bool, trouble []error) {
	stanza, ids, err := s.Open(ctx)
	if err != nil {
		return nil, nil, false, []error{err}
	}
	for _, id := range ids {
		err := get(ctx, stanza, id, name, placing)
		if err == nil {
			return stanza, ids, true, trouble
		}
		if !errors.Is(err, errNotHere) {
			trouble = append(trouble, fmt.Errorf("get %s from repository %s: %w", name, s.Name, err))
		}
	}
	return stanza, ids, false, trouble
}

// errNotHere says that the identity does not have the file, which is a proof
// only together with the stanza that is still there.
var errNotHere = errors.New("the WAL file is not here")

func get(ctx context.Context, s *repo.Stanza, id repo.Identity, name string, placing func(filling) error) error {
	f, err := postgres.ParseWALFile(name, id.SegmentSize)
	if err != nil {
		return err
	}
	r, err := s.OpenWAL(ctx, id, f)
	if errors.Is(err, storage.ErrNotExist) {
		return errNotHere
	}
	if err != nil {
		return err
	}
	defer r.Close()
	return placing(func(w io.Writer) error {
		head := &headWriter{w: w}
		// The reader ends without error only after it compared every frame, the
		// length and the hash of the whole with what was pushed.
		if _, err := io.Copy(head, r); err != nil {
			return err
		}
		return checkHead(head.head, f, id)
	})
}

// checkHead proves that what the repository keeps under a segment's name is
// that segment: the hash shows only that it is what was once put there.
func checkHead(head []byte, f postgres.WALFile, id repo.Identity) error {
	if f.Kind != postgres.WALSegment && f.Kind != postgres.WALPartial {
		return nil
	}
	name := f.Name(id.SegmentSize)
	what := ""
	h, err := postgres.ParseWALHeader(head)
	switch {
	case err != nil:
		what = "is not a WAL segment"
	case h.SystemID != id.SystemID:
		what, err = "is of another cluster", fmt.Errorf("it has system identifier %d, not %d", h.SystemID, id.SystemID)
	default:
		if err = checkPosition(name, h, f, id.SegmentSize); err != nil {
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
func replace(dest string, fill filling) (err error) {
	dir := filepath.Dir(dest)
	file, err := os.CreateTemp(dir, gettingMark+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	removeAbandoned(file)
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

const (
	gettingMark = ".pgbak-get-" // begins the names of files that become a WAL file
	// maxGetting is for how long nothing is written to such a file at most, unless
	// its writer was killed, as by a server's immediate shutdown.
	maxGetting = time.Hour
)

// removeAbandoned removes what killed ones left beside file, which was just made: PostgreSQL
// never does. What is in the way of that is no trouble for who wants a WAL file.
func removeAbandoned(file *os.File) {
	made, err := file.Stat()
	if err != nil {
		return
	}
	dir := filepath.Dir(file.Name())
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), gettingMark) || !e.Type().IsRegular() {
			continue
		}
		// Both times are the file system's.
		if info, err := e.Info(); err == nil && made.ModTime().Sub(info.ModTime()) > maxGetting {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// rewrite lets fill write an open file anew and makes it durable.
func rewrite(file *os.File, fill filling) error {
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("write %s: %w", file.Name(), err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("write %s: %w", file.Name(), err)
	}
	if err := fill(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", file.Name(), err)
	}
	return nil
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
