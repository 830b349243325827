package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// controlFacts is what a server's pg_control_* functions say of its own file.
type controlFacts struct {
	ControlVersion  uint32    `json:"pg_control_version"`
	CatalogVersion  uint32    `json:"catalog_version_no"`
	SystemID        uint64    `json:"system_identifier"`
	Modified        time.Time `json:"pg_control_last_modified"`
	Checkpoint      LSN       `json:"checkpoint_lsn"`
	Redo            LSN       `json:"redo_lsn"`
	Timeline        Timeline  `json:"timeline_id"`
	PrevTimeline    Timeline  `json:"prev_timeline_id"`
	FullPageWrites  bool      `json:"full_page_writes"`
	NextXID         string    `json:"next_xid"`
	CheckpointTime  time.Time `json:"checkpoint_time"`
	MinRecovery     LSN       `json:"min_recovery_end_lsn"`
	MinRecoveryTLI  Timeline  `json:"min_recovery_end_timeline"`
	BackupStart     LSN       `json:"backup_start_lsn"`
	BackupEnd       LSN       `json:"backup_end_lsn"`
	BackupEndNeeded bool      `json:"end_of_backup_record_required"`
	BlockSize       int       `json:"database_block_size"`
	SegmentBlocks   int       `json:"blocks_per_segment"`
	WALBlockSize    int       `json:"wal_block_size"`
	WALSegmentSize  int64     `json:"bytes_per_wal_segment"`
	ChecksumVersion uint32    `json:"data_page_checksum_version"`
}

// facts gives of c what a server can say of it.
func (c Control) facts() controlFacts {
	return controlFacts{
		ControlVersion: c.ControlVersion, CatalogVersion: c.CatalogVersion, SystemID: c.SystemID, Modified: c.Modified,
		Checkpoint: c.Checkpoint, Redo: c.Redo, Timeline: c.Timeline, PrevTimeline: c.PrevTimeline,
		FullPageWrites: c.FullPageWrites, NextXID: fmt.Sprintf("%d:%d", c.NextXID>>32, uint32(c.NextXID)),
		CheckpointTime: c.CheckpointTime, MinRecovery: c.MinRecoveryPoint, MinRecoveryTLI: c.MinRecoveryTimeline,
		BackupStart: c.BackupStart, BackupEnd: c.BackupEnd, BackupEndNeeded: c.BackupEndRequired,
		BlockSize: c.BlockSize, SegmentBlocks: c.SegmentBlocks, WALBlockSize: c.WALBlockSize,
		WALSegmentSize: c.WALSegmentSize, ChecksumVersion: c.ChecksumVersion,
	}
}

func TestParseControlAgreesWithTheServer(t *testing.T) {
	states := map[string]ControlState{
		"production": ControlInProduction, "recovery": ControlInArchiveRecovery, "promoted": ControlInProduction,
	}
	eachMajor(t, func(t *testing.T, major int) {
		for name, state := range states {
			c, err := ParseControl(sample(t, major, "pg_control."+name+".gz"))
			if err != nil {
				t.Fatal(err)
			}
			want := sampleJSON[controlFacts](t, major, "control."+name+".json")
			want.Modified, want.CheckpointTime = want.Modified.UTC(), want.CheckpointTime.UTC()
			if got := c.facts(); got != want {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
			}
			if c.Major != major || c.State != state {
				t.Errorf("%s: PostgreSQL %d %s, want %d %s", name, c.Major, c.State, major, state)
			}
		}
	})
}

// What no SQL function shows is held against the settings of generate.sh.
func TestParseControlReadsTheSettings(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		c, err := ParseControl(sample(t, major, "pg_control.shutdown.gz"))
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(c.State, c.WALLevel, c.WALLogHints, c.MaxConnections, c.MaxWorkerProcesses,
			c.MaxWALSenders, c.MaxPreparedXacts, c.MaxLocksPerXact, c.TrackCommitTime)
		if want := fmt.Sprint(ControlShutDown, WALLevelReplica, true, 23, 11, 7, 5, 71, false); got != want {
			t.Errorf("read %s, want %s", got, want)
		}
	})
}

