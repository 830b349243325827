package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// StopResult is what the server gives at the end of a backup.
type StopResult struct {
	// LSN is where the backup is consistent: WAL up to here must be kept.
	LSN postgres.LSN
	// LabelFile is the content of backup_label, which must be in the restored
	// data directory.
	LabelFile string
	// TablespaceMap is the content of tablespace_map, "" when the cluster has
	// no tablespaces of its own: then there must be no such file.
	TablespaceMap string
}

// StartBackup begins a base backup in this session and returns the position
// that its WAL starts with. It waits for a checkpoint: at once when fast is
// set, else spread over half of checkpoint_timeout or more. Several sessions
// may each have a backup under way, and a session only one.
//
// The backup ends with [Conn.StopBackup] or with the session. When ctx is done
// while the server works, the session is ended, because it cannot be known
// whether the backup had begun; what is called after that returns an error.
func (c *Conn) StartBackup(ctx context.Context, label string, fast bool) (postgres.LSN, error) {
	function := fmt.Sprintf("pg_backup_start(%s, %t)", quote(label), fast)
	if c.major() < 15 {
		function = fmt.Sprintf("pg_start_backup(%s, %t, false)", quote(label), fast)
	}
	r, err := c.one(ctx, "start the backup "+label, "SELECT "+function+", pg_backend_pid()")
	if err != nil {
		return 0, err
	}
	lsn, pid := r.lsn("the start of the backup"), r.integer("pg_backend_pid")
	if r.err != nil {
		return 0, r.err
	}
	c.setBackupPID(int(pid))
	return lsn, nil
}

// StopBackup ends the backup that this session began. It does not wait for the
// WAL to be archived: the caller knows better than the server whether it is.
//
// When ctx is done while the server works, the session is ended, and the backup
// is worth nothing: its label is lost. After any other error too, close the
// connection, which makes the server forget the backup.
func (c *Conn) StopBackup(ctx context.Context) (StopResult, error) {
	function := "pg_backup_stop(false)"
	if c.major() < 15 {
		function = "pg_stop_backup(false, false)"
	}
	r, err := c.one(ctx, "stop the backup", "SELECT lsn, labelfile, spcmapfile FROM "+function)
	if err != nil {
		return StopResult{}, err
	}
	result := StopResult{
		LSN:           r.lsn("the end of the backup"),
		LabelFile:     r.text("the backup label"),
		TablespaceMap: r.optional("the tablespace map"),
	}
	if r.err != nil {
		return StopResult{}, r.err
	}
	c.setBackupPID(0)
	return result, nil
}

// errOtherSession is what Ping says when something between pgbak and the
// server has exchanged the session.
var errOtherSession = errors.New("this is not the session that began the backup")

// Ping asks the server for a sign of life, which also keeps firewalls from
// dropping an idle connection. While a backup is under way it fails if the
// session is not the one that began it, as happens behind a connection pooler:
// that backup is lost, and there is no use in copying on.
func (c *Conn) Ping(ctx context.Context) error {
	r, err := c.one(ctx, "ping the server", "SELECT pg_backend_pid()")
	if err != nil {
		return err
	}
	pid := int(r.integer("pg_backend_pid"))
	if r.err != nil {
		return r.err
	}
	if want := c.getBackupPID(); want != 0 && pid != want {
		return hint.Wrap(fmt.Errorf("ping the server: %w: its process is %d, and now %d answers", errOtherSession, want, pid),
			"connect to the server itself, not to a connection pooler.")
	}
	return nil
}

func (c *Conn) setBackupPID(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backupPID = pid
}

func (c *Conn) getBackupPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backupPID
}
