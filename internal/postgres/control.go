package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// ControlFileSize is the length of global/pg_control on disk, in bytes. All
// that matters is in the first 512, so that one disk sector holds it.
const ControlFileSize = 8192

// ErrControlChecksum is in the chain of ParseControl's error when the file is
// that of a known PostgreSQL but its checksum does not fit. The server rewrites
// the file in place, so a reader beside a running server may meet a torn one
// and should read it again.
var ErrControlChecksum = errors.New("checksum of pg_control does not match")

// ControlState is what the cluster was doing when pg_control was written
// (DBState of catalog/pg_control.h).
type ControlState uint32

// The states, with PostgreSQL's numbers.
const (
	ControlStartingUp ControlState = iota
	ControlShutDown
	ControlShutDownInRecovery
	ControlShuttingDown
	ControlInCrashRecovery
	ControlInArchiveRecovery
	ControlInProduction
)

// String gives the words of pg_controldata.
func (s ControlState) String() string {
	switch s {
	case ControlStartingUp:
		return "starting up"
	case ControlShutDown:
		return "shut down"
	case ControlShutDownInRecovery:
		return "shut down in recovery"
	case ControlShuttingDown:
		return "shutting down"
	case ControlInCrashRecovery:
		return "in crash recovery"
	case ControlInArchiveRecovery:
		return "in archive recovery"
	case ControlInProduction:
		return "in production"
	}
	return "unrecognized status code " + strconv.Itoa(int(s))
}

// WALLevel is the setting wal_level as pg_control stores it.
type WALLevel int32

// The levels, with PostgreSQL's numbers (access/xlog.h).
const (
	WALLevelMinimal WALLevel = iota
	WALLevelReplica
	WALLevelLogical
)

// String gives the value of the setting.
func (l WALLevel) String() string {
	switch l {
	case WALLevelMinimal:
		return "minimal"
	case WALLevelReplica:
		return "replica"
	case WALLevelLogical:
		return "logical"
	}
	return "unrecognized wal_level " + strconv.Itoa(int(l))
}

// Control is what global/pg_control says of a cluster (ControlFileData of
// catalog/pg_control.h).
type Control struct {
	// SystemID is the identifier that initdb gave the cluster.
	SystemID uint64
	// Major is the PostgreSQL major, from the catalog version.
	Major                          int
	ControlVersion, CatalogVersion uint32

	State ControlState
	// Modified is when the file was last written, to the second.
	Modified time.Time

	// Checkpoint is the position of the last checkpoint record, Redo the one
	// from which it makes recovery start, Timeline its timeline and
	// PrevTimeline the one before if it ended a recovery (else the same).
	Checkpoint, Redo       LSN
	Timeline, PrevTimeline Timeline
	CheckpointTime         time.Time
	FullPageWrites         bool
	// NextXID is the next transaction with its epoch in the upper half.
	NextXID uint64

	// MinRecoveryPoint is where recovery must have come before the cluster is
	// consistent, 0 if none is under way; BackupStart and BackupEnd bound the
	// base backup that is being recovered.
	MinRecoveryPoint       LSN
	MinRecoveryTimeline    Timeline
	BackupStart, BackupEnd LSN
	BackupEndRequired      bool

	// The settings that a standby must not undercut.
	WALLevel           WALLevel
	WALLogHints        bool
	MaxConnections     int
	MaxWorkerProcesses int
	MaxWALSenders      int
	MaxPreparedXacts   int
	MaxLocksPerXact    int
	TrackCommitTime    bool

	// BlockSize is the size of a data page in bytes, SegmentBlocks the number
	// of pages in a relation segment (relseg_size), WALBlockSize the size of
	// a WAL page and WALSegmentSize that of a WAL segment in bytes.
	BlockSize, SegmentBlocks, WALBlockSize int
	WALSegmentSize                         int64

	// ChecksumVersion is 0 for a cluster without data checksums.
	ChecksumVersion uint32
}

// ParseControl reads the content of global/pg_control, ControlFileSize bytes or
// at least as many as its layout has. An error for which errors.Is says
// ErrControlChecksum is worth another read.
func ParseControl(data []byte) (Control, error) {
	r, err := controlRelease(data)
	if err != nil {
		return Control{}, err
	}
	stored := binary.LittleEndian.Uint32(data[r.controlCRC:])
	if computed := crc32c.Update(0, data[:r.controlCRC]); computed != stored {
		return Control{}, fmt.Errorf("pg_control of PostgreSQL %d: %w (stored %08X, computed %08X)",
			r.major, ErrControlChecksum, stored, computed)
	}
	c := decodeControl(data)
	c.Major = r.major
	if err := c.check(data); err != nil {
		return Control{}, err
	}
	return c, nil
}

