package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrSource is wrapped by Put when its Source does not yield as many bytes as
// it announced: what was read is not what the caller meant to store.
var ErrSource = errors.New("the content does not have its announced size")

// Bytes is a Source of b, which must not change before the Put has returned.
func Bytes(b []byte) Source { return bytesSource(b) }

type bytesSource []byte

func (b bytesSource) Size() int64 { return int64(len(b)) }

func (b bytesSource) Open() (io.ReadCloser, error) {
	return byteReader{bytes.NewReader(b)}, nil
}

// byteReader has the WriteTo of its Reader, which lets a Put write all of it in
// one piece, and its Seek.
type byteReader struct{ *bytes.Reader }

func (byteReader) Close() error { return nil }

// File is a Source of the file at path, which the caller found to have size
// bytes. A file that has become shorter or longer by the time it is read makes
// the Put fail with [ErrSource].
func File(path string, size int64) Source { return fileSource{path, size} }

type fileSource struct {
	path string
	size int64
}

func (f fileSource) Size() int64 { return f.size }

func (f fileSource) Open() (io.ReadCloser, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err // names the path
	}
	// An os.File writes itself to others in pieces of 32 KiB; without its
	// WriteTo the copy is made in the larger pieces of CopySource.
	return struct {
		io.ReadSeeker
		io.Closer
	}{file, file}, nil
}

// Pieces of a copy: how much is read at once from a source that is no memory,
// and after how much at most a cancelled context is noticed. In bytes.
const (
	readPiece  = 1 << 20
	writePiece = 8 << 20
)

// CopySource writes the content of src to w, for drivers' Puts. It writes in
// large pieces and looks at ctx between them. It fails with an error that wraps
// [ErrSource] when src yields fewer or more than src.Size() bytes; w may then
// have got all of them, but never more.
func CopySource(ctx context.Context, w io.Writer, src Source) error {
	r, err := src.Open()
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	defer r.Close()
	out := &pieces{ctx: ctx, w: w, left: src.Size()}
	buf := []byte(nil)
	if _, ok := r.(io.WriterTo); !ok {
		buf = make([]byte, min(readPiece, max(src.Size(), 1)))
	}
	if _, err := io.CopyBuffer(out, r, buf); err != nil {
		return fmt.Errorf("copy content: %w", err)
	}
	if out.left > 0 {
		return fmt.Errorf("%w: %d of %d bytes are missing", ErrSource, out.left, src.Size())
	}
	return nil
}

// pieces passes on exactly left bytes, in writes of at most writePiece.
type pieces struct {
	ctx  context.Context
	w    io.Writer
	left int64
}

func (p *pieces) Write(b []byte) (written int, err error) {
	if int64(len(b)) > p.left {
		return 0, fmt.Errorf("%w: more bytes follow", ErrSource)
	}
	for len(b) > 0 {
		if err := p.ctx.Err(); err != nil {
			return written, context.Cause(p.ctx)
		}
		n, err := p.w.Write(b[:min(len(b), writePiece)])
		written += n
		p.left -= int64(n)
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// Unpaced gives the reader below r that no limit of bandwidth holds back, or r
// itself when there is no limit (storage/limit). A driver that reads content to
// know its checksum, and then goes back to the start to send it, takes it from
// here the first time: what it does not send must not count.
func Unpaced(r io.Reader) io.Reader {
	if p, ok := r.(interface{ Unpaced() io.Reader }); ok {
		return p.Unpaced()
	}
	return r
}
