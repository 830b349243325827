package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pgbak/pgbak/internal/monitor"
)

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
	server := &http.Server{Handler: health, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
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
