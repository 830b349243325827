// Package archive moves WAL files between a PostgreSQL server and its
// repositories: [Pusher] is what archive_command runs, [Getter] what
// restore_command runs.
//
// # Push
//
// PostgreSQL recycles a WAL file as soon as archive_command returned 0, so a
// push returns without error only when the file is durable in every
// repository. Before anything is stored the file is compared with what the
// stanza is: name, size, and, for segments, the system identifier, major
// version, segment size and page address in the header of its first page. A
// server that archives into the stanza of another one is the mistake that
// costs a whole archive, and this is where it is caught.
//
// The file is opened once and, up to 64 MiB, read once; what was checked is what
// is stored. It is compressed once for each distinct setting, while all
// repositories are opened, and they are served at the same time, so that one
// which is slow or gone costs the others nothing. In each of them it is one
// request that stores the file.
//
// With a segment goes a summary of the blocks that its WAL changed, made while it
// is compressed and stored in the same object, so that an incremental backup need
// not read WAL. What keeps the summary from being made keeps nothing else.
//
// The same content again is success, because PostgreSQL may ask twice after a
// crash; different content under a name that is taken changes nothing and is an
// error (repo.ErrWALConflict).
//
// # Get
//
// PostgreSQL takes a restore_command that ends with 1 to 125 as "there is no
// such file", which ends recovery, and anything above as "stop". A fault that
// looked like an absent file would end recovery early and lose what comes after
// it; hence [ErrAbsent] is returned only when every repository has proved that
// it does not hold the file, and everything else is an error of another kind.
// Repositories are opened and asked one after the other, until one has the file.
//
// The file appears under its destination's name whole and verified, or not at all.
//
// # Fetching ahead
//
// [PrefetchGetter] serves recovery from a queue of segments ([PrefetchQueue]) that
// [Prefetcher] fills while PostgreSQL replays. The queue only ever proves that a segment is
// there: what is not in it is asked of the repositories, so that it cannot change what a
// get says, only when. A queued file is verified, durable and complete before it has its
// name, and is proved once more, by a checksum over content, name and recovery, before
// it is served. PostgreSQL does not say which timeline it follows; where one leaves
// another within the window, both are fetched.
package archive