// controlRelease finds the major that wrote data, and that data is long enough
// for its layout. The two versions stay the same for the life of a cluster, so
// they can be believed before the checksum is known.
func controlRelease(data []byte) (release, error) {
	if len(data) < 16 {
		return release{}, fmt.Errorf("pg_control: %d bytes (want %d)", len(data), ControlFileSize)
	}
	version := binary.LittleEndian.Uint32(data[8:])
	catalog := binary.LittleEndian.Uint32(data[12:])
	for _, r := range releases() {
		if r.controlVersion != version || r.catalogVersion != catalog {
			continue
		}
		if len(data) < r.controlCRC+4 {
			return release{}, fmt.Errorf("pg_control of PostgreSQL %d: %d bytes (want %d)", r.major, len(data), ControlFileSize)
		}
		return r, nil
	}
	return release{}, fmt.Errorf("pg_control: version %d with catalog version %d belongs to no known PostgreSQL (known: %s)",
		version, catalog, knownControlVersions())
}

// decodeControl reads the fields of ControlFileData, which have the same places
// in 13 to 18. The CheckPoint in it begins at byte 40 and has 88.
func decodeControl(data []byte) Control {
	le := binary.LittleEndian
	lsn := func(at int) LSN { return LSN(le.Uint64(data[at:])) }
	tli := func(at int) Timeline { return Timeline(le.Uint32(data[at:])) }
	number := func(at int) int { return int(int32(le.Uint32(data[at:]))) }
	moment := func(at int) time.Time { return time.Unix(int64(le.Uint64(data[at:])), 0).UTC() }
	return Control{
		SystemID:            le.Uint64(data[0:]),
		ControlVersion:      le.Uint32(data[8:]),
		CatalogVersion:      le.Uint32(data[12:]),
		State:               ControlState(le.Uint32(data[16:])),
		Modified:            moment(24),
		Checkpoint:          lsn(32),
		Redo:                lsn(40),
		Timeline:            tli(48),
		PrevTimeline:        tli(52),
		FullPageWrites:      data[56] != 0,
		NextXID:             le.Uint64(data[64:]),
		CheckpointTime:      moment(104),
		MinRecoveryPoint:    lsn(136),
		MinRecoveryTimeline: tli(144),
		BackupStart:         lsn(152),
		BackupEnd:           lsn(160),
		BackupEndRequired:   data[168] != 0,
		WALLevel:            WALLevel(number(172)),
		WALLogHints:         data[176] != 0,
		MaxConnections:      number(180),
		MaxWorkerProcesses:  number(184),
		MaxWALSenders:       number(188),
		MaxPreparedXacts:    number(192),
		MaxLocksPerXact:     number(196),
		TrackCommitTime:     data[200] != 0,
		BlockSize:           number(216),
		SegmentBlocks:       number(220),
		WALBlockSize:        number(224),
		WALSegmentSize:      int64(le.Uint32(data[228:])),
		ChecksumVersion:     le.Uint32(data[252:]),
	}
}

// check refuses a file with a good checksum that was written on a machine of
// another kind, or with sizes that PostgreSQL cannot be built for.
func (c Control) check(data []byte) error {
	const (
		maxAlign    = 8         // MAXIMUM_ALIGNOF of every 64-bit platform
		floatFormat = 1234567.0 // FLOATFORMAT_VALUE: shows the format of doubles
	)
	align := binary.LittleEndian.Uint32(data[204:])
	double := math.Float64frombits(binary.LittleEndian.Uint64(data[208:]))
	if align != maxAlign || double != floatFormat {
		return fmt.Errorf("pg_control of PostgreSQL %d: written on another kind of machine (alignment %d, float format %g)",
			c.Major, align, double)
	}
	if !validBlockSize(c.BlockSize, 32<<10) || !validBlockSize(c.WALBlockSize, 64<<10) {
		return fmt.Errorf("pg_control of PostgreSQL %d: block size %d and WAL block size %d (want powers of two, 1 to 32 and 1 to 64 KiB)",
			c.Major, c.BlockSize, c.WALBlockSize)
	}
	if !ValidSegmentSize(c.WALSegmentSize) || c.SegmentBlocks <= 0 {
		return fmt.Errorf("pg_control of PostgreSQL %d: WAL segment size %d, %d blocks in a relation segment",
			c.Major, c.WALSegmentSize, c.SegmentBlocks)
	}
	return nil
}
