package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/pgbak/pgbak/storage"
)

// content is what a Put sends in one request: exactly size bytes with a known
// SHA-256. It is an io.ReadSeeker for the SDK, which sends it from the start.
type content struct {
	ctx    context.Context
	r      io.ReadSeeker
	closer io.Closer
	size   int64
	hash   string // SHA-256 in hex
	at     int64
	// err is the fault of the source; there is none when sending has failed by itself.
	err error
}

// openContent reads the source once, which also proves its length before the server
// sees anything of it.
func openContent(ctx context.Context, src storage.Source) (*content, error) {
	r, err := src.Open()
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	c := &content{ctx: ctx, closer: r, size: src.Size()}
	sum := sha256.New()
	seeker, seeks := r.(io.ReadSeeker)
	if seeks {
		c.r = seeker
		// What is only hashed does not count for a limit of bandwidth: it is not sent.
		err = storage.CopySource(ctx, sum, opened{storage.Unpaced(r), c.size})
	} else {
		var kept bytes.Buffer
		kept.Grow(int(c.size)) // less than MultipartFrom
		err = storage.CopySource(ctx, io.MultiWriter(sum, &kept), opened{r, c.size})
		c.r = bytes.NewReader(kept.Bytes())
	}
	if err == nil {
		_, err = c.Seek(0, io.SeekStart)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.hash = hex.EncodeToString(sum.Sum(nil))
	return c, nil
}

// bytesContent is a part that is in memory.
func bytesContent(ctx context.Context, b []byte) *content {
	sum := sha256.Sum256(b)
	r := bytes.NewReader(b)
	return &content{ctx: ctx, r: r, closer: io.NopCloser(r), size: int64(len(b)), hash: hex.EncodeToString(sum[:])}
}

// opened is a Source of a reader that is open already and stays open.
type opened struct {
	r    io.Reader
	size int64
}

func (o opened) Size() int64 { return o.size }

func (o opened) Open() (io.ReadCloser, error) {
	if to, ok := o.r.(io.WriterTo); ok {
		return struct {
			io.Reader
			io.WriterTo
			io.Closer
		}{o.r, to, io.NopCloser(nil)}, nil
	}
	return io.NopCloser(o.r), nil
}

// Read yields what the source yielded when it was read first, as far as its length
// tells; different bytes of the same length are refused by the server.
func (c *content) Read(p []byte) (int, error) {
	if cause := ended(c.ctx); cause != nil {
		return 0, cause
	}
	if c.at == c.size {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.size-c.at)])
	c.at += int64(n)
	switch {
	case err == nil || c.at == c.size:
		return n, nil
	case err == io.EOF:
		err = fmt.Errorf("%w: it has become shorter while it was sent", storage.ErrSource)
	}
	c.err = fmt.Errorf("copy content: %w", err)
	return n, c.err
}

// Seek goes to an offset between 0 and size.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 || offset > c.size {
		return c.at, fmt.Errorf("seek to %d of %d bytes", offset, c.size)
	}
	if _, err := c.r.Seek(offset, io.SeekStart); err != nil {
		c.err = fmt.Errorf("copy content: %w", err)
		return c.at, c.err
	}
	c.at = offset
	return offset, nil
}

func (c *content) Close() error { return c.closer.Close() }
