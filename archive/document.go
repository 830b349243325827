package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
)

// A document of the spool is one line of JSON and one with the xxh3-64 of the
// first, in hexadecimal. Whatever is not exactly that is no document.
const (
	maxDocument  = 1 << 20
	documentTail = 16 + 1
)

var errNoDocument = errors.New("not a whole document of this program")

func encodeDocument(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	return fmt.Appendf(line, "%016x\n", xxh3.Hash(line)), nil
}

func decodeDocument(data []byte, v any) error {
	if len(data) <= documentTail {
		return errNoDocument
	}
	line, tail := data[:len(data)-documentTail], data[len(data)-documentTail:]
	if string(tail) != fmt.Sprintf("%016x\n", xxh3.Hash(line)) || bytes.IndexByte(line, '\n') != len(line)-1 {
		return errNoDocument
	}
	return json.Unmarshal(line, v)
}

func readDocument(path string, v any) error {
	f, err := openPlain(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxDocument {
		return fmt.Errorf("%s: %w", path, errNoDocument)
	}
	if err := decodeDocument(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// temporaryMark is in the names of files that are being written; no WAL file's
// name begins so.
const temporaryMark = ".writing-"

// writeDocument replaces a document in one step; with durable it is so, name
// included, on return.
func writeDocument(path string, v any, durable bool) error {
	data, err := encodeDocument(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporaryMark)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if !durable {
		return nil
	}
	if err := syncDirectory(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}
