package received

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// ErrDirectory is wrapped by errors of a directory that is not fit: it is not
// there, not private, in use, or holds another cluster's WAL.
var ErrDirectory = errors.New("the directory of received WAL cannot be used")

// Identity says whose WAL a directory holds. Its JSON form is on disk.
type Identity struct {
	Format      int    `json:"format"`
	Stanza      string `json:"stanza"`
	SystemID    uint64 `json:"system-identifier,string"`
	Major       int    `json:"postgresql-major"`
	SegmentSize int64  `json:"wal-segment-size"`
}

const (
	identityFormat = 1
	identityFile   = "receiver.json"
	lockFile       = "receiver.lock"
	draftSuffix    = ".draft" // of files that have not their name yet
	maxSmallFile   = 1 << 20  // bytes of an identity or a history
)

// String names the cluster in errors.
func (i Identity) String() string {
	return fmt.Sprintf("system identifier %d, PostgreSQL %d, WAL segments of %d bytes, stanza %s", i.SystemID, i.Major, i.SegmentSize, i.Stanza)
}

// Directory is an open directory of received WAL. Its methods may be called by
// several goroutines; a Segment is for one.
type Directory struct {
	path string
	disk Disk
	lock *os.File
}

// Disk is how files become durable. It is an interface so that tests can make any
// of it fail; [OS] is the real one. Each returns nil only when it was done.
type Disk interface {
	// WriteAt writes p at an offset; n is how much of it is written, also with an error.
	WriteAt(f *os.File, p []byte, offset int64) (n int, err error)
	// Sync makes content and length of a file, or the entries of a directory, durable.
	Sync(f *os.File) error
	// Create makes a file for reading and writing, or opens the one that is there.
	Create(path string) (*os.File, error)
	// Rename replaces to by from.
	Rename(from, to string) error
}

// OS is the operating system's Disk.
type OS struct{}

// WriteAt implements Disk.
func (OS) WriteAt(f *os.File, p []byte, offset int64) (int, error) { return f.WriteAt(p, offset) }

// Sync implements Disk.
func (OS) Sync(f *os.File) error { return f.Sync() }

// Create implements Disk.
func (OS) Create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
}

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Open opens a directory that exists, and takes its lock: only one process works
// in it. It must belong to this process's user, be writable for nobody else, and
// not lie in a data directory, with which it would be lost. Other errors than of
// the disk wrap ErrDirectory.
func Open(path string, disk Disk) (*Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	if err := checkOutside(path); err != nil {
		return nil, err
	}
	d := &Directory{path: path, disk: disk}
	d.lock, err = os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return d, d.takeLock(unix.LOCK_EX)
}

// OpenToRead opens a directory to take WAL from it, whoever it belongs to, and
// makes sure that nobody receives into it meanwhile.
func OpenToRead(path string) (*Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	d := &Directory{path: path, disk: OS{}}
	d.lock, err = os.OpenFile(filepath.Join(path, lockFile), os.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("%w: %w", ErrDirectory, err), "name the directory of an archive-receive.")
	}
	return d, d.takeLock(unix.LOCK_SH)
}

// takeLock does not wait. A shared lock is enough for readers.
func (d *Directory) takeLock(how int) error {
	err := unix.Flock(int(d.lock.Fd()), how|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	_ = d.lock.Close()
	return hint.Wrap(fmt.Errorf("%w: %s is used by another process: %w", ErrDirectory, d.path, err),
		"one archive-receive works in a directory, and none may while a restore takes WAL from it: stop it first.")
}

// Close gives the directory up for others.
func (d *Directory) Close() error { return d.lock.Close() }

// Path is where the directory is, or a file in it.
func (d *Directory) Path(name ...string) string {
	return filepath.Join(append([]string{d.path}, name...)...)
}

func checkPrivate(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return hint.Wrap(fmt.Errorf("%w: %w", ErrDirectory, err), "make the directory with mode 0700, on a disk that is not the server's.")
	}
	st, isUnix := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", ErrDirectory, dir)
	case !isUnix || int(st.Uid) != os.Geteuid():
		return hint.Wrap(fmt.Errorf("%w: %s does not belong to the user who runs pgbak", ErrDirectory, dir), "chown it to that user.")
	case info.Mode().Perm()&0o022 != 0:
		return hint.Wrap(fmt.Errorf("%w: %s can be written by others (mode %04o)", ErrDirectory, dir, info.Mode().Perm()), "chmod 0700 %s", dir)
	}
	return nil
}

