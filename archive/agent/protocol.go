package agent

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pgbak/pgbak/archive"
)

// A message is its length in four bytes, most significant first, and a JSON
// object. The version is in every request; an agent of another one says so.
const (
	protocolVersion = 1
	maxMessage      = 64 << 10 // bytes, without the length
	maxText         = 4 << 10  // bytes of an error's text; the rest is cut off
	maxHint         = 1 << 10
	maxWarnings     = 16
	maxWarning      = 256 // bytes
)

// Operations of a request.
const (
	opPing = "ping"
	opPush = "push"
	opGet  = "get"
)

// Request is what a client asks for. Push and Get use what concerns them.
type Request struct {
	Version   int    `json:"version"`
	Operation string `json:"operation"`
	Stanza    string `json:"stanza,omitempty"`
	// Repositories are the names of those that the caller's configuration and flags
	// choose. The agent refuses to work if it does not mean the same ones: success
	// must say of all that they have the file.
	Repositories []string `json:"repositories,omitempty"`
	// Directory is the caller's working directory, absolute.
	Directory string `json:"directory,omitempty"`
	// Path is of the file to push, or of the destination of a get; relative to
	// Directory or absolute. The agent does not open the latter.
	Path string `json:"path,omitempty"`
	// Name is the WAL file to get.
	Name string `json:"name,omitempty"`
	// Identity is the number of the identity whose WAL is wanted; 0 is not said.
	Identity int `json:"identity,omitempty"`
	// Cluster is what the control file in the caller's directory says; nil if there is none.
	Cluster *Cluster `json:"cluster,omitempty"`
}

// Cluster tells a cluster from others, as its control file does.
type Cluster struct {
	SystemID    uint64 `json:"system-identifier,string"`
	Major       int    `json:"postgresql-major"`
	SegmentSize int64  `json:"wal-segment-size"` // bytes
	// Instance is as in archive.Recovery.
	Instance string `json:"instance,omitempty"`
}

// answer is a message of the agent's: one that only says that it is at work, or
// the last one.
type answer struct {
	Version  int              `json:"version"`
	Working  bool             `json:"working,omitempty"`
	Failure  *Failure         `json:"failure,omitempty"`
	Warnings []string         `json:"warnings,omitempty"`
	File     string           `json:"file,omitempty"`
	Stored   []archive.Stored `json:"stored,omitempty"`
	From     string           `json:"from,omitempty"` // the repository that had the file
	// Acknowledged, Dropped and Kept are as in archive.Result.
	Acknowledged bool `json:"acknowledged,omitempty"`
	Dropped      bool `json:"dropped,omitempty"`
	Kept         bool `json:"kept,omitempty"`
}

// setPushed and pushed carry an archive.Result, but for its errors.
func (a *answer) setPushed(r archive.Result) {
	// The warnings are cut to fit, and the result is that of others too.
	a.File, a.Stored, a.Warnings, a.Acknowledged, a.Dropped, a.Kept = r.File, r.Stored, slices.Clone(r.Warnings), r.Acknowledged, r.Dropped, r.Kept
}

func (a *answer) pushed() archive.Result {
	return archive.Result{File: a.File, Stored: a.Stored, Warnings: a.Warnings, Acknowledged: a.Acknowledged, Dropped: a.Dropped, Kept: a.Kept}
}

// Failure is the error of a request, as the agent's process would have ended on it.
type Failure struct {
	// Code is the exit code that fits the error itself, without regard to the command.
	Code int `json:"code"`
	// Absent says that the file is proven to be in no repository.
	Absent bool   `json:"absent,omitempty"`
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"`
}

func (f *Failure) Error() string { return f.Text }

// Is makes proven absence what it is to everybody.
func (f *Failure) Is(target error) bool { return f.Absent && target == archive.ErrAbsent }

// encode makes a message of v, which must fit.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, at most %d are allowed", len(body), maxMessage)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

// decode reads one message into v.
func decode(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d are allowed", n, maxMessage)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read message: %w", noEOF(err))
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// noEOF makes an end in the middle of a message one that is not expected.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bounded cuts what could make an answer too long. JSON writes a byte in at most
// six, so that texts, warnings and hint stay below maxMessage together with names.
func (a *answer) bounded() *answer {
	if f := a.Failure; f != nil {
		a.Failure = &Failure{Code: f.Code, Absent: f.Absent, Text: cut(f.Text, maxText), Hint: cut(f.Hint, maxHint)}
	}
	for i, w := range a.Warnings {
		if i == maxWarnings {
			a.Warnings = append(a.Warnings[:i:i], "and more")
			break
		}
		a.Warnings[i] = cut(w, maxWarning)
	}
	return a
}

// cut shortens text to n bytes and says so.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	text = text[:n]
	for !utf8.ValidString(text) && len(text) > n-utf8.UTFMax {
		text = text[:len(text)-1]
	}
	return strings.TrimSpace(text) + " ..."
}
