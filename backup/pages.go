package backup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
)

// A page whose checksum fails is most often one that the server is writing
// just now: it is read again. If its bytes have changed, the server wrote it
// and WAL will bring the whole page, since full-page images are on during a
// backup; if it fails with the same bytes every time, it is damaged on disk.
const (
	rereads    = 4
	rereadWait = 5 * time.Millisecond
)

// pageReader verifies the pages of one relation segment.
type pageReader struct {
	c    *copier
	f    *os.File
	path string
	rel  postgres.RelationFile
}

// check verifies the whole pages in raw, which was read at offset. Pages that
// were read again are replaced in raw by what was read last.
func (p pageReader) check(ctx context.Context, raw []byte, offset int64) (bad bool, err error) {
	size := p.c.pageSize
	first := p.rel.Segment*uint32(p.c.control.SegmentBlocks) + uint32(offset/int64(size))
	for i := 0; (i+1)*size <= len(raw); i++ {
		page := raw[i*size : (i+1)*size]
		block := first + uint32(i)
		if postgres.CheckPage(page, block) != postgres.PageInvalid {
			continue
		}
		damaged, err := p.again(ctx, page, block, offset+int64(i*size))
		if err != nil {
			return bad, err
		}
		if damaged {
			bad = true
			p.c.errors.add(p.path, block)
			p.c.o.Log.Warn("page checksum is wrong", "file", p.path, "block", block)
		}
	}
	return bad, nil
}

// again reads a page until it is valid or has changed.
func (p pageReader) again(ctx context.Context, page []byte, block uint32, offset int64) (damaged bool, err error) {
	next := make([]byte, len(page))
	for range rereads {
		n, err := p.f.ReadAt(next, offset)
		if err != nil && err != io.EOF {
			return false, fmt.Errorf("read %s at %d again: %w", p.path, offset, err)
		}
		if n < len(next) {
			return false, nil // truncated meanwhile
		}
		changed := !bytes.Equal(next, page)
		copy(page, next)
		if changed || postgres.CheckPage(page, block) != postgres.PageInvalid {
			return false, nil
		}
		if err := pause.For(ctx, rereadWait); err != nil {
			return false, err
		}
	}
	return true, nil
}
