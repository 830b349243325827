package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// troubleName is a document with what kept segments from being fetched ahead
	// last. Who fetches ahead has no log that anybody reads.
	troubleName = "trouble"
	maxTrouble  = 1000 // bytes of its text
)

type prefetchTrouble struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Complain leaves word of trouble for the next who asks for a segment, in place of
// what was left before. The text is one line.
func (q *PrefetchQueue) Complain(text string) error {
	if len(text) > maxTrouble {
		text = strings.ToValidUTF8(text[:maxTrouble], "") + " ..."
	}
	return writeDocument(filepath.Join(q.dir, troubleName), prefetchTrouble{q.clock().UTC(), text}, false)
}

// complaint takes the word that was left; nil if there is none. What cannot be read is
// removed as well: it is not worth more than one line.
func (q *PrefetchQueue) complaint() error {
	path := filepath.Join(q.dir, troubleName)
	var t prefetchTrouble
	err := readDocument(path, &t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if removed := os.RemoveAll(path); err == nil || removed != nil {
		err = removed
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("at %s: %s", t.At.Format(time.RFC3339), t.Text)
}