func TestParseControlAgreesWithPgControldata(t *testing.T) {
	c, err := ParseControl(sample(t, 15, "pg_control.shutdown.gz"))
	if err != nil {
		t.Fatal(err)
	}
	CompareControldata(t, c, string(sample(t, 15, "pg_controldata.txt")))
}

func TestParseControlFindsEveryFlippedByte(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		data := sample(t, major, "pg_control.production.gz")
		end := 292
		if major >= 18 {
			end = 296
		}
		for i := range data {
			_, err := ParseControl(changed(data, i, data[i]^0x10))
			// The two versions are what says which checksum to expect.
			versions := i >= 8 && i < 16
			switch {
			case i >= end && err != nil:
				t.Fatalf("byte %d, behind the checksum, matters: %v", i, err)
			case i < end && err == nil:
				t.Fatalf("byte %d was flipped and nobody saw it", i)
			case i < end && !versions && !errors.Is(err, ErrControlChecksum):
				t.Fatalf("byte %d: %v is not ErrControlChecksum", i, err)
			}
		}
	})
}

// signed makes the checksum of a changed pg_control good again; what is not of a
// known major stays as it is.
func signed(data []byte) []byte {
	if r, err := controlRelease(data); err == nil {
		binary.LittleEndian.PutUint32(data[r.controlCRC:], crc32c.Update(0, data[:r.controlCRC]))
	}
	return data
}

func TestParseControlRefuses(t *testing.T) {
	data := sample(t, 15, "pg_control.production.gz")
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"an empty file", nil, "0 bytes (want 8192)"},
		{"a file cut off", data[:291], "291 bytes (want 8192)"},
		{"zeros", make([]byte, 8192), "version 0 with catalog version 0"},
		{"another version", changed(data, 8, 0xA1, 0x04), "version 1185 with catalog version 202209061 belongs to no known PostgreSQL (known: 1300/202007201 of 13"},
		{"a beta's catalog", changed(data, 12, 1), "belongs to no known PostgreSQL"},
		{"a torn file", changed(data, 40, 1, 2, 3), "PostgreSQL 15: checksum of pg_control does not match"},
		{"another kind of machine", signed(changed(data, 204, 4)), "another kind of machine"},
		{"an impossible block size", signed(changed(data, 216, 1)), "block size 8193"},
		{"an impossible segment size", signed(changed(data, 228, 1)), "WAL segment size"},
		{"no blocks in a segment", signed(changed(data, 220, 0, 0, 0, 0)), "0 blocks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseControl(c.data)
			wantError(t, err, c.want)
			if got != (Control{}) {
				t.Errorf("an error came with %+v", got)
			}
		})
	}
}

func TestUnknownNumbersHaveWords(t *testing.T) {
	if got := ControlState(99).String(); got != "unrecognized status code 99" {
		t.Error(got)
	}
	if got := WALLevel(-1).String(); got != "unrecognized wal_level -1" {
		t.Error(got)
	}
}

func FuzzParseControl(f *testing.F) {
	for major := MinMajor; major <= MaxMajor; major++ {
		f.Add(sample(f, major, "pg_control.recovery.gz")[:296], false)
		f.Add(sample(f, major, "pg_control.production.gz")[:296], true)
	}
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign {
			data = signed(append([]byte(nil), data...))
		}
		c, err := ParseControl(data)
		if err == nil && (c.Major < MinMajor || c.Major > MaxMajor || c.SegmentBlocks <= 0 || !ValidSegmentSize(c.WALSegmentSize)) {
			t.Errorf("accepted %+v", c)
		}
	})
}

func BenchmarkParseControl(b *testing.B) {
	data := sample(b, MaxMajor, "pg_control.production.gz")
	for b.Loop() {
		if _, err := ParseControl(data); err != nil {
			b.Fatal(err)
		}
	}
}
