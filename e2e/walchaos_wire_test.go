package e2e

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// chaosWire is the network before a server, for replication: standbys and receivers
// come by it, clients and archivers are on the server's host.
type chaosWire struct {
	address net.Addr
	mu      sync.Mutex
	port    int
	state   wireState
	conns   []net.Conn
}

type wireState int

const (
	wireWhole  wireState = iota
	wireCut              // connections end, and new ones too
	wireSilent           // what is sent is lost, and nobody is told
)

func newChaosWire(t *testing.T) *chaosWire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &chaosWire{address: listener.Addr()}
	t.Cleanup(func() { _ = listener.Close(); w.set(wireCut) })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			w.connect(in)
		}
	}()
	return w
}

// leadTo says at which port the server is now.
func (w *chaosWire) leadTo(port int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.port = port
}

func (w *chaosWire) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", w.address.(*net.TCPAddr).Port)
}

func (w *chaosWire) connect(in net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == wireCut {
		_ = in.Close()
		return
	}
	out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
	if err != nil {
		_ = in.Close()
		return
	}
	w.conns = append(w.conns, in, out)
	go w.pass(in, out)
	go w.pass(out, in)
}

// pass copies until an end is closed; in silence it takes and gives nothing.
func (w *chaosWire) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 5000) // cuts messages in two
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		w.mu.Lock()
		lost := w.state == wireSilent
		w.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// set changes the network. A connection that has lost bytes does not come back.
func (w *chaosWire) set(s wireState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == wireCut || w.state == wireSilent {
		for _, conn := range w.conns {
			_ = conn.Close()
		}
		w.conns = nil
	}
	w.state = s
}

// cutServers cuts standbys and receivers off from the primary: for short moments again and again, until they need
// the archive, or so that nobody notices at first.
func (c *chaos) cutServers(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	w := c.primary.wire
	switch c.IntN(3) {
	case 0:
		c.whileArchiving(t, 10+c.IntN(20), func() {
			if c.IntN(3) == 0 {
				w.set(wireCut)
				w.set(wireWhole)
				c.counts["replication connections cut"]++
			}
		})
	case 1:
		w.set(wireCut)
		c.advance(t, 12+c.IntN(10)) // the primary keeps less
		c.counts["replication networks cut"]++
	default:
		w.set(wireSilent)
		c.advance(t, 5+c.IntN(5))
		direct := func(s *chaosNode) bool { return s.upstream == c.primary && s.streams() }
		if !await(t.Context(), time.Minute, func() bool { return !slices.ContainsFunc(c.standbys, direct) }) {
			t.Error("no standby notices that its primary is silent")
		}
		c.counts["replication networks silent"]++
	}
	w.set(wireWhole)
	for _, s := range slices.Clone(c.standbys) {
		c.streamsAgain(t, s)
	}
}
