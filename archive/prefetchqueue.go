package archive

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Recovery is a server that fetches WAL, and where it fetches it from: what must
// be the same when a segment is fetched ahead and when it is served.
type Recovery struct {
	Directory string // its data directory, absolute
	// Instance differs when the data directory was restored anew, maybe from another
	// archive of the same cluster; "" is unknown.
	Instance    string
	SystemID    uint64
	Major       int
	SegmentSize int64 // bytes
	// Sources are the repositories and what was said of them, in any form that
	// differs when something else would be asked.
	Sources string
}

// PrefetchQueue holds the segments that were fetched ahead for one recovery, in
// a directory of the spool that no other recovery uses. A segment's file appears
// in it whole, verified and durable by one rename, and its name says of which
// segment it is and has a checksum over its content, that name and the recovery.
// So whatever else lies there, torn, old or of another cluster, is not served.
type PrefetchQueue struct {
	spool *Spool
	of    Recovery
	key   string // of the recovery: the name of the directory
	dir   string
	limit int64 // bytes
	clock func() time.Time
}

// NewPrefetchQueue returns the queue of a recovery, of about limit bytes.
func NewPrefetchQueue(spool *Spool, of Recovery, limit int64, clock func() time.Time) (*PrefetchQueue, error) {
	if !postgres.ValidSegmentSize(of.SegmentSize) || !filepath.IsAbs(of.Directory) {
		return nil, fmt.Errorf("segments of %d bytes for data directory %q cannot be fetched ahead", of.SegmentSize, of.Directory)
	}
	id := xxh3.Hash128([]byte(fmt.Sprintf("2 %q %q %d %d %d %q", of.Directory, of.Instance, of.SystemID, of.Major, of.SegmentSize, of.Sources))).Bytes()
	q := &PrefetchQueue{spool: spool, of: of, key: hex.EncodeToString(id[:]), limit: limit, clock: clock}
	q.dir = filepath.Join(spool.part(spoolGet), q.key)
	if err := os.Mkdir(q.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return q, nil
}

const (
	// minPrefetch is how many segments are held ready at least: one that
	// recovery takes, and one that is fetched meanwhile.
	minPrefetch = 2
	// A segment in an archive never changes, but an archive can be replaced by
	// another of the same cluster. Hence what was fetched long ago is fetched anew.
	maxPrefetchAge = time.Hour

	askedName      = "asked"     // which segment recovery asked for last
	fetchingSuffix = ".fetching" // a segment that is being written; its writer holds a lock of it
	queueLock      = "queue"     // held by who fetches ahead
)

// segments is how many are held ready.
func (q *PrefetchQueue) segments() int { return int(max(minPrefetch, q.limit/q.of.SegmentSize)) }

// recoveryFile is what PostgreSQL in recovery has segments written to
// (RestoreArchivedFile); pg_rewind names the segment itself.
const recoveryFile = "RECOVERYXLOG"

// asksFor says which segment recovery asks for; not ok for other files and other
// programs, for which nothing is fetched ahead nor taken from the queue.
func (q *PrefetchQueue) asksFor(name, dest string) (f postgres.WALFile, ok bool) {
	f, err := postgres.ParseWALFile(name, q.of.SegmentSize)
	return f, err == nil && f.Kind == postgres.WALSegment && filepath.Base(dest) == recoveryFile
}

// queued is a file of the queue.
type queued struct {
	segment postgres.WALFile
	path    string
	sum     string // in its name
}

// files lists what the queue holds by name, proven or not.
func (q *PrefetchQueue) files() ([]queued, error) {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	var out []queued
	for _, e := range entries {
		if f, ok := q.parse(e.Name()); ok {
			out = append(out, f)
		}
	}
	return out, nil
}

// checksumDigits is the length of an xxh3-128 in hexadecimal.
const checksumDigits = 32

// parse reads the name of a file in the queue: SEGMENT-CHECKSUM.
func (q *PrefetchQueue) parse(name string) (queued, bool) {
	segment, sum, _ := strings.Cut(name, "-")
	f, err := postgres.ParseWALFile(segment, q.of.SegmentSize)
	ok := err == nil && f.Kind == postgres.WALSegment && len(sum) == checksumDigits
	return queued{f, filepath.Join(q.dir, name), sum}, ok
}

// find looks for a segment; nil if it is not there.
func (q *PrefetchQueue) find(f postgres.WALFile) (*queued, error) {
	files, err := q.files()
	for _, found := range files {
		if found.segment == f {
			return &found, err
		}
	}
	return nil, err
}

// open opens a file of the queue that may be the segment, as far as can be seen
// without reading it. Anything else is removed.
func (q *PrefetchQueue) open(f *queued) (*os.File, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err // it was taken, or given up
	}
	if err == nil {
		if err = q.checkFile(file); err == nil {
			return file, nil
		}
		_ = file.Close()
	}
	if errors.Is(err, errNotFresh) {
		return nil, errors.Join(fs.ErrNotExist, os.Remove(f.path))
	}
	return nil, f.giveUp(err)
}

var errNotFresh = errors.New("it was fetched too long ago")

func (q *PrefetchQueue) checkFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != q.of.SegmentSize {
		return fmt.Errorf("it is no file of %d bytes", q.of.SegmentSize)
	}
	// A time to come says that a clock has jumped, and nothing of the age.
	if age := q.clock().Sub(info.ModTime()); age > maxPrefetchAge || age < -time.Minute {
		return errNotFresh
	}
	return nil
}

// giveUp removes what is not what its name says.
func (f *queued) giveUp(err error) error {
	return errors.Join(fmt.Errorf("segment in the queue: %s: %w", f.path, err), os.RemoveAll(f.path))
}

