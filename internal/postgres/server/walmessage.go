package server

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// WALMessageKind tells the messages of a stream of WAL apart.
type WALMessageKind int

// The kinds of messages.
const (
	// WALData brings WAL.
	WALData WALMessageKind = iota + 1
	// WALAlive is a sign of life, and perhaps asks for one.
	WALAlive
	// WALStreamEnd says that the server ends the stream: the timeline has ended,
	// or the client asked for it. [WALStream.Finish] tells.
	WALStreamEnd
	// WALShutdown says that the server shuts down.
	WALShutdown
)

// WALMessage is what a server says while it sends WAL.
type WALMessage struct {
	Kind WALMessageKind
	// Start is the position of the first byte of Data, which may cross the ends
	// of segments. Data is the receiver's own.
	Start postgres.LSN
	Data  []byte
	// End is up to where the server has WAL to send, with WALData and WALAlive.
	End postgres.LSN
	// ReplyWanted asks for a status at once: the server would take silence for
	// the end of the connection.
	ReplyWanted bool
}

// Message types and lengths of the replication protocol; chapter "Streaming
// Replication Protocol" of PostgreSQL's manual.
const (
	tagWAL          = 'w' // start, end, time, each 8 bytes; then WAL
	tagKeepalive    = 'k' // end, time, each 8 bytes; 1 if a reply is wanted
	tagStatus       = 'r'
	walHeadSize     = 25
	keepaliveSize   = 18
	statusSize      = 34
	maxWALMessage   = 4 << 20 // bytes; servers send 16 WAL pages, at most 1 MiB
	postgresEpochUS = 946684800000000
)

// parseWALMessage reads the payload of a CopyData message. What it gives does not
// share memory with data.
func parseWALMessage(data []byte) (WALMessage, error) {
	if len(data) == 0 {
		return WALMessage{}, fmt.Errorf("%s: an empty message", receivingWAL)
	}
	switch data[0] {
	case tagWAL:
		if len(data) < walHeadSize {
			return WALMessage{}, fmt.Errorf("%s: a message of WAL with %d bytes", receivingWAL, len(data))
		}
		m := WALMessage{Kind: WALData, Start: postgres.LSN(binary.BigEndian.Uint64(data[1:])), Data: append([]byte{}, data[walHeadSize:]...),
			End: postgres.LSN(binary.BigEndian.Uint64(data[9:]))}
		if uint64(m.Start) > math.MaxUint64-uint64(len(m.Data)) {
			return WALMessage{}, fmt.Errorf("%s: %d bytes at the impossible position %s", receivingWAL, len(m.Data), m.Start)
		}
		return m, nil
	case tagKeepalive:
		if len(data) != keepaliveSize || data[17] > 1 {
			return WALMessage{}, fmt.Errorf("%s: a malformed keepalive of %d bytes", receivingWAL, len(data))
		}
		return WALMessage{Kind: WALAlive, End: postgres.LSN(binary.BigEndian.Uint64(data[1:])), ReplyWanted: data[17] == 1}, nil
	}
	return WALMessage{}, fmt.Errorf("%s: a message of unknown kind %q", receivingWAL, data[0])
}

// statusMessage is what a client says of how far it is. flushed is the position
// after the last byte that is durable, and is given as written too; the position
// that was applied is always 0, for a client that replays nothing can never have
// applied anything: with any other number a commit with synchronous_commit =
// remote_apply would return although nobody replayed it.
func statusMessage(flushed postgres.LSN, now time.Time, replyWanted bool) []byte {
	m := make([]byte, 0, statusSize)
	m = append(m, tagStatus)
	m = binary.BigEndian.AppendUint64(m, uint64(flushed)) // written
	m = binary.BigEndian.AppendUint64(m, uint64(flushed))
	m = binary.BigEndian.AppendUint64(m, 0) // applied
	m = binary.BigEndian.AppendUint64(m, uint64(now.UnixMicro()-postgresEpochUS))
	if replyWanted {
		return append(m, 1)
	}
	return append(m, 0)
}
