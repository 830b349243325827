// Package backup takes base backups of a PostgreSQL cluster into one or more
// repositories.
//
// [Run] is the whole of it, as a list of steps: connect, compare the cluster
// with the stanza, prove that WAL reaches the repository, pin,
// pg_backup_start, wait until its checkpoint stands in the files, copy,
// pg_control, pg_backup_stop, wait for every WAL segment from start to stop,
// prove it, and put the manifest: from then on the backup exists.
//
// The files are those of a primary on this host, or of a standby: then the
// backup is begun and ended on both servers, and what concerns WAL is asked of
// the primary (standby.go).
//
// Copying is a pipeline that keeps the order of the walk and whose memory is
// proportional to the number of workers:
//
//	walk --> tasks, in order --> workers: read, verify pages, frame --> writer, in order
//
// A task is a group of small files or one mebibyte of a larger file, so that
// the work is spread evenly whatever the sizes of the files, and packs hold
// the content in the order in which a restore reads it.
//
// A differential or incremental backup takes what has not changed from its
// parent. By which way it knows that is decided once, when the start of the
// backup is known (changes.go), and said in the header with the reason why it
// is no better one: the server's WAL summaries, those in the WAL archive, or,
// without any proof, reading all pages and comparing their hashes. Summaries
// are used only if every parent is an earlier state of this cluster and they
// cover all WAL from its start to the start of this backup. filechanges.go has
// the rules for one file. A file of which no page is suspected is not opened;
// of others tasks read the suspected pages, so that a task is at most about
// one mebibyte of reading here too, or four where pages are compared.
//
// Times of modification are no way. A file that was changed within the clock's
// resolution, or whose time was set back, would be taken for unchanged.
//
// With several repositories all of that is done once, but for what is a
// repository's own: its label and parent, sealing, packs and uploads, its WAL,
// its manifest. Content is hashed and compressed once for those that want it
// alike (repo.Framers). The backups end at the same point in WAL, and a
// repository that fails leaves the others to go on without it. Memory is
// bounded, so a repository that stores slowly holds up all.
//
// The memory of a run is 2 * processes + 2 batches of 1 MiB of plain content,
// each with 9/8 MiB for every way of compressing (four times that while pages
// are compared that have all changed), and for each repository packs of 33
// MiB: as many as may be on their way (2 on a local disk, else 4) and the one
// that is being filled. Proving WAL takes two segments.
//
// What a backup promises: the checksum of every page that it reads was
// verified, and a page that fails twice with the same bytes is reported and
// does not stop the backup; nothing is reported as a success before the WAL
// that it needs is in its repository. What it does not: the files are copied
// while the server writes to them, so they are consistent only after recovery
// has replayed that WAL.
package backup
