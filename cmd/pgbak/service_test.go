package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/monitor"
)

// TestABoundedListenerAcceptsWhereThereIsRoom fills it, makes room, and closes it when it
// is full.
func TestABoundedListenerAcceptsWhereThereIsRoom(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newBoundedListener(inner, 1)
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if len(l.free) != cap(l.free) {
		t.Error("there is room although a connection is open")
	}
	for range 2 { // more often is no more room
		first.Close()
	}
	if second, err := l.Accept(); err != nil || len(l.free) != cap(l.free) {
		t.Errorf("%v, %v: no connection was accepted where there was room", second, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener that is full says %v", err)
	}
}

// TestWhoAsksForHealthCannotHoldConnectionsForEver sends requests whose bodies do not
// come, and more of them than are served at once.
func TestWhoAsksForHealthCannotHoldConnectionsForEver(t *testing.T) {
	t.Parallel()
	a := &app{log: slog.New(slog.DiscardHandler), clock: time.Now}
	address, stop, err := a.serveHealth("--listen", "127.0.0.1:0", &monitor.Health{Clock: time.Now, Measure: func() []monitor.Family { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var held []net.Conn
	for range healthConnections {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	client := &http.Client{Timeout: time.Minute}
	answer, err := client.Get("http://" + address + "/healthz")
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", answer, err)
	}
	answer.Body.Close()
	for _, conn := range held {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, bufio.NewReader(conn)); err != nil {
			t.Fatalf("a connection is not given up: %v", err)
		}
	}
}
