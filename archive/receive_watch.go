package archive

import (
	"context"
	"errors"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres/server"
)

// remindAfter is after how many looks a setting that is still wrong is said again.
const remindAfter = 10

// watch looks at the server's settings every now and then while WAL is received:
// synchronous_commit may become remote_apply at any time. Then the receiver says so
// and goes on. When it begins it refuses, but to leave now would make all commits
// wait, and not only those that wait for a replay which nobody does.
func (r *Receiver) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wrong := 0; pause.For(ctx, r.pace.look) == nil; {
			err := r.lookAtSettings(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, ErrRemoteApply):
				if wrong%remindAfter == 0 {
					r.sayRemoteApply(err)
				}
				wrong++
			case err != nil:
				r.o.Log.Debug("it is not known whether the server's settings are as they were", "error", oneLine(err))
			default:
				wrong = 0
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// sayRemoteApply says what is refused when it begins.
func (r *Receiver) sayRemoteApply(err error) {
	r.o.Log.Error(oneLine(err), "hint", hint.Of(err))
	r.state.failed(err)
}

// noteRemoteApply keeps whether commits wait for a replay, and says when they do no more.
func (r *Receiver) noteRemoteApply(now bool) {
	was := false
	r.state.change(func(s *ReceiveStatus) { was, s.RemoteApply = s.RemoteApply, now })
	if was && !now {
		r.o.Log.Info("commits do not wait for a replay by this receiver any more")
	}
}

// lookAtSettings asks by a short session of its own; the one that streams can be asked
// nothing.
func (r *Receiver) lookAtSettings(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.pace.answer)
	defer cancel()
	if sql, err := r.o.Inspect(ctx); err == nil {
		defer func() { _ = sql.Close(context.WithoutCancel(ctx)) }()
		return r.checkSynchronous(ctx, sql, sql)
	}
	conn, err := r.o.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return r.checkSynchronous(ctx, conn, nil)
}

// shower is a session that can be asked for settings.
type shower interface {
	// Show gives a setting as the session sees it.
	Show(ctx context.Context, setting string) (string, error)
}

var (
	_ shower = (*server.Conn)(nil)
	_ shower = (*server.ReplicationConn)(nil)
)
