package postgres

import (
	"fmt"
	"strings"
	"testing"
)

// CompareControldata fails the test where c differs from what pg_controldata
// says in the C locale and time zone UTC.
func CompareControldata(t *testing.T, c Control, report string) {
	t.Helper()
	got := c.controldata()
	for line := range strings.Lines(report) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if ours, ok := got[name]; ok && ours != strings.TrimSpace(value) {
			t.Errorf("%s: %s, want %s", name, ours, strings.TrimSpace(value))
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("pg_controldata does not show %v", got)
	}
}

// controldata says of c what pg_controldata does, by the names of its lines.
func (c Control) controldata() map[string]string {
	const when = "Mon Jan _2 15:04:05 2006"
	onOff := map[bool]string{true: "on", false: "off"}
	return map[string]string{
		"pg_control version number":            fmt.Sprint(c.ControlVersion),
		"Catalog version number":               fmt.Sprint(c.CatalogVersion),
		"Database system identifier":           fmt.Sprint(c.SystemID),
		"Database cluster state":               c.State.String(),
		"pg_control last modified":             c.Modified.Format(when),
		"Latest checkpoint location":           c.Checkpoint.String(),
		"Latest checkpoint's REDO location":    c.Redo.String(),
		"Latest checkpoint's TimeLineID":       fmt.Sprint(uint32(c.Timeline)),
		"Latest checkpoint's PrevTimeLineID":   fmt.Sprint(uint32(c.PrevTimeline)),
		"Latest checkpoint's full_page_writes": onOff[c.FullPageWrites],
		"Latest checkpoint's NextXID":          fmt.Sprintf("%d:%d", c.NextXID>>32, uint32(c.NextXID)),
		"Time of latest checkpoint":            c.CheckpointTime.Format(when),
		"Minimum recovery ending location":     c.MinRecoveryPoint.String(),
		"Min recovery ending loc's timeline":   fmt.Sprint(uint32(c.MinRecoveryTimeline)),
		"Backup start location":                c.BackupStart.String(),
		"Backup end location":                  c.BackupEnd.String(),
		"End-of-backup record required":        map[bool]string{true: "yes", false: "no"}[c.BackupEndRequired],
		"wal_level setting":                    c.WALLevel.String(),
		"wal_log_hints setting":                onOff[c.WALLogHints],
		"max_connections setting":              fmt.Sprint(c.MaxConnections),
		"max_worker_processes setting":         fmt.Sprint(c.MaxWorkerProcesses),
		"max_wal_senders setting":              fmt.Sprint(c.MaxWALSenders),
		"max_prepared_xacts setting":           fmt.Sprint(c.MaxPreparedXacts),
		"max_locks_per_xact setting":           fmt.Sprint(c.MaxLocksPerXact),
		"track_commit_timestamp setting":       onOff[c.TrackCommitTime],
		"Database block size":                  fmt.Sprint(c.BlockSize),
		"Blocks per segment of large relation": fmt.Sprint(c.SegmentBlocks),
		"WAL block size":                       fmt.Sprint(c.WALBlockSize),
		"Bytes per WAL segment":                fmt.Sprint(c.WALSegmentSize),
		"Data page checksum version":           fmt.Sprint(c.ChecksumVersion),
	}
}

// InventedControl is a pg_control made from a real one of a major: the fields
// hold different values, so that none can be taken for its neighbour. seed
// chooses the values.
func InventedControl(t *testing.T, major int, seed byte) []byte {
	t.Helper()
	data := sample(t, major, "pg_control.production.gz")
	for i := range 252 {
		if i < 8 || i >= 32 && i < 204 {
			data[i] = byte(i)*37 ^ seed
		}
	}
	for _, at := range []int{56, 168, 176, 200} { // the truth values
		data[at] = seed & 1
		seed = seed>>1 | seed<<7
	}
	data[16] = seed % 7                         // the state
	copy(data[172:], []byte{seed % 3, 0, 0, 0}) // wal_level
	for _, at := range []int{24, 104} {         // times after 1970
		copy(data[at:], []byte{seed, byte(at), 0x77, 0x65, 0, 0, 0, 0})
	}
	copy(data[220:], []byte{seed | 1, 2, 0, 0}) // blocks in a segment
	copy(data[224:], []byte{0, 16, 0, 0})       // WAL page of 4 KiB
	copy(data[228:], []byte{0, 0, 0, 4})        // WAL segment of 64 MiB
	copy(data[252:], []byte{seed % 2, 0, 0, 0}) // checksum version
	return signed(data)
}
