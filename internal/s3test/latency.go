package s3test

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// slowListener accepts connections over which bytes take their time.
type slowListener struct {
	net.Listener
	latency *atomic.Int64 // of a round trip, in nanoseconds
}

// Accept returns the connection itself while there is no latency, and else one end of a pipe whose other end is joined to it.
func (l *slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	rtt := l.latency.Load()
	if err != nil || rtt <= 0 {
		return conn, err
	}
	near, far := net.Pipe()
	// The kernel has accepted already, so the client's first bytes pay for the handshake.
	go l.carry(far, conn, time.Now().Add(time.Duration(rtt)))
	go l.carry(conn, far, time.Time{})
	return near, nil
}

// A parcel is on its way.
type parcel struct {
	bytes []byte
	due   time.Time
}

// carry copies until one side ends, and then ends the other. A byte arrives half a round trip after it was read, or after
// the connection was accepted. At most 2048 parcels of 64 KiB are on their way, 128 MiB: more than a link of 1 GB/s
// with a round trip of 200 ms holds.
func (l *slowListener) carry(to io.WriteCloser, from io.Reader, accepted time.Time) {
	under := make(chan parcel, 2048)
	go func() {
		defer close(under)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			due := time.Now()
			if due.Before(accepted) {
				due = accepted
			}
			under <- parcel{bytes.Clone(buffer[:n]), due.Add(time.Duration(l.latency.Load() / 2))} // the end travels as bytes do
			if err != nil {
				return
			}
		}
	}()
	for p := range under {
		time.Sleep(time.Until(p.due))
		if len(p.bytes) == 0 {
			continue // the end; a pipe waits for a reader even of nothing
		}
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	for range under { // so that the reader does not wait for room
	}
}
