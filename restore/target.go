package restore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// TargetType says what kind of point recovery ends at, in pgBackRest's words.
type TargetType string

// The types of target.
const (
	TargetLatest    TargetType = "latest"    // the end of the archived WAL
	TargetImmediate TargetType = "immediate" // as soon as the backup is consistent
	TargetTime      TargetType = "time"      // a moment, by the times that commits carry
	TargetLSN       TargetType = "lsn"       // a position in the WAL
	TargetXID       TargetType = "xid"       // the end of one transaction
	TargetName      TargetType = "name"      // a point named by pg_create_restore_point
)

// The timelines that have no number, in the words of recovery_target_timeline.
const (
	TimelineLatest  = "latest"  // the newest that the archive knows
	TimelineCurrent = "current" // the one that the backup was taken on
)

// maxRestorePointName is the longest name of a restore point in bytes
// (MAXFNAMELEN of xlog_internal.h less its terminating zero).
const maxRestorePointName = 63

// firstNormalXID is the lowest transaction that can commit; those below it are
// PostgreSQL's own (access/transam.h).
const firstNormalXID = 3

// Target is the point that recovery is to end at. Of Time, LSN, XID and Name
// the one that Type names is set. The zero value is the end of the WAL.
type Target struct {
	Type TargetType
	Time time.Time // in whole microseconds, as PostgreSQL counts
	LSN  postgres.LSN
	XID  uint64 // PostgreSQL compares the lower 32 bits
	Name string
	// Exclusive ends recovery just before the target; only for time, lsn and xid.
	Exclusive bool
	// Timeline is TimelineLatest, TimelineCurrent, a decimal number, or empty:
	// the latest, and the backup's own for TargetImmediate.
	Timeline string
	// Action is recovery_target_action: "pause", "promote", "shutdown", or
	// empty: to pause at a target, and nothing at the end of the WAL.
	Action string
}

// ParseTarget reads a target as the command line gives it. A time without a
// zone is read in the given one, and a note for the user says so. typ may be
// empty when value is: that is the latest target.
//
// Errors name the value and what would be right.
func ParseTarget(typ, value string, exclusive bool, timeline, action string, zone *time.Location) (Target, []string, error) {
	t := Target{Type: TargetType(typ), Exclusive: exclusive, Action: action}
	if typ == "" {
		if value != "" {
			return Target{}, nil, fmt.Errorf("target %q has no type: add --type time, lsn, xid or name", value)
		}
		t.Type = TargetLatest
	}
	var err error
	if t.Timeline, err = parseTimeline(timeline); err != nil {
		return Target{}, nil, err
	}
	notes, err := t.parseValue(value, zone)
	if err != nil {
		return Target{}, nil, err
	}
	if err := t.checkFlags(); err != nil {
		return Target{}, nil, err
	}
	return t, notes, nil
}

func (t *Target) parseValue(value string, zone *time.Location) (notes []string, err error) {
	takesValue := t.Type != TargetLatest && t.Type != TargetImmediate
	if takesValue && value == "" {
		return nil, fmt.Errorf("target type %s needs a value: add --target", t.Type)
	}
	switch t.Type {
	case TargetLatest, TargetImmediate:
		if value != "" {
			return nil, fmt.Errorf("target type %s takes no value, but %q was given: use --type time, lsn, xid or name", t.Type, value)
		}
		return nil, nil
	case TargetTime:
		var note string
		t.Time, note, err = parseTime(value, zone)
		if note != "" {
			notes = append(notes, note)
		}
		return notes, err
	case TargetLSN:
		t.LSN, err = postgres.ParseLSN(value)
		if err == nil && t.LSN == 0 {
			err = fmt.Errorf("%q is not a position in the WAL", value)
		}
		return nil, err
	case TargetXID:
		return t.parseXID(value)
	case TargetName:
		if len(value) > maxRestorePointName || strings.ContainsAny(value, "\x00\n\r") {
			return nil, fmt.Errorf("restore point %q: a name has at most %d bytes and no line breaks", value, maxRestorePointName)
		}
		t.Name = value
		return nil, nil
	}
	return nil, fmt.Errorf("target type %q is unknown: use latest, immediate, time, lsn, xid or name", t.Type)
}

