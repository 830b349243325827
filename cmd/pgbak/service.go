package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/monitor"
)

// Bounds of those who ask for health, who need not be friends: without them connections
// that nobody uses would take all descriptors, which WAL needs.
const (
	healthConnections = 64
	healthRead        = 5 * time.Second
	healthIdle        = 30 * time.Second
)

// boundedListener accepts connections while fewer than a number are open.
type boundedListener struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	close  func() error
}

func newBoundedListener(l net.Listener, most int) *boundedListener {
	b := &boundedListener{Listener: l, free: make(chan struct{}, most), closed: make(chan struct{})}
	b.close = sync.OnceValue(func() error {
		close(b.closed)
		return l.Close()
	})
	return b
}

// Accept implements net.Listener.
func (b *boundedListener) Accept() (net.Conn, error) {
	select {
	case b.free <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.free })}, nil
}

// Close implements net.Listener.
func (b *boundedListener) Close() error { return b.close() }

// boundedConn makes room for another one when it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// serveHealth answers by HTTP at address, if there is one, until stop is called. setting
// is where the address comes from, for the error. With port 0 the kernel chooses one,
// which stands in listens.
func (a *app) serveHealth(setting, address string, health *monitor.Health) (listens string, stop func(), err error) {
	if address == "" {
		return "", func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, &configError{fmt.Errorf("%s: %w", setting, err)}
	}
	server := &http.Server{Handler: health, ReadTimeout: healthRead, WriteTimeout: 30 * time.Second, IdleTimeout: healthIdle, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(newBoundedListener(l, healthConnections)); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("health and metrics are not served any more", "error", err)
		}
	}()
	return l.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}

// notifySupervisor tells systemd, if it asked for that (Type=notify).
func (a *app) notifySupervisor(state string) {
	path := a.getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		a.log.Warn("the supervisor could not be told", "state", state, "error", err)
	}
}
