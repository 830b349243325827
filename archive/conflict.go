package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// tellConflict adds to a conflict what a person needs who is woken by it: who
// pushes what from where, and where the two contents part. Who stored what is
// archived is not known. It records the event in the repository, so that the
// ledger shows it when the server's log is gone. Other errors stay as they are.
func (p *Pusher) tellConflict(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile, err error) error {
	c, ok := errors.AsType[*repo.WALConflictError](err)
	if !ok {
		return p.tellForeign(ctx, s, file, err)
	}
	path := absolute(file.path)
	if c.File != filepath.Base(path) {
		path = filepath.Join(absolute(file.dir()), c.File) // an ancestor's history
	}
	event := repo.WALEvent{Kind: repo.WALConflict, First: c.File, Last: c.File, Archived: c.Archived.String(), Refused: c.Pushed.String(), Host: p.Host, Path: path}
	if strings.HasSuffix(c.File, ".history") {
		event.Kind = repo.WALHistoryConflict
		err = hint.Wrap(err, "two servers have begun the same timeline: only one of them may archive to stanza %s; stop the other and make it a standby anew. Nothing was overwritten.", s.Name())
	} else {
		event.Message = whereTheyPart(ctx, s, f, file)
	}
	err = fmt.Errorf("%w; it was pushed by host %s from %s", err, p.host(), path)
	if event.Message == "" {
		event.Message = c.Error()
	} else {
		err = fmt.Errorf("%w; %s", err, event.Message)
	}
	return p.record(ctx, s, event, err)
}

// tellForeign records the file of another cluster that was refused.
func (p *Pusher) tellForeign(ctx context.Context, s *repo.Stanza, file *walFile, err error) error {
	r, ok := errors.AsType[*refused](err)
	if !ok || r.foreign == 0 {
		return err
	}
	name := filepath.Base(file.path)
	return p.record(ctx, s, repo.WALEvent{Kind: repo.WALForeign, First: name, Last: name, SystemID: r.foreign, Major: r.major,
		Host: p.Host, Path: absolute(file.path), Message: r.Error()}, err)
}

// record stores the event. What is in the way of that is only logged: the error
// that it tells of is the news.
func (p *Pusher) record(ctx context.Context, s *repo.Stanza, e repo.WALEvent, err error) error {
	if recordErr := s.RecordWALEvent(ctx, s.Current(), e); recordErr != nil {
		p.Log.WarnContext(ctx, "the conflict is not recorded in the repository", "file", e.First, "cause", recordErr)
	}
	return err
}

func (p *Pusher) host() string {
	if p.Host == "" {
		return "(unknown)"
	}
	return p.Host
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// comparedAtOnce, in bytes, is no less than any page of WAL.
const comparedAtOnce = 64 << 10

// whereTheyPart compares the file with what is archived under its name and says
// up to where both are the same, and what each holds there. What cannot be told
// is left out: it explains an error, and must not replace it.
func whereTheyPart(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile) string {
	archived, err := s.OpenWAL(ctx, s.Current(), f)
	if err != nil {
		return ""
	}
	defer archived.Close()
	local, err := file.Open()
	if err != nil {
		return ""
	}
	defer local.Close()
	a, b := bufio.NewReaderSize(archived, comparedAtOnce), bufio.NewReaderSize(local, comparedAtOnce)
	var x, y [comparedAtOnce]byte
	blockSize := int64(0)
	for at := int64(0); ; at += comparedAtOnce {
		n, errA := io.ReadFull(a, x[:])
		m, errB := io.ReadFull(b, y[:])
		if at == 0 {
			if h, err := postgres.ParseWALHeader(x[:n]); err == nil {
				blockSize = int64(h.BlockSize)
			}
		}
		if i := firstDifference(x[:n], y[:m]); i >= 0 {
			return partText(s.Current(), f, at+int64(i), at, blockSize, x[:n], y[:m])
		}
		if errA != nil || errB != nil {
			return ""
		}
	}
}

// firstDifference is -1 if a and b are the same.
func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return n
	}
	return -1
}

// partText says what two files hold that part at an offset; a and b are the bytes
// of both from another offset on, which is a page's.
func partText(id repo.Identity, f postgres.WALFile, offset, from, blockSize int64, a, b []byte) string {
	if blockSize == 0 || f.Kind != postgres.WALSegment && f.Kind != postgres.WALPartial {
		return fmt.Sprintf("both are the same up to byte %d", offset)
	}
	page := offset - offset%blockSize
	addr := f.Start(id.SegmentSize) + postgres.LSN(page)
	cut := func(b []byte) []byte { return b[min(page-from, int64(len(b))):min(page-from+blockSize, int64(len(b)))] }
	return fmt.Sprintf("both are the same up to LSN %s; there what is archived holds %s, the pushed file holds %s",
		f.Start(id.SegmentSize)+postgres.LSN(offset), pageText(cut(a), addr, offset-page), pageText(cut(b), addr, offset-page))
}

// pageText says what a page of WAL holds from offset on, by its header: magic 2,
// flags 2, timeline 4, address 8.
func pageText(page []byte, addr postgres.LSN, offset int64) string {
	const header = 16
	le := binary.LittleEndian
	switch {
	case int64(len(page)) < max(header, offset):
		return "nothing"
	case len(bytes.TrimLeft(page[offset:], "\x00")) == 0:
		return "zeros"
	case postgres.LSN(le.Uint64(page[8:])) != addr:
		return fmt.Sprintf("what is left of LSN %s", postgres.LSN(le.Uint64(page[8:])))
	}
	return fmt.Sprintf("WAL of timeline %d", le.Uint32(page[4:]))
}