// checkOutside refuses a place in a data directory, under whatever name.
func checkOutside(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, "global", "pg_control")); err == nil {
			return hint.Wrap(fmt.Errorf("%w: %s is in the data directory %s", ErrDirectory, dir, at),
				"what is received must outlive the server: use a directory on another disk, or better on another host.")
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// Identity says whose WAL it is; the error is fs.ErrNotExist for a new directory.
func (d *Directory) Identity() (Identity, error) {
	var id Identity
	data, err := ReadSmall(d.Path(identityFile))
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil || id.Format != identityFormat || !postgres.ValidSegmentSize(id.SegmentSize) {
		return id, hint.Wrap(fmt.Errorf("%w: %s is damaged or of another version of pgbak", ErrDirectory, d.Path(identityFile)),
			"nothing in the directory is believed without it; keep the directory if the server is lost, else begin with an empty one.")
	}
	return id, nil
}

// Claim makes the directory that of a cluster, or makes sure that it is.
func (d *Directory) Claim(id Identity) error {
	id.Format = identityFormat
	switch there, err := d.Identity(); {
	case err == nil && there == id:
		return nil
	case err == nil:
		return hint.Wrap(fmt.Errorf("%w: %s holds WAL of %s, the server is of %s", ErrDirectory, d.path, there, id),
			"check the connection and the stanza: every cluster needs a directory of its own.")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if files, err := d.names(); err != nil {
		return err
	} else if len(files) > 0 {
		return fmt.Errorf("%w: %s holds %s, but no %s that says whose it is", ErrDirectory, d.path, files[0], identityFile)
	}
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return d.put(identityFile, append(data, '\n'))
}

// names lists what looks like WAL, sorted.
func (d *Directory) names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("list received WAL: %w", err)
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) >= 16 && !strings.HasSuffix(e.Name(), draftSuffix) && strings.Trim(e.Name()[:8], "0123456789ABCDEF") == "" {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Files are the WAL files in the directory: by timeline, history first, then by
// position, a partial segment behind a whole one.
func (d *Directory) Files(segmentSize int64) ([]postgres.WALFile, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var files []postgres.WALFile
	for _, name := range names {
		if f, err := postgres.ParseWALFile(name, segmentSize); err == nil && f.Kind != postgres.WALBackup {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, compareFiles)
	return files, nil
}

// compareFiles orders as PostgreSQL archives: a history before the segments of its timeline.
func compareFiles(a, b postgres.WALFile) int {
	rank := func(f postgres.WALFile) [3]uint64 {
		kind := uint64(1)
		if f.Kind == postgres.WALPartial {
			kind = 2
		}
		if f.Kind == postgres.WALHistory {
			return [3]uint64{uint64(f.Timeline), 0, 0}
		}
		return [3]uint64{uint64(f.Timeline), f.Segment + 1, kind}
	}
	x, y := rank(a), rank(b)
	return slices.Compare(x[:], y[:])
}

// PutHistory stores a timeline's history file; durable on return. That the same is
// there is no error; another content is.
func (d *Directory) PutHistory(tli postgres.Timeline, content []byte) error {
	name := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(0)
	if _, err := postgres.ParseHistory(tli, content); err != nil || len(content) > maxSmallFile {
		return fmt.Errorf("the server's %s is not a timeline history: %w", name, err)
	}
	there, err := ReadSmall(d.Path(name))
	switch {
	case err == nil && string(there) == string(content):
		return nil
	case err == nil:
		return fmt.Errorf("%w: the server's %s says another thing than the one that was received", ErrDiffers, name)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return d.put(name, content)
}

// History reads a timeline's history; that of timeline 1 is known without a file.
func (d *Directory) History(tli postgres.Timeline) (postgres.History, error) {
	if tli == 1 {
		return postgres.History{Timeline: 1}, nil
	}
	data, err := ReadSmall(d.Path(postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(0)))
	if err != nil {
		return postgres.History{}, err
	}
	return postgres.ParseHistory(tli, data)
}

// put writes a small file, which appears whole and durable or not at all.
func (d *Directory) put(name string, content []byte) (err error) {
	draft := d.Path(name + draftSuffix)
	f, err := d.disk.Create(draft)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer f.Close()
	if err = f.Truncate(0); err == nil {
		_, err = d.disk.WriteAt(f, content, 0)
	}
	if err == nil {
		err = d.disk.Sync(f)
	}
	if err == nil {
		err = d.disk.Rename(draft, d.Path(name))
	}
	if err == nil {
		err = d.sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Path(name), err)
	}
	return nil
}

// Sync makes the names of the directory durable as they are. Where [Directory.Position]
// says that receiving goes on is behind whole segments, which are that by their names.
func (d *Directory) Sync() error {
	if err := d.sync(); err != nil {
		return fmt.Errorf("make the names of received WAL durable: %w", err)
	}
	return nil
}

func (d *Directory) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.disk.Sync(f)
}

// Remove removes a file that is not needed any more. After a crash it may be back.
func (d *Directory) Remove(f postgres.WALFile, segmentSize int64) error {
	if err := os.Remove(d.Path(f.Name(segmentSize))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove received WAL: %w", err)
	}
	return nil
}

// OpenFile opens a WAL file of the directory to read it. Only a regular file
// counts: whoever restores may be allowed more than who fills the directory, and
// would follow a link for him.
func (d *Directory) OpenFile(f postgres.WALFile, segmentSize int64) (*os.File, error) {
	return openRegular(d.Path(f.Name(segmentSize)))
}

func openRegular(path string) (*os.File, error) {
	// Not blocking, for a pipe would wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a link", ErrDirectory, path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a regular file", ErrDirectory, path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// ReadSmall reads an identity or a history.
func ReadSmall(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(data) > maxSmallFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSmallFile)
	}
	return data, err
}
