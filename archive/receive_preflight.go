package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres/server"
)

// preflight looks at the server's settings before anything is acknowledged, and
// at the slot.
func (r *Receiver) preflight(ctx context.Context, conn *server.ReplicationConn) (server.Slot, error) {
	sql, err := r.o.Inspect(ctx)
	if err != nil {
		r.o.Log.Debug("there is no session for SQL; what only that tells is not known", "error", oneLine(err))
		sql = nil
	} else {
		defer func() { _ = sql.Close(context.WithoutCancel(ctx)) }()
	}
	if err := r.checkSynchronous(ctx, conn, sql); errors.Is(err, ErrRemoteApply) && r.streamed {
		r.sayRemoteApply(err) // see watch
	} else if err != nil {
		return server.Slot{}, err
	}
	slot, err := r.slot(ctx, conn, sql)
	if err != nil {
		return slot, err
	}
	return slot, r.warnOfSlot(ctx, conn)
}

// checkSynchronous refuses to be waited for by remote_apply: this side never
// applies, so every commit would hang.
func (r *Receiver) checkSynchronous(ctx context.Context, conn shower, sql *server.Conn) error {
	names, err := conn.Show(ctx, "synchronous_standby_names")
	if err != nil {
		return err
	}
	if !namedIn(names, r.o.Name) {
		r.noteRemoteApply(false)
		return nil
	}
	mode, err := conn.Show(ctx, "synchronous_commit")
	if err != nil {
		return err
	}
	where := ""
	if mode != "remote_apply" && sql != nil {
		roles, err := sql.RemoteApplyRoles(ctx)
		if err != nil {
			r.o.Log.Debug("settings of roles and databases are not known", "error", oneLine(err))
		}
		if len(roles) > 0 {
			mode, where = "remote_apply", " for "+strings.Join(roles, ", ")
		}
	}
	r.noteRemoteApply(mode == "remote_apply")
	if mode == "remote_apply" {
		return hint.Wrap(fmt.Errorf("%w: %s is in synchronous_standby_names (%s), so commits would wait for ever%s", ErrRemoteApply, r.o.Name, names, where),
			"set synchronous_commit = on, by which a commit waits until its WAL is durable here, or take %s out of synchronous_standby_names.", r.o.Name)
	}
	if now := names + " " + mode; r.waited.Swap(now) != now {
		r.o.Log.Info("commits may wait for this receiver", "synchronous-standby-names", names, "synchronous-commit", mode)
	}
	return nil
}

// slot reads the slot, and creates it where that is wanted.
func (r *Receiver) slot(ctx context.Context, conn *server.ReplicationConn, sql *server.Conn) (server.Slot, error) {
	slot, err := readSlot(ctx, conn, sql, r.o.Slot)
	if r.o.CreateSlot && (errors.Is(err, server.ErrNoSlot) || errors.Is(err, errors.ErrUnsupported)) {
		created, err := conn.CreateSlot(ctx, r.o.Slot)
		if err != nil {
			return slot, err
		}
		if created {
			r.o.Log.Info("the replication slot was created", "slot", r.o.Slot)
		}
		if slot, err = readSlot(ctx, conn, sql, r.o.Slot); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return slot, err
		}
	} else if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return slot, err
	}
	if slot.WALStatus == "lost" {
		return slot, hint.Wrap(fmt.Errorf("%w: the server gave up the WAL that slot %s kept", ErrSlotUnusable, r.o.Slot),
			"drop the slot (SELECT pg_drop_replication_slot('%s')) and run archive-receive with --create-slot; it says then whether WAL is missing.", r.o.Slot)
	}
	return slot, nil
}

// readSlot asks by SQL, which tells more, or else over the replication protocol.
func readSlot(ctx context.Context, conn *server.ReplicationConn, sql *server.Conn, name string) (server.Slot, error) {
	if sql != nil {
		slot, err := sql.Slot(ctx, name)
		if err == nil || errors.Is(err, server.ErrNoSlot) {
			return slot, err
		}
	}
	return conn.ReadSlot(ctx, name)
}

// warnOfSlot says what may make the server give WAL up that is still wanted.
func (r *Receiver) warnOfSlot(ctx context.Context, conn *server.ReplicationConn) error {
	keep, err := conn.Show(ctx, "max_slot_wal_keep_size")
	if err != nil {
		return err
	}
	if keep != "-1" {
		r.o.Log.Warn("the server gives up WAL that this receiver has not got when there is more of it than this", "max_slot_wal_keep_size", keep)
	}
	idle, err := conn.IdleSlotTimeout(ctx)
	if err != nil {
		return err
	}
	if idle != "0" {
		r.o.Log.Warn("the server gives the slot up when this receiver is away for longer than this", "idle_replication_slot_timeout", idle)
	}
	return nil
}

// namedIn tells whether synchronous_standby_names means a standby of that
// application_name: by its name, whatever its case, or by '*'. The forms are
// "a, b", "2 (a, b)", "FIRST 2 (a, b)" and "ANY 2 (a, b)"; a name may be quoted
// as identifiers are.
func namedIn(setting, name string) bool {
	list := setting
	if open := strings.IndexByte(withoutQuoted(setting), '('); open >= 0 {
		list = strings.TrimSuffix(strings.TrimRight(setting[open+1:], " \t\r\n"), ")")
	}
	for len(list) > 0 {
		var one string
		one, list = cutName(list)
		if one == "*" || one != "" && strings.EqualFold(one, name) {
			return true
		}
	}
	return false
}

// withoutQuoted blanks what is between quotes.
func withoutQuoted(s string) string {
	b, quoted := []byte(s), false
	for i, c := range b {
		if c == '"' {
			quoted = !quoted
		} else if quoted {
			b[i] = ' '
		}
	}
	return string(b)
}

// cutName takes the first name off a list.
func cutName(list string) (name, rest string) {
	list = strings.TrimLeft(list, " \t\r\n,")
	if !strings.HasPrefix(list, `"`) {
		name, rest, _ = strings.Cut(list, ",")
		return strings.TrimSpace(name), rest
	}
	var b strings.Builder
	for i := 1; i < len(list); i++ {
		if list[i] != '"' {
			b.WriteByte(list[i])
		} else if i+1 < len(list) && list[i+1] == '"' {
			b.WriteByte('"')
			i++
		} else {
			return b.String(), list[i+1:]
		}
	}
	return b.String(), ""
}
