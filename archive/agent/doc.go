// Package agent is the resident process that archive-push and archive-get leave
// their work to: it keeps repositories open, with their keys and connections, and
// it can be the only one that holds credentials. [Server] is that process,
// [Client] what asks it over a Unix socket.
//
// # What a request may do
//
// Whoever can connect (the same user, root, and the group of the socket) can have
// WAL pushed and fetched, nothing else. A file to push must lie directly in the
// pg_wal of a data directory. A fetched file is written through a descriptor that
// the client opened and passed along: the agent opens no path for writing that a
// request names, so that nobody can write by it where he could not write himself.
//
// # Answers
//
// An answer says what the caller would have found out by himself: the result, the
// warnings, or the error with its exit code, its hint, and whether absence was
// proven. While a request takes long the agent says every few seconds that it is at
// work; silence is an error ([ErrAway]), so that an agent which hangs does not
// stop archiving for ever. A push that was accepted goes on when its client leaves:
// PostgreSQL asks again, and then meets the same push.
//
// # Warm repositories
//
// An archive-push of its own opens its repositories anew each time and so notices
// what happened to them. [Warm] keeps that true: see there.
package agent
