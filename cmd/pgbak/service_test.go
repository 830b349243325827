package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/monitor"
)

// TestABoundedListenerGivesUpTheOldestConnection opens one more than it keeps.
func TestABoundedListenerGivesUpTheOldestConnection(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &boundedListener{Listener: inner, most: 2}
	defer l.Close()
	var ours, theirs []net.Conn
	accept := func() {
		t.Helper()
		out, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs = append(ours, in), append(theirs, out)
	}
	for range 3 {
		accept()
	}
	if err := theirs[0].SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the oldest connection: %v", err)
	}
	ours[0].Close()
	ours[1].Close()
	accept() // there is room now
	for _, conn := range ours[2:] {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("a connection was closed though there was room: %v", err)
		}
		conn.Close()
	}
	if len(l.open) != 0 {
		t.Errorf("%d connections are kept that are closed", len(l.open))
	}
	for _, conn := range theirs {
		conn.Close()
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
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a connection is not given up: %v", err)
		}
	}
}
