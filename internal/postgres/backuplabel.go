package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// BackupLabel is the content of backup_label, the file that makes a server begin
// recovery at the start of a base backup.
type BackupLabel struct {
	// Start is where recovery begins to replay, StartFile the WAL segment
	// that holds it.
	Start     LSN
	StartFile string
	// Checkpoint is the position of the backup's checkpoint record.
	Checkpoint LSN
	// Method is "streamed" (or "pg_start_backup" of an exclusive backup),
	// From "primary" or "standby".
	Method, From string
	// StartTime is the server's text, in its log_timezone; for people.
	StartTime string
	Label     string
	// Timeline is the one on which the backup started.
	Timeline Timeline
	// IncrementalFrom and IncrementalTimeline are set in an incremental backup
	// of PostgreSQL 17 and later, which cannot be started as it is.
	IncrementalFrom     LSN
	IncrementalTimeline Timeline
}

// ParseBackupLabel reads backup_label, or the backup history file that archives
// the same lines. The two positions must be there; what later readers only show
// may be missing. Lines of other kinds are passed over, as a label may hold line
// breaks; the same kind twice is refused, as it could be such a label's doing.
func ParseBackupLabel(data []byte) (BackupLabel, error) {
	fields, err := labelFields(string(data))
	if err != nil {
		return BackupLabel{}, err
	}
	b := BackupLabel{
		Method:    fields["BACKUP METHOD"],
		From:      fields["BACKUP FROM"],
		StartTime: fields["START TIME"],
		Label:     fields["LABEL"],
	}
	if err := b.parseStart(fields["START WAL LOCATION"]); err != nil {
		return BackupLabel{}, err
	}
	if b.Checkpoint, err = ParseLSN(fields["CHECKPOINT LOCATION"]); err != nil {
		return BackupLabel{}, fmt.Errorf("backup_label: CHECKPOINT LOCATION: %w", err)
	}
	if err := b.parseTimelines(fields); err != nil {
		return BackupLabel{}, err
	}
	return b, nil
}

// labelFields gathers the "NAME: value" lines that PostgreSQL writes.
func labelFields(text string) (map[string]string, error) {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			continue
		}
		switch name {
		case "START WAL LOCATION", "CHECKPOINT LOCATION", "BACKUP METHOD", "BACKUP FROM", "START TIME",
			"LABEL", "START TIMELINE", "INCREMENTAL FROM LSN", "INCREMENTAL FROM TLI":
		default:
			continue
		}
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("backup_label: more than one line %s", name)
		}
		fields[name] = value
	}
	return fields, nil
}

// parseStart reads "0/2000028 (file 000000010000000000000002)".
func (b *BackupLabel) parseStart(value string) error {
	point, rest, _ := strings.Cut(value, " ")
	start, err := ParseLSN(point)
	if err != nil {
		return fmt.Errorf("backup_label: START WAL LOCATION: %w", err)
	}
	name, ok := strings.CutPrefix(rest, "(file ")
	name, closed := strings.CutSuffix(name, ")")
	if !ok || !closed || len(name) != segmentDigits {
		return fmt.Errorf("backup_label: START WAL LOCATION %q names no WAL file", clip(value))
	}
	for i := 0; i < segmentDigits; i += 8 {
		digits, ok := parseHex8(name[i : i+8])
		if !ok || i == 0 && digits == 0 {
			return fmt.Errorf("backup_label: START WAL LOCATION %q names no WAL file", clip(value))
		}
		if i == 0 {
			b.Timeline = Timeline(digits)
		}
	}
	b.Start, b.StartFile = start, name
	return nil
}

// parseTimelines checks the start's timeline against the one in the file's name,
// as the server does, and reads where an incremental backup begins.
func (b *BackupLabel) parseTimelines(fields map[string]string) error {
	if text, ok := fields["START TIMELINE"]; ok {
		tli, err := strconv.ParseUint(text, 10, 32)
		if err != nil || Timeline(tli) != b.Timeline {
			return fmt.Errorf("backup_label: START TIMELINE %q does not fit WAL file %s", clip(text), b.StartFile)
		}
	}
	from, incremental := fields["INCREMENTAL FROM LSN"]
	if !incremental {
		return nil
	}
	var err error
	if b.IncrementalFrom, err = ParseLSN(from); err != nil {
		return fmt.Errorf("backup_label: INCREMENTAL FROM LSN: %w", err)
	}
	tli, err := strconv.ParseUint(fields["INCREMENTAL FROM TLI"], 10, 32)
	if err != nil || tli == 0 {
		return fmt.Errorf("backup_label: INCREMENTAL FROM TLI %q is not a timeline", clip(fields["INCREMENTAL FROM TLI"]))
	}
	b.IncrementalTimeline = Timeline(tli)
	return nil
}
