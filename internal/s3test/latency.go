package s3test

import (
	"io"
	"net"
	"time"
)

// slowListener accepts connections over which bytes take their time.
type slowListener struct {
	net.Listener
	latency func() time.Duration // of a round trip, asked for each connection
}

// Accept returns the connection itself while there is no latency, and else one end of a pipe whose other end is joined to it.
func (l *slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	rtt := l.latency()
	if err != nil || rtt <= 0 {
		return conn, err
	}
	near, far := net.Pipe()
	go carry(far, conn, rtt/2, rtt) // the kernel has accepted for nothing: the first bytes pay for it
	go carry(conn, far, rtt/2, 0)
	return near, nil
}

// A parcel is on its way.
type parcel struct {
	bytes []byte
	due   time.Time
}

// carry copies until one side ends, and then ends the other. Each byte arrives a delay after it was read, and nothing does
// before the handshake is over. As many bytes as come within the delay are on their way, up to 2048 parcels: at
// 64 KiB each that is 128 MiB, more than a link of 1 GB/s with a round trip of 200 ms has.
func carry(to io.WriteCloser, from io.Reader, delay, handshake time.Duration) {
	accepted := time.Now().Add(handshake)
	under := make(chan parcel, 2048)
	go func() {
		defer close(under)
		for {
			buffer := make([]byte, 64<<10)
			n, err := from.Read(buffer)
			due := time.Now()
			if due.Before(accepted) {
				due = accepted
			}
			due = due.Add(delay)
			under <- parcel{buffer[:n], due} // an end travels as long as bytes do
			if err != nil {
				return
			}
		}
	}()
	defer func() { _ = to.Close() }()
	for p := range under {
		time.Sleep(time.Until(p.due))
		if len(p.bytes) == 0 {
			continue
		}
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	for range under { // so that the reader does not wait for room
	}
}
