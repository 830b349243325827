package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// ErrRefused is wrapped by the errors of Push for a file that does not belong
// into the archive of the stanza; nothing was stored.
var ErrRefused = errors.New("WAL file refused")

// Limits of the files that are no segments. PostgreSQL writes one line per
// timeline switch into a history file, and about ten lines into a backup file;
// what is larger is not what its name says.
const (
	maxHistorySize = 1 << 20
	maxBackupSize  = 64 << 10
)

// refused is an error that reads as one sentence and that errors.Is finds as
// ErrRefused, and as its cause if there is one.
type refused struct {
	text  string
	cause error
	// foreign and major are those of the other cluster that the file is of; 0 if
	// that is not why.
	foreign uint64
	major   int
}

func (e *refused) Error() string {
	if e.cause != nil {
		return e.text + ": " + e.cause.Error()
	}
	return e.text
}
func (e *refused) Unwrap() []error {
	if e.cause != nil {
		return []error{ErrRefused, e.cause}
	}
	return []error{ErrRefused}
}

// walFile is a file of the server's, open: whoever replaces it under its path
// meanwhile changes nothing of what is checked and stored.
type walFile struct {
	path string
	size int64 // bytes, when it was opened
	file *os.File
	// beside is the directory of the server's other WAL, if the file lies elsewhere.
	beside string
	// unproven tells that the history of its timeline is not in the archive as far as
	// is known: the repository may hold another server's.
	unproven bool
	known    bool  // it was archived before, as far as is known
	hole     error // why its summary begins later than that before it ends; valid once the summary is made
}

// dir is where the server's other WAL lies.
func (f *walFile) dir() string { return cmp.Or(f.beside, filepath.Dir(f.path)) }

// Size and Open make walFile a storage.Source.
func (f *walFile) Size() int64 { return f.size }

// Open begins one more reading. It shows a byte more than the size, if there is
// one: a file that has grown is not what was looked at.
func (f *walFile) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(f.file, 0, f.size+1)), nil
}

// Close must follow the last reading.
func (f *walFile) Close() { _ = f.file.Close() }

// look opens the file and makes sure that it is one. A link is none: PostgreSQL
// makes none there, and who pushes for others, as an agent does, must not be led
// to what only he can read.
func look(path string) (*walFile, error) {
	// Without O_NONBLOCK a named pipe would keep the archiver waiting for ever.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, &refused{text: fmt.Sprintf("%s is not a regular file", path)}
	}
	if err != nil {
		return nil, fmt.Errorf("read WAL file: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &refused{text: fmt.Sprintf("%s is not a regular file", path)}
	} else if err != nil {
		err = fmt.Errorf("read WAL file: %w", err)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &walFile{path: path, size: info.Size(), file: file}, nil
}

// check says whether the file belongs under the name f into the archive of the
// stanza that s stands for. It looks at content, because that is what is stored.
func (w *walFile) check(s identified, f postgres.WALFile, content *repo.WALContent) error {
	switch f.Kind {
	case postgres.WALHistory:
		return w.checkHistory(f, content)
	case postgres.WALBackup:
		return w.checkLimit(maxBackupSize)
	default:
		return w.checkSegment(s, f, content)
	}
}

func (w *walFile) checkLimit(limit int64) error {
	if w.size == 0 {
		return &refused{text: fmt.Sprintf("%s is empty", w.path)}
	}
	if w.size > limit {
		return &refused{text: fmt.Sprintf("%s has %d bytes, at most %d are expected of such a file", w.path, w.size, limit)}
	}
	return nil
}

func (w *walFile) checkHistory(f postgres.WALFile, content *repo.WALContent) error {
	if err := w.checkLimit(maxHistorySize); err != nil {
		return err
	}
	head, err := content.Head(maxHistorySize)
	if err != nil {
		return fmt.Errorf("read WAL file: %w", err)
	}
	if _, err := postgres.ParseHistory(f.Timeline, head); err != nil {
		return &refused{text: fmt.Sprintf("%s is not a timeline history", w.path), cause: err}
	}
	return nil
}

func (w *walFile) checkSegment(s identified, f postgres.WALFile, content *repo.WALContent) error {
	id := s.Current()
	if w.size != id.SegmentSize {
		return &refused{text: fmt.Sprintf("%s has %d bytes, a WAL segment of stanza %s has %d", w.path, w.size, s.Name(), id.SegmentSize)}
	}
	head, err := content.Head(postgres.WALHeaderSize)
	if err != nil {
		return fmt.Errorf("read WAL file: %w", err)
	}
	h, err := postgres.ParseWALHeader(head)
	if err != nil {
		return &refused{text: fmt.Sprintf("%s is not a WAL segment", w.path), cause: err}
	}
	if err := w.checkIdentity(s, h.SystemID, h.Major(), h.SegmentSize); err != nil {
		return err
	}
	return checkPosition(w.path, h, f, id.SegmentSize)
}

// checkIdentity compares what a file's header, or the server's control file, says
// of the cluster with the stanza.
func (w *walFile) checkIdentity(s identified, systemID uint64, major int, segmentSize int64) error {
	id := s.Current()
	if systemID != id.SystemID {
		text := fmt.Sprintf("%s is of the cluster with system identifier %d, stanza %s holds system identifier %d",
			w.path, systemID, s.Name(), id.SystemID)
		advice := "check --stanza and --config in archive_command: this server must not archive into the stanza of another cluster."
		for _, old := range s.Identities() {
			if old.SystemID == systemID {
				text = fmt.Sprintf("%s is of system identifier %d, which stanza %s held before it was upgraded to system identifier %d",
					w.path, systemID, s.Name(), id.SystemID)
				advice = "the old cluster must not archive any more: stop it, or give it a stanza of its own."
			}
		}
		return hint.Wrap(&refused{text: text, foreign: systemID, major: major}, "%s", advice)
	}
	if major != id.Major {
		return hint.Wrap(&refused{text: fmt.Sprintf("%s is of PostgreSQL %d, stanza %s holds PostgreSQL %d", w.path, major, s.Name(), id.Major), foreign: systemID, major: major},
			"after pg_upgrade run pgbak init --upgrade.")
	}
	if segmentSize != id.SegmentSize {
		return hint.Wrap(&refused{text: fmt.Sprintf("%s says that its segments have %d bytes, stanza %s holds segments of %d bytes",
			w.path, segmentSize, s.Name(), id.SegmentSize)},
			"the size of WAL segments was changed by pg_resetwal: run pgbak init --upgrade and take a full backup.")
	}
	return nil
}

// checkPosition compares the header of a segment's first page with its name.
func checkPosition(path string, h postgres.WALHeader, f postgres.WALFile, segmentSize int64) error {
	if want := f.Start(segmentSize); h.PageAddr != want {
		return &refused{text: fmt.Sprintf("%s begins with the page of LSN %s, its name says %s", path, h.PageAddr, want)}
	}
	// The segment in which a timeline begins is a copy of its parent's up to the
	// switch point (XLogFileCopy), so that its first page can carry the number of
	// an older timeline; a newer one than its name says is impossible.
	if h.Timeline == 0 || h.Timeline > f.Timeline {
		return &refused{text: fmt.Sprintf("%s begins with a page of timeline %d, its name says timeline %d", path, h.Timeline, f.Timeline)}
	}
	return nil
}

// identified is what the checks need of a repo.Stanza.
type identified interface {
	Name() string
	Current() repo.Identity
	Identities() []repo.Identity
}
