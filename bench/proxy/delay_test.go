package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"testing"
	"time"
)

// echo is a server that sends back what it gets; its address comes back.
func echo(t *testing.T) string {
	t.Helper()
	listener := listen(t)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// through starts a proxy before a server and connects to it.
func through(t *testing.T, server string, trip time.Duration) *net.TCPConn {
	t.Helper()
	listener := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		proxy{server, trip}.serve(ctx, listener)
		close(done)
	}()
	t.Cleanup(func() { cancel(); <-done })
	c, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// roundTrip sends one byte and takes the time until it is back.
func roundTrip(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	b := []byte{1}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestRoundTripsTakeLonger(t *testing.T) {
	const trip = 100 * time.Millisecond
	c := through(t, echo(t), trip)
	if first := roundTrip(t, c); first < 2*trip {
		t.Errorf("%v for the first, want twice %v: the connection costs one too", first, trip)
	}
	if second := roundTrip(t, c); second < trip || second > trip*19/10 {
		t.Errorf("%v for the second, want a little more than %v", second, trip)
	}
}

func TestBytesOnTheWayDoNotWaitForEachOther(t *testing.T) {
	const trip = 100 * time.Millisecond
	c := through(t, echo(t), trip)
	sent := make([]byte, 4<<20) // more than fits into the buffers of sockets
	_, _ = rand.Read(sent)
	roundTrip(t, c)
	began := time.Now()
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back other than they were sent (%d bytes)", len(got), len(sent))
	}
	// One chunk at a time would take 64 round trips.
	if took := time.Since(began); took < trip || took > 10*trip {
		t.Errorf("4 MiB took %v there and back, want about one round trip of %v", took, trip)
	}
}

func TestServerThatIsNotThereClosesTheConnection(t *testing.T) {
	nobody := listen(t)
	_ = nobody.Close()
	c := through(t, nobody.Addr().String(), 0)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("reading: %v, want the end of the connection", err)
	}
}
