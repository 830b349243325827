// Package received is the directory in which a receiver of streamed WAL keeps what
// no repository has yet, and from which a restore takes it: the last WAL of a
// server whose disk is lost may be nowhere else.
//
// In it are, under PostgreSQL's own names:
//
//	000000010000000000000007          a whole segment, durable
//	000000010000000000000008.partial  the one that is being received: its length
//	                                  is how far it has come
//	00000002.history                  a timeline's history, whole and durable
//	receiver.json                     whose WAL it is
//	receiver.lock                     held by who uses the directory
//
// A [Segment] says what of it is durable. That is what a receiver may tell a
// server, which lets commits return by it. So two rules hold. A byte counts as
// durable only after an fsync of the file, and of the directory that names it, has
// succeeded behind the write of that byte. And after an fsync that failed nothing
// of the file counts any more: the kernel may have dropped what it could not write
// and reports that once, so another fsync would succeed without it. The segment is
// opened anew and all of it written again, with what the server sends again.
package received
