package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// WALKind tells the four kinds of file that PostgreSQL archives apart.
type WALKind int

// The kinds, in the order of PostgreSQL's own name checks (xlog_internal.h).
const (
	// WALSegment is a complete segment, 24 hexadecimal digits.
	WALSegment WALKind = iota
	// WALPartial is the last segment of a timeline that was left at a
	// promotion, or one that pg_receivewal is writing: SEGMENT.partial.
	WALPartial
	// WALBackup is a backup history file: SEGMENT.OFFSET.backup.
	WALBackup
	// WALHistory is a timeline history file: TIMELINE.history.
	WALHistory
)

// String names the kind as PostgreSQL's documentation does.
func (k WALKind) String() string {
	switch k {
	case WALSegment:
		return "WAL segment"
	case WALPartial:
		return "partial WAL segment"
	case WALBackup:
		return "backup history file"
	case WALHistory:
		return "timeline history file"
	}
	return "WAL file of unknown kind " + strconv.Itoa(int(k))
}

// WALFile is what the name of a file in pg_wal says.
type WALFile struct {
	Kind     WALKind
	Timeline Timeline
	// Segment is the number of the segment counted from position 0, for a
	// given segment size; 0 for a history file.
	Segment uint64
	// Offset is the start of the backup in bytes within the segment; only
	// a backup history file has one.
	Offset uint32
}

// The smallest and largest segment that initdb --wal-segsize makes.
const (
	MinWALSegmentSize = 1 << 20
	MaxWALSegmentSize = 1 << 30
)

// ValidSegmentSize says whether PostgreSQL allows segments of n bytes: a power
// of two from 1 MiB to 1 GiB.
func ValidSegmentSize(n int64) bool {
	return n >= MinWALSegmentSize && n <= MaxWALSegmentSize && n&(n-1) == 0
}

// SegmentsPerLog is the number of segments of size bytes in one "log", the 4 GiB
// that the middle eight digits of a name count. size must be valid.
func SegmentsPerLog(size int64) uint64 { return 0x100000000 / uint64(size) }

const (
	partialSuffix = ".partial"
	backupSuffix  = ".backup"
	historySuffix = ".history"
	segmentDigits = 24
)

// ParseWALFile reads the name of a WAL file, without a directory. segmentSize is
// that of the cluster, in bytes; a history file does not depend on it.
//
// Only names that PostgreSQL itself would write are accepted: upper-case digits,
// a timeline other than 0, a segment number that fits the segment size.
func ParseWALFile(name string, segmentSize int64) (WALFile, error) {
	f, ok := parseWALKind(name, segmentSize)
	if !ok {
		return WALFile{}, fmt.Errorf("%q is not the name of a WAL file (segment size %d)", clip(name), segmentSize)
	}
	return f, nil
}

func parseWALKind(name string, segmentSize int64) (WALFile, bool) {
	if digits, ok := strings.CutSuffix(name, historySuffix); ok {
		tli, ok := parseHex8(digits)
		return WALFile{Kind: WALHistory, Timeline: Timeline(tli)}, ok && tli != 0
	}
	if !ValidSegmentSize(segmentSize) || len(name) < segmentDigits {
		return WALFile{}, false
	}
	f, ok := parseSegmentDigits(name[:segmentDigits], segmentSize)
	if !ok {
		return WALFile{}, false
	}
	switch rest := name[segmentDigits:]; {
	case rest == "":
		return f, true
	case rest == partialSuffix:
		f.Kind = WALPartial
		return f, true
	case rest[0] == '.' && strings.HasSuffix(rest[1:], backupSuffix):
		f.Kind = WALBackup
		f.Offset, ok = parseHex8(strings.TrimSuffix(rest[1:], backupSuffix))
		return f, ok && int64(f.Offset) < segmentSize
	}
	return WALFile{}, false
}

// parseSegmentDigits reads timeline, log and segment within the log.
func parseSegmentDigits(digits string, segmentSize int64) (WALFile, bool) {
	tli, ok1 := parseHex8(digits[:8])
	log, ok2 := parseHex8(digits[8:16])
	seg, ok3 := parseHex8(digits[16:])
	perLog := SegmentsPerLog(segmentSize)
	if !ok1 || !ok2 || !ok3 || tli == 0 || uint64(seg) >= perLog {
		return WALFile{}, false
	}
	return WALFile{Kind: WALSegment, Timeline: Timeline(tli), Segment: uint64(log)*perLog + uint64(seg)}, true
}

// parseHex8 reads exactly eight upper-case hexadecimal digits.
func parseHex8(s string) (uint32, bool) {
	if len(s) != 8 {
		return 0, false
	}
	var v uint32
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(c)
	}
	return v, true
}

// Name is the file's name in pg_wal, for segments of segmentSize bytes.
func (f WALFile) Name(segmentSize int64) string {
	if f.Kind == WALHistory {
		return f.Timeline.String() + historySuffix
	}
	perLog := SegmentsPerLog(segmentSize)
	name := fmt.Sprintf("%08X%08X%08X", uint32(f.Timeline), f.Segment/perLog, f.Segment%perLog)
	switch f.Kind {
	case WALPartial:
		return name + partialSuffix
	case WALBackup:
		return fmt.Sprintf("%s.%08X%s", name, f.Offset, backupSuffix)
	}
	return name
}

// Start is the position of the segment's first byte, for segments of
// segmentSize bytes.
func (f WALFile) Start(segmentSize int64) LSN { return LSN(f.Segment * uint64(segmentSize)) }