func (t *Target) parseXID(value string) (notes []string, err error) {
	t.XID, err = strconv.ParseUint(value, 10, 64)
	if err != nil || uint32(t.XID) < firstNormalXID {
		return nil, fmt.Errorf("%q is not a transaction id (want a decimal number from %d on, as txid_current() gives it)", value, firstNormalXID)
	}
	if t.XID>>32 != 0 {
		notes = append(notes, fmt.Sprintf("the WAL counts transactions modulo 2^32: transaction %d is looked for as %d", t.XID, uint32(t.XID)))
	}
	return notes, nil
}

// checkFlags refuses what PostgreSQL would silently ignore.
func (t *Target) checkFlags() error {
	if t.Exclusive && t.Type != TargetTime && t.Type != TargetLSN && t.Type != TargetXID {
		return fmt.Errorf("target type %s cannot be exclusive: only time, lsn and xid can", t.Type)
	}
	if t.Action == "" {
		return nil
	}
	if !slices.Contains([]string{"pause", "promote", "shutdown"}, t.Action) {
		return fmt.Errorf("target action %q is unknown: use pause, promote or shutdown", t.Action)
	}
	if t.Type == TargetLatest {
		return fmt.Errorf("target action %q has no effect with target type latest: at the end of the WAL the server always promotes", t.Action)
	}
	return nil
}

// parseTimeline reads "", "latest", "current", a decimal number, or the
// hexadecimal form of file names: eight digits, or with 0x in front. It
// returns the decimal form, which is what recovery_target_timeline wants.
func parseTimeline(s string) (string, error) {
	if s == "" || s == TimelineLatest || s == TimelineCurrent {
		return s, nil
	}
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = hex, 16
	} else if len(s) == 8 {
		base = 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n == 0 {
		return "", fmt.Errorf("timeline %q is unknown: use latest, current, a number, or the eight hexadecimal digits of a file name", s)
	}
	return strconv.FormatUint(n, 10), nil
}

// timeline resolves the empty word. A restore that ends with the backup stays
// on the backup's timeline: whatever came after does not concern it.
func (t Target) timeline() string {
	switch {
	case t.Timeline != "":
		return t.Timeline
	case t.Type == TargetImmediate:
		return TimelineCurrent
	default:
		return TimelineLatest
	}
}

// action resolves the empty word: at a target PostgreSQL pauses, unless a
// setting that was left over in postgresql.conf says otherwise, so it is told.
// At the end of the WAL it always promotes, and the setting has no effect.
func (t Target) action() string {
	if t.Action == "" && t.Type != TargetLatest {
		return "pause"
	}
	return t.Action
}

// Value is the target's value in PostgreSQL's form, empty for latest and
// immediate. Times are in UTC with an explicit offset, whatever zone they were
// given in, so that the server's TimeZone setting has no say.
func (t Target) Value() string {
	switch t.Type {
	case TargetTime:
		return formatTime(t.Time)
	case TargetLSN:
		return t.LSN.String()
	case TargetXID:
		return strconv.FormatUint(uint64(uint32(t.XID)), 10)
	case TargetName:
		return t.Name
	}
	return ""
}

// String names the target in messages, "time 2026-11-20 12:34:56+00".
func (t Target) String() string {
	switch t.Type {
	case TargetLatest, "":
		return "the end of the archived WAL"
	case TargetImmediate:
		return "the end of the backup"
	case TargetName:
		return fmt.Sprintf("restore point %q", t.Name)
	}
	s := string(t.Type) + " " + t.Value()
	if t.Type == TargetXID {
		s = "transaction " + t.Value()
	}
	if t.Exclusive {
		s = "just before " + s
	}
	return s
}
