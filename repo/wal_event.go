package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

const walEventFormat = "pgbak-wal-event"

// WALEventKind is what a [WALEvent] tells.
type WALEventKind string

// The kinds of events. Readers show one that they do not know as it is.
const (
	// WALConflict: a file was pushed under a name that other content has.
	WALConflict WALEventKind = "conflict"
	// WALHistoryConflict: the same of a timeline history file: two servers have
	// begun the same timeline.
	WALHistoryConflict WALEventKind = "history-conflict"
	// WALDropped: archive-push gave segments up because of archive.queue-max.
	WALDropped WALEventKind = "dropped"
	// WALNotReceived: archive-receive went on behind WAL that the server had not
	// got any more. It may be archived all the same, by archive_command.
	WALNotReceived WALEventKind = "not-received"
	// WALGapAcknowledged: a person knows of the gap.
	WALGapAcknowledged WALEventKind = "gap-acknowledged"
	// WALForeign: a file of another cluster was refused.
	WALForeign WALEventKind = "foreign"
)

// WALEvent is something about a stanza's WAL that the files alone do not tell. It
// is written once; no decision about content rests on it, only what a person is
// told, and what check takes for known.
type WALEvent struct {
	Kind     WALEventKind      `json:"kind"`
	Identity int               `json:"identity"` // filled in by RecordWALEvent
	Timeline postgres.Timeline `json:"timeline,omitempty"`
	// First and Last are names of WAL files: a range of segments of one timeline,
	// or the same file, of whatever kind, twice.
	First string `json:"first,omitempty"`
	Last  string `json:"last,omitempty"`
	// Archived and Refused are content ids, in hexadecimal, of what is archived
	// and of what was pushed over it.
	Archived string `json:"archived,omitempty"`
	Refused  string `json:"refused,omitempty"`
	// SystemID and Major are those of a foreign cluster.
	SystemID uint64 `json:"system-identifier,string,omitempty"`
	Major    int    `json:"postgresql-major,omitempty"`
	// Host and Path are where the file came from, or where segments were dropped;
	// By and Note are of who acknowledged a gap.
	Host string `json:"host,omitempty"`
	Path string `json:"path,omitempty"`
	By   string `json:"by,omitempty"`
	Note string `json:"note,omitempty"`
	// Message is more for people, in one sentence.
	Message string `json:"message,omitempty"`
	// Time is when it was first seen; RecordWALEvent fills it in if it is zero.
	Time time.Time `json:"time"`
}

// Bounds of what an event may hold, so that a server that is refused for years
// cannot fill a repository with long texts.
const (
	maxEventText = 2048
	maxEvent     = 64 << 10
)

// same is what makes two events one: all but the time and the words. Files of a
// foreign cluster are one event however many it pushes, because its archiver
// would go through all of its names.
func (e WALEvent) same() WALEvent {
	e.Time, e.Message = time.Time{}, ""
	if e.Kind == WALForeign {
		e.Timeline, e.First, e.Last, e.Path, e.Refused = 0, "", "", "", ""
	}
	return e
}

// key is the same for the same event, so that a server that tries again every
// minute leaves one object.
func (e WALEvent) key(stanza string) (string, error) {
	raw, err := json.Marshal(e.same())
	if err != nil {
		return "", fmt.Errorf("encode WAL event: %w", err)
	}
	sum := sha256.Sum256(raw)
	return fmt.Sprintf("%s%s-%s", eventsPrefix(stanza, e.Identity), e.Kind, hex.EncodeToString(sum[:12])), nil
}

func (e WALEvent) check(id Identity) error {
	switch e.Kind {
	case WALConflict, WALHistoryConflict, WALDropped, WALNotReceived, WALGapAcknowledged, WALForeign:
	default:
		return fmt.Errorf("WAL event of unknown kind %q", e.Kind)
	}
	for _, name := range []string{e.First, e.Last} {
		f, err := postgres.ParseWALFile(name, id.SegmentSize)
		if name == "" && e.Kind == WALForeign {
			continue // its names may follow another segment size
		}
		if err != nil && e.Kind != WALForeign {
			return fmt.Errorf("WAL event %s: %w", e.Kind, err)
		}
		if isRange := e.Kind == WALDropped || e.Kind == WALNotReceived || e.First != e.Last; isRange && e.Kind != WALForeign && f.Kind != postgres.WALSegment {
			return fmt.Errorf("WAL event %s: %s is no segment", e.Kind, name)
		}
	}
	if e.Kind != WALForeign && (e.First > e.Last || e.First[:8] != e.Last[:8]) {
		return fmt.Errorf("WAL event %s: %s to %s is no range of one timeline", e.Kind, e.First, e.Last)
	}
	return nil
}

// RecordWALEvent stores an event of the identity; durable on return. The same
// event again, by whomever, changes nothing: what stays is the time of the first.
// Texts that are too long are cut.
func (s *Stanza) RecordWALEvent(ctx context.Context, id Identity, e WALEvent) error {
	if err := s.repo.config.checkWrite(s.repo.location()); err != nil {
		return err
	}
	e.Identity = id.Number
	for _, text := range []*string{&e.Host, &e.Path, &e.By, &e.Note, &e.Message} {
		*text = strings.ToValidUTF8((*text)[:min(len(*text), maxEventText)], "?")
	}
	if err := e.check(id); err != nil {
		return err
	}
	if e.Timeline == 0 && e.First != "" {
		if f, err := postgres.ParseWALFile(e.First, id.SegmentSize); err == nil {
			e.Timeline = f.Timeline
		}
	}
	if e.Time.IsZero() {
		e.Time = s.repo.o.Clock()
	}
	e.Time = e.Time.UTC().Truncate(time.Second)
	key, err := e.key(s.name)
	if err != nil {
		return err
	}
	err = putDocument(ctx, s.repo.store, key, walEventFormat, e, storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("record WAL event %s: %w", e.Kind, err)
	}
	return nil
}

// eventReads is how many events are read at once.
const eventReads = 16

// WALEvents reads the events of all identities, in the order of their keys. With
// an error it gives those that can be read.
func (s *Stanza) WALEvents(ctx context.Context) ([]WALEvent, error) {
	var keys []string
	prefix := stanzaEventsPrefix(s.name)
	for obj, err := range s.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list WAL events of stanza %s: %w", s.name, err)
		}
		keys = append(keys, obj.Key)
	}
	return s.readEvents(ctx, keys)
}

func (s *Stanza) readEvents(ctx context.Context, keys []string) ([]WALEvent, error) {
	events, broken := make([]WALEvent, len(keys)), make([]error, len(keys))
	err := readEach(ctx, len(keys), eventReads, func(ctx context.Context, i int) error {
		data, err := readWhole(ctx, s.repo.store, keys[i], maxEvent)
		if err == nil {
			_, err = decodeDocument(keys[i], walEventFormat, data, &events[i])
		}
		if err == nil && !strings.HasPrefix(keys[i], eventsPrefix(s.name, events[i].Identity)) {
			err = damagedf(keys[i], "", "it says identity %d", events[i].Identity)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isAbsent(err):
		case err != nil:
			events[i], broken[i] = WALEvent{}, err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []WALEvent
	for _, e := range events {
		if e.Kind != "" {
			out = append(out, e)
		}
	}
	return out, errors.Join(broken...)
}
