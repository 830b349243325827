package postgres

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func incrementalHead(truncation uint32, blocks ...uint32) []byte {
	b, _ := binary.Append(nil, binary.LittleEndian, append([]uint32{incrementalMagic, uint32(len(blocks)), truncation}, blocks...))
	if len(blocks) > 0 {
		b = append(b, make([]byte, 8192-len(b)+8192*len(blocks))...)
	}
	return b
}

// TestReadIncrementalFile reads what servers send. Older minor releases give
// every segment the limit of the whole relation, which can be beyond the segment.
func TestReadIncrementalFile(t *testing.T) {
	for _, c := range []struct {
		title  string
		b      []byte
		length uint32
		want   string
	}{
		{"nothing changed", incrementalHead(100), 100, ""},
		{"a block beyond the truncation", incrementalHead(5, 1, 7), 8, ""},
		{"a relation that was cut in a later segment", incrementalHead(1500, 3), 1000, ""},
		{"a block beyond the segment", incrementalHead(5, 1000), 0, "block 1000 at place 0 is out of order or of the segment"},
		{"blocks in disorder", incrementalHead(5, 3, 3), 0, "out of order"},
		{"cut short", incrementalHead(5, 3)[:8200], 0, "want 16384"},
	} {
		f, err := ReadIncrementalFile(bytes.NewReader(c.b), int64(len(c.b)), 8192, 1000)
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.title, err, c.want)
			}
		case err != nil || f.Length() != c.length:
			t.Errorf("%s: %+v, %v, want a length of %d", c.title, f, err, c.length)
		}
	}
}