// passSize is how much is read at once: what is summed is still in the processor's cache.
const passSize = 128 << 10

// pass gives all of an open file to w, unless that is nil, and proves that it was the
// segment: by the checksum, which was made of content that a repository's reader had
// verified, and by the segment's own header. A file of which that is not true is given up;
// errors of w are returned as they are.
func (q *PrefetchQueue) pass(f *queued, file *os.File, w io.Writer) error {
	sum, buf := q.summer(f.segment), make([]byte, min(passSize, q.of.SegmentSize))
	var head []byte
	for at := int64(0); at < q.of.SegmentSize; at += int64(len(buf)) { // both are powers of two
		if _, err := file.ReadAt(buf, at); err != nil {
			return f.giveUp(err)
		}
		if _, err := sum.Write(buf); err != nil {
			return err
		}
		if at == 0 {
			head = bytes.Clone(buf[:postgres.WALHeaderSize])
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	if sum.String() != f.sum {
		return f.giveUp(errors.New("its content does not match its checksum"))
	}
	if err := checkHead(head, f.segment, repo.Identity{SystemID: q.of.SystemID, SegmentSize: q.of.SegmentSize}); err != nil {
		return f.giveUp(err)
	}
	return nil
}

// segmentSum is the checksum of a segment in a queue.
type segmentSum struct {
	*xxh3.Hasher
	bound string // what else is summed: queue and segment
}

func (q *PrefetchQueue) summer(f postgres.WALFile) segmentSum {
	return segmentSum{xxh3.New(), q.key + f.Name(q.of.SegmentSize)}
}

func (s segmentSum) String() string {
	// After the content, so that this is hashed in whole blocks.
	_, _ = s.WriteString(s.bound)
	sum := s.Sum128().Bytes()
	return hex.EncodeToString(sum[:])
}

// isFetched says whether somebody is writing the segment into the queue at this moment.
func (q *PrefetchQueue) isFetched(f postgres.WALFile) bool {
	file, err := os.OpenFile(q.fetchingPath(f), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	// The lock goes with the process that holds it, however that ends.
	return errors.Is(unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func (q *PrefetchQueue) fetchingPath(f postgres.WALFile) string {
	return filepath.Join(q.dir, f.Name(q.of.SegmentSize)+fetchingSuffix)
}

// place is where one segment is written before it stands in the queue. It is
// there, and locked, from before the first request for the segment: whoever asks
// for it meanwhile waits.
type place struct {
	queue   *PrefetchQueue
	segment postgres.WALFile
	file    *os.File
}

func (q *PrefetchQueue) place(ctx context.Context, f postgres.WALFile) (*place, error) {
	file, err := os.OpenFile(q.fetchingPath(f), os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	p := &place{q, f, file}
	err = tryLock(ctx, func() error {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return errLocked // isFetched looks
		}
		return err
	})
	if err != nil {
		p.leave()
		return nil, fmt.Errorf("%w: lock %s: %w", ErrSpool, file.Name(), err)
	}
	return p, nil
}

// leave gives the place up; a segment that was put remains.
func (p *place) leave() {
	// The name first: without the lock it would look like what a killed process left.
	_ = os.Remove(p.file.Name())
	_ = p.file.Close()
}

// put writes the segment and gives it its name in the queue. What fill writes must be verified.
func (p *place) put(fill filling) error {
	sum := p.queue.summer(p.segment)
	err := rewrite(p.file, func(w io.Writer) error { return fill(io.MultiWriter(w, sum)) })
	if err != nil {
		return err
	}
	if err := os.Rename(p.file.Name(), filepath.Join(p.queue.dir, p.segment.Name(p.queue.of.SegmentSize)+"-"+sum.String())); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}

// note records what recovery asked for: who fetches ahead goes on from there.
// It is a guess about the future that nothing but speed depends on.
func (q *PrefetchQueue) note(f postgres.WALFile) error {
	// All names are of one length, so that none has to be cut off first, and who
	// reads it meanwhile finds the one or the other.
	file, err := os.OpenFile(filepath.Join(q.dir, askedName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_, err = file.WriteString(f.Name(q.of.SegmentSize))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}

// asked reads what was noted; not ok if nothing is or it is being written.
func (q *PrefetchQueue) asked() (f postgres.WALFile, ok bool) {
	name, err := os.ReadFile(filepath.Join(q.dir, askedName))
	if err != nil {
		return f, false
	}
	f, err = postgres.ParseWALFile(string(name), q.of.SegmentSize)
	return f, err == nil && f.Kind == postgres.WALSegment
}

// isLow says whether there is less than half of what should be ready for who asks
// for a segment. What another place or timeline left in the queue is not for him.
func (q *PrefetchQueue) isLow(asked postgres.WALFile) bool {
	files, err := q.files()
	ready := 0
	for _, f := range files {
		if f.segment.Timeline >= asked.Timeline && f.segment.Segment > asked.Segment && f.segment.Segment-asked.Segment <= uint64(q.segments()) {
			ready++
		}
	}
	return err == nil && ready < max(minPrefetch, q.segments()/2)
}

// isServed says whether somebody fetches ahead for this queue.
func (q *PrefetchQueue) isServed() bool {
	unlock, err := q.lock()
	if err == nil {
		unlock()
	}
	return errors.Is(err, errLocked)
}

// lock takes the right to fill the queue.
func (q *PrefetchQueue) lock() (unlock func(), err error) {
	return q.spool.lock(filepath.Join(spoolGet, q.key, queueLock))
}
