package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
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

// boundedListener keeps a number of connections: another one takes the place of the
// oldest. To let it wait would leave the supervisor without an answer, who would take
// the process for dead.
type boundedListener struct {
	net.Listener
	most int

	mu   sync.Mutex
	open []*boundedConn // oldest first
}

// Accept implements net.Listener.
func (b *boundedListener) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &boundedConn{conn, b}
	b.mu.Lock()
	b.open = append(b.open, c)
	var oldest net.Conn
	if len(b.open) > b.most {
		oldest, b.open = b.open[0].Conn, b.open[1:]
	}
	b.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	return c, nil
}

// boundedConn makes room for another one when it is closed.
type boundedConn struct {
	net.Conn
	of *boundedListener
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.of.mu.Lock()
	c.of.open = slices.DeleteFunc(c.of.open, func(o *boundedConn) bool { return o == c })
	c.of.mu.Unlock()
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
		if err := server.Serve(&boundedListener{Listener: l, most: healthConnections}); !errors.Is(err, http.ErrServerClosed) {
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
