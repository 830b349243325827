package postgres

import (
	"fmt"
	"strings"
)

// release holds the constants by which a major's files are told from another's.
type release struct {
	major          int
	walMagic       uint16 // XLOG_PAGE_MAGIC
	controlVersion uint32 // PG_CONTROL_VERSION
	catalogVersion uint32 // CATALOG_VERSION_NO, fixed when a major is released
	controlCRC     int    // offset of the checksum in pg_control, in bytes
}

// MinMajor and MaxMajor bound the PostgreSQL majors whose files are understood.
const (
	MinMajor = 13
	MaxMajor = 18
)

// releases lists the known majors. Sources: access/xlog_internal.h,
// catalog/pg_control.h and catalog/catversion.h of each; the tests hold them
// against files of real servers.
func releases() [MaxMajor - MinMajor + 1]release {
	return [...]release{
		{13, 0xD106, 1300, 202007201, 288},
		{14, 0xD10D, 1300, 202107181, 288},
		{15, 0xD110, 1300, 202209061, 288},
		{16, 0xD113, 1300, 202307071, 288},
		{17, 0xD116, 1700, 202406281, 288},
		{18, 0xD118, 1800, 202506291, 292},
	}
}

// Major is the PostgreSQL major that writes WAL of this format, or 0.
func (h WALHeader) Major() int {
	for _, r := range releases() {
		if r.walMagic == h.Magic {
			return r.major
		}
	}
	return 0
}

// knownMagics lists the WAL formats, for errors.
func knownMagics() string {
	var list []string
	for _, r := range releases() {
		list = append(list, fmt.Sprintf("%04X of %d", r.walMagic, r.major))
	}
	return strings.Join(list, ", ")
}

// knownControlVersions lists the formats of pg_control, for errors.
func knownControlVersions() string {
	var list []string
	for _, r := range releases() {
		list = append(list, fmt.Sprintf("%d/%d of %d", r.controlVersion, r.catalogVersion, r.major))
	}
	return strings.Join(list, ", ")
}
