package archive

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// How long an acknowledgement counts. PostgreSQL asks for a file that was pushed
// ahead within minutes; later it is pushed anew, which finds it stored. Where a
// repository is away for long, what the others hold must not be compared with
// them again and again meanwhile.
const (
	acknowledgementAge = time.Hour
	partialAge         = 24 * time.Hour
)

// contentSum is a WAL file's size and the xxh3-128 of all its bytes. It finds
// changes and accidents; nobody who could forge it needs to, because who writes
// the spool is who runs archive_command.
type contentSum struct {
	Size int64  `json:"size"`
	Sum  string `json:"xxh3"` // hexadecimal
}

// holder is a repository that holds a file, and what it was when it took it.
type holder struct {
	Place       string `json:"place"`      // placeKey of the target
	Repository  string `json:"repository"` // its id: one made anew in its place is another
	Identity    int    `json:"identity"`
	SystemID    uint64 `json:"system-identifier,string"`
	Major       int    `json:"postgresql-major"`
	SegmentSize int64  `json:"wal-segment-size"`
	Time        int64  `json:"time"` // Unix seconds; filled in when it is written down
}

// same tells whether two holders are one identity in one repository.
func (h holder) same(o holder) bool {
	h.Time, o.Time = 0, 0
	return h == o
}

func holderOf(t PushTarget, s *repo.Stanza) holder {
	id := s.Current()
	return holder{Place: placeKey(t), Repository: s.Repository().Config().ID, Identity: id.Number,
		SystemID: id.SystemID, Major: id.Major, SegmentSize: id.SegmentSize}
}

// placeKey stands for a target in the spool.
func placeKey(t PushTarget) string {
	sum := xxh3.Hash128([]byte(t.Name + "\x00" + t.Place)).Bytes()
	return hex.EncodeToString(sum[:])
}

const acknowledgementVersion = 1

// acknowledgement says that a file is durable in the repositories that it names;
// in all of them, or in some, so that the next run asks only the others. It is
// written without fsync: what a crash leaves of it fails its checksum, and costs
// one push.
type acknowledgement struct {
	Version int    `json:"version"`
	File    string `json:"file"`
	contentSum
	Time    int64      `json:"time"` // Unix seconds, of the last change
	Holders []holder   `json:"repositories"`
	Stamp   *fileStamp `json:"stamp,omitempty"` // of the file with that content; nil is not known
}

// isOf tells whether the content that the file at path has now is the one that is
// acknowledged: by its stamp, or else by reading it.
func (a acknowledgement) isOf(path string) bool {
	f, err := look(path)
	if err != nil {
		return false
	}
	defer f.Close()
	if a.Stamp != nil && a.Stamp.Size == a.Size {
		if now, ok := f.stamp(); ok && now == *a.Stamp {
			return true
		}
	}
	now, err := f.sum()
	return err == nil && now == a.contentSum
}

func (s *Spool) acknowledgementPath(name string) string {
	return filepath.Join(s.part(spoolPush), name)
}

// readAcknowledgement gives the acknowledgement of a file; an error is none.
func (s *Spool) readAcknowledgement(name string) (acknowledgement, error) {
	var a acknowledgement
	if err := readDocument(s.acknowledgementPath(name), &a); err != nil {
		return acknowledgement{}, err
	}
	if a.Version != acknowledgementVersion || a.File != name || len(a.Holders) == 0 {
		return acknowledgement{}, fmt.Errorf("%s is not the acknowledgement of %s", s.acknowledgementPath(name), name)
	}
	return a, nil
}

func (s *Spool) writeAcknowledgement(a acknowledgement) error {
	return writeDocument(s.acknowledgementPath(a.File), a, false)
}

// counting gives the holders that count now for these places, which the caller
// still has to compare the content for. known are repositories that are open:
// one that was made anew, or upgraded to another cluster, holds nothing. control
// is the server's, nil if it is not known: then only a segment, whose content
// says of which cluster it is, can be acknowledged.
func (a acknowledgement) counting(places []string, known map[string]holder, control *postgres.Control, now time.Time) []holder {
	if control == nil && !isSegmentName(a.File) {
		return nil
	}
	var counting []holder
	for _, place := range places {
		i := slices.IndexFunc(a.Holders, func(h holder) bool { return h.Place == place })
		if i < 0 {
			continue
		}
		h := a.Holders[i]
		if open, isOpen := known[place]; isOpen && !h.same(open) || !isRecent(h.Time, now, partialAge) {
			continue
		}
		if control != nil && (h.SystemID != control.SystemID || h.Major != control.Major || h.SegmentSize != control.WALSegmentSize) {
			continue
		}
		counting = append(counting, h)
	}
	if len(counting) == len(places) && !isRecent(a.Time, now, acknowledgementAge) {
		return nil
	}
	return counting
}

// isRecent says no of what lies in the future too: a clock was set back.
func isRecent(unix int64, now time.Time, age time.Duration) bool {
	past := now.Unix() - unix
	return past >= 0 && past <= int64(age/time.Second)
}

// with adds the holders that took the content of o just now to those that count.
func (a acknowledgement) with(o outcome, counting []holder, now time.Time) acknowledgement {
	next := acknowledgement{Version: acknowledgementVersion, File: a.File, contentSum: o.content, Stamp: o.stamp, Time: now.Unix()}
	next.Holders = slices.Clone(counting)
	for _, h := range o.holders {
		h.Time = now.Unix()
		next.Holders = append(next.Holders, h)
	}
	return next
}

// sumChunk is what is read at a time: it stays in the processor's cache.
const sumChunk = 256 << 10

// sumFile gives the size and sum of a file as it is now.
func sumFile(path string) (contentSum, error) {
	f, err := look(path)
	if err != nil {
		return contentSum{}, err
	}
	defer f.Close()
	return f.sum()
}

func (w *walFile) sum() (contentSum, error) {
	in, err := w.Open()
	if err != nil {
		return contentSum{}, err
	}
	h := xxh3.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, in, make([]byte, sumChunk))
	if err != nil {
		return contentSum{}, fmt.Errorf("read WAL file: %w", err)
	}
	if n != w.size {
		return contentSum{}, errors.New("the WAL file changes while it is read")
	}
	return newContentSum(n, h.Sum128()), nil
}

func newContentSum(size int64, sum xxh3.Uint128) contentSum {
	b := sum.Bytes()
	return contentSum{Size: size, Sum: hex.EncodeToString(b[:])}
}

// heldContent is up to where a repo.WALContent holds a whole file in memory.
const heldContent = 64 << 20

// sumHeld sums what is stored, if it is held in memory.
func (w *walFile) sumHeld(content *repo.WALContent) contentSum {
	held, err := content.Head(int(w.size))
	if err != nil || int64(len(held)) < w.size {
		return contentSum{}
	}
	return newContentSum(w.size, xxh3.Hash128(held))
}

// sumLarge sums a file before it is pushed, if it will not be held. The function
// that it gives is to be called when it was: what was stored is only known if
// the file is still the same.
func (w *walFile) sumLarge() func() contentSum {
	if w.size <= heldContent {
		return func() contentSum { return contentSum{} }
	}
	before, err := w.sum()
	return func() contentSum {
		after, errAfter := w.sum()
		if err != nil || errAfter != nil || before != after {
			return contentSum{}
		}
		return after
	}
}

// openPlain opens a regular file, and nothing that a name may lead to instead.
func openPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
