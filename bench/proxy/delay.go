package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// proxy passes connections on to a server. Bytes arrive half a round trip after
// they were sent, in both directions, however many are on their way; a new
// connection waits one round trip before its first byte leaves, as TCP's
// handshake makes it. Bandwidth is not limited but by what one direction of one
// connection may hold: chunks of chunkSize, 8 MiB in all, which at 25 ms
// one way is 320 MiB/s.
type proxy struct {
	to   string
	trip time.Duration
}

const (
	chunkSize = 64 << 10
	inFlight  = 128 // chunks
)

// serve accepts connections until ctx ends, and returns when all are closed.
func (p proxy) serve(ctx context.Context, listener net.Listener) {
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		connections.Go(func() { p.connect(ctx, client) })
	}
}

// connect passes one connection on until both directions have ended.
func (p proxy) connect(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	time.Sleep(p.trip)
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return // the client sees its connection closed
	}
	defer func() { _ = server.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
	defer stop()
	var directions sync.WaitGroup
	directions.Go(func() { p.pass(server, client) })
	directions.Go(func() { p.pass(client, server) })
	directions.Wait()
}

// chunk is what was read, and when it may arrive.
type chunk struct {
	bytes   *[chunkSize]byte
	size    int
	arrives time.Time
}

// pass carries bytes from one end to the other, each half a round trip after it
// was read. The end of the bytes arrives as late as they do. An error ends both
// directions: the other one meets a closed connection.
func (p proxy) pass(to, from net.Conn) {
	way := make(chan chunk, inFlight)
	used := sync.Pool{New: func() any { return new([chunkSize]byte) }}
	go func() {
		defer close(way)
		for {
			buffer := used.Get().(*[chunkSize]byte)
			n, err := from.Read(buffer[:])
			if n > 0 || err != nil {
				way <- chunk{buffer, n, time.Now().Add(p.trip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	var failed error
	for c := range way {
		if failed != nil {
			continue // the reader must not hang
		}
		time.Sleep(time.Until(c.arrives))
		if _, failed = to.Write(c.bytes[:c.size]); failed != nil {
			_ = from.Close()
		}
		used.Put(c.bytes)
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
