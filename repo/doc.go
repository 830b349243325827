// Package repo is the repository: what pgbak writes and how it is read back.
// docs/REPOSITORY.md is the law of the format, byte by byte; this page is the
// way in.
//
// # Words
//
//   - stanza: one archived cluster and the history of its identities (system
//     identifier, PostgreSQL major); pgBackRest's word.
//   - page: the cluster's block (8 KiB). The unit of change.
//   - frame: up to 16 pages (128 KiB), compressed and sealed together. An
//     aligned frame holds 16 consecutive pages of one file, a bundle frame
//     several small files, a delta frame changed pages of one file.
//   - pack: about 32 MiB of frames and a footer that describes them.
//   - map: for each file larger than a frame, which frame holds which pages.
//   - manifest: what a backup is. A backup exists if and only if its manifest
//     does.
//   - operation: one run that writes; names its packs and maps by a ULID.
//   - pin: an operation under way and the backups it relies on.
//   - label: the name of a backup, for example 20261120-123456F. (PostgreSQL's
//     file backup_label is always called by its file name.)
//
// # Objects
//
//	pgbak-repository.json               Config: version, id, algorithms, features
//	keys/<id>                           Keyring wrapped by age for one recipient
//	pins/<operation>                    Pin
//	packs/<operation>/<number>          PackWriter, packReader
//	maps/<operation>/<number>           mapWriter, mapReader
//	stanzas/<name>/identity/<number>    Identity
//	backups/<stanza>/<label>            manifest: BackupWriter.Commit, OpenBackup
//	tombs/<stanza>/<label>              expired, not yet collected
//	wal/<stanza>/<identity>/...         PutWAL, OpenWAL
//
// # Rules that the code relies on
//
// Writers go packs, maps, manifest; readers go the other way. Every object is
// written once with put-if-absent. A backup restores from its manifest and
// the maps and packs that the manifest names, from nothing else. A writer
// refers only to frames of backups that it has pinned. Nothing that is merely
// unlisted is garbage.
package repo
