package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// Slot is a physical replication slot, as far as the server told of it.
type Slot struct {
	// Restart is the first position whose WAL the slot keeps, 0 if it keeps none
	// yet; Timeline is that of Restart, 0 where the server does not say.
	Restart  postgres.LSN
	Timeline postgres.Timeline
	// WALStatus is wal_status of pg_replication_slots: reserved, extended,
	// unreserved or lost; "" where it was not asked for.
	WALStatus string
}

// ErrNoSlot is wrapped by errors about a replication slot that does not exist.
var ErrNoSlot = errors.New("the replication slot does not exist")

// SQLSTATE codes of answers about slots and WAL.
const (
	codeDuplicateObject  = "42710"
	codeObjectNotReady   = "55000" // object_not_in_prerequisite_state: a slot that is invalid
	codeObjectInUse      = "55006"
	codeUndefinedObject  = "42704"
	readSlotSince        = 150000
	idleSlotTimeoutSince = 180000
	maxSlotName          = 63
	slotNameCharacters   = "abcdefghijklmnopqrstuvwxyz0123456789_"
)

// CheckSlotName refuses what no server takes as the name of a slot. It is also
// what makes a name fit for a command of the protocol without quoting.
func CheckSlotName(name string) error {
	if name == "" || len(name) > maxSlotName || strings.Trim(name, slotNameCharacters) != "" {
		return fmt.Errorf("%q is not the name of a replication slot: use up to %d lower-case letters, digits and underscores", name, maxSlotName)
	}
	return nil
}

// CreateSlot creates a physical slot that keeps WAL from now on. That it is there
// already is no error.
func (c *ReplicationConn) CreateSlot(ctx context.Context, name string) (created bool, err error) {
	if err := CheckSlotName(name); err != nil {
		return false, err
	}
	_, err = c.conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+name+" PHYSICAL RESERVE_WAL").ReadAll()
	if hasCode(err, codeDuplicateObject) {
		return false, nil
	}
	if err != nil {
		return false, replicationError("create the replication slot "+name, err)
	}
	return true, nil
}

// ReadSlot asks over the replication protocol for a slot; the error wraps
// ErrNoSlot if it does not exist, and errors.ErrUnsupported before PostgreSQL 15.
func (c *ReplicationConn) ReadSlot(ctx context.Context, name string) (Slot, error) {
	what := "read the replication slot " + name
	if err := CheckSlotName(name); err != nil {
		return Slot{}, err
	}
	if c.version < readSlotSince {
		return Slot{}, fmt.Errorf("%s over the replication protocol: %w", what, errors.ErrUnsupported)
	}
	r, err := c.one(ctx, what, "READ_REPLICATION_SLOT "+name)
	if err != nil {
		return Slot{}, err
	}
	if r.optional("slot_type") == "" {
		return Slot{}, noSlot(what)
	}
	var s Slot
	if restart := r.optional("restart_lsn"); restart != "" {
		if s.Restart, err = postgres.ParseLSN(restart); err != nil {
			return Slot{}, fmt.Errorf("%s: %w", what, err)
		}
		s.Timeline = postgres.Timeline(r.number("restart_tli"))
	}
	return s, r.err
}

// Slot asks for a physical slot by SQL. The error wraps ErrNoSlot if there is none.
func (c *Conn) Slot(ctx context.Context, name string) (Slot, error) {
	what := "read the replication slot " + name
	rows, err := c.query(ctx, what, `SELECT restart_lsn, wal_status FROM pg_replication_slots
		WHERE slot_type = 'physical' AND slot_name = `+quote(name))
	if err != nil {
		return Slot{}, err
	}
	if len(rows) == 0 {
		return Slot{}, noSlot(what)
	}
	var s Slot
	if restart := rows[0].optional("restart_lsn"); restart != "" {
		if s.Restart, err = postgres.ParseLSN(restart); err != nil {
			return Slot{}, fmt.Errorf("%s: %w", what, err)
		}
	}
	s.WALStatus = rows[0].optional("wal_status")
	return s, rows[0].err
}

func noSlot(what string) error {
	return hint.Wrap(fmt.Errorf("%s: %w", what, ErrNoSlot), "create it with --create-slot, or by SELECT pg_create_physical_replication_slot('name', true).")
}

// RemoteApplyRoles names the roles and databases whose own setting of
// synchronous_commit is remote_apply, "" for what holds for all of them.
func (c *Conn) RemoteApplyRoles(ctx context.Context) ([]string, error) {
	rows, err := c.query(ctx, "look for synchronous_commit of roles and databases", `
		SELECT concat_ws(' ', 'role ' || rolname, 'database ' || datname) FROM pg_db_role_setting
			LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase
		WHERE 'synchronous_commit=remote_apply' = ANY (setconfig) ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range rows {
		names = append(names, rows[i].optional("name"))
	}
	return names, nil
}

// Show asks for a setting of the server, as this session sees it.
func (c *ReplicationConn) Show(ctx context.Context, setting string) (string, error) {
	r, err := c.one(ctx, "ask for "+setting, "SHOW "+setting)
	if err != nil {
		return "", err
	}
	return r.optional(setting), r.err
}

// Show asks for a setting of the server, as this session sees it.
func (c *Conn) Show(ctx context.Context, setting string) (string, error) {
	r, err := c.one(ctx, "ask for "+setting, "SELECT current_setting("+quote(setting)+")")
	if err != nil {
		return "", err
	}
	return r.optional(setting), r.err
}

// IdleSlotTimeout is idle_replication_slot_timeout, "0" where the server has none.
func (c *ReplicationConn) IdleSlotTimeout(ctx context.Context) (string, error) {
	if c.version < idleSlotTimeoutSince {
		return "0", nil
	}
	return c.Show(ctx, "idle_replication_slot_timeout")
}

// Major is the server's major version.
func (c *ReplicationConn) Major() int { return c.version / 10000 }

// TimelineHistory fetches the history file of a timeline above 1.
func (c *ReplicationConn) TimelineHistory(ctx context.Context, tli postgres.Timeline) (content []byte, err error) {
	what := fmt.Sprintf("fetch the history of timeline %d", tli)
	r, err := c.one(ctx, what, fmt.Sprintf("TIMELINE_HISTORY %d", tli))
	if err != nil {
		return nil, err
	}
	want := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(0)
	if name := r.text("filename"); r.err == nil && name != want {
		return nil, fmt.Errorf("%s: the server gave the file %q, want %s", what, name, want)
	}
	content = r.cell("content")
	return content, r.err
}

// hasCode tells whether the server answered with an SQLSTATE.
func hasCode(err error, codes ...string) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	for _, c := range codes {
		if answer.Code == c {
			return true
		}
	}
	return false
}

// WALRemoved tells whether a server answered that WAL, or a history file, which
// was asked for is not there any more.
func WALRemoved(err error) bool { return hasCode(err, codeUndefinedFile) }

// SlotInUse tells whether another session, perhaps an earlier one of the same
// client that the server has not given up yet, uses the slot.
func SlotInUse(err error) bool { return hasCode(err, codeObjectInUse) }

// SlotUnusable tells whether the server answered that the slot does not exist, or
// that its WAL is gone.
func SlotUnusable(err error) bool { return hasCode(err, codeUndefinedObject, codeObjectNotReady) }

// Refused tells whether the server does not let the role in, which is mended by
// a person only.
func Refused(err error) bool {
	return hasCode(err, codeInvalidAuthorization, codeInvalidPassword, codeInsufficientPrivilege, codeInvalidCatalogName)
}
