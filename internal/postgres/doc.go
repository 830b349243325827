// Package postgres holds all that pgbak knows of PostgreSQL's on-disk formats,
// for the majors 13 to 18: WAL positions (LSN) and timelines, the names and the
// first page of WAL files, pg_control, timeline histories, backup_label and
// tablespace_map, backup_manifest, and the names of relation files.
//
// Start with LSN, Timeline and History: they are the coordinates in which
// backups, WAL and recovery targets meet. WALFile turns the name of a file in
// pg_wal into those coordinates and back; WALHeader says which cluster the file
// belongs to; Control says where a cluster stands.
//
// Every parser here takes bytes that may be hostile or torn: lengths are bounded,
// nothing panics, and an error says what was found and what was wanted. Integers
// are read little-endian and with eight-byte alignment, as every platform that
// pgbak runs on writes them. Nothing here opens a connection, what speaks to a
// server is in the sub-package server; nor a file, but for the WAL summaries in a
// directory that the caller gives as an fs.FS.
package postgres
