package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
)

// ErrSessionLost is wrapped by the error of a statement when the connection
// broke under it or before it. A backup that the session had begun is void.
var ErrSessionLost = errors.New("the session with the server is lost")

// Codes of errors that a user can do something about; appendix A of
// PostgreSQL's manual lists all.
const (
	codeInvalidAuthorization  = "28000"
	codeInvalidPassword       = "28P01"
	codeInvalidCatalogName    = "3D000"
	codeInsufficientPrivilege = "42501"
	codeTooManyConnections    = "53300"
	codeCannotConnectNow      = "57P03"
	codeUndefinedFile         = "58P01"
)

// settingsError explains a connection string that cannot be read. The string
// may hold a password, and where it is malformed nobody can tell which part of
// it that is. So nothing of it is shown, and the cause, which may quote some of
// it, is kept only if it is about a file.
func settingsError(err error) error {
	const text = "write the connection like \"host=/var/run/postgresql port=5432 user=postgres dbname=postgres\", " +
		"and put apostrophes around a value that has spaces in it."
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("read the connection settings: %w", file)
	}
	reason := "they cannot be parsed"
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		reason = parseReason(*parse)
	}
	return hint.Wrap(fmt.Errorf("read the connection settings: %s", reason), text)
}

// parseReason is what pgconn found wrong, in its fixed words: the text of the
// error without the connection string at its head and the cause at its tail.
func parseReason(e pgconn.ParseConfigError) string {
	e.ConnString = ""
	text := strings.TrimPrefix(e.Error(), "cannot parse ``: ")
	if cause := e.Unwrap(); cause != nil {
		text = strings.TrimSuffix(text, " ("+cause.Error()+")")
	}
	return text
}

// connectError says why there is no session. The text of pgconn's error names
// the user, the database and the address, and no password.
func connectError(err error) error {
	wrapped := fmt.Errorf("connect to the server: %w", err)
	if text := adviceFor(err); text != "" {
		return hint.Wrap(wrapped, text)
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return hint.Wrap(wrapped, "PostgreSQL does not answer there: start it, or correct connection in the configuration.")
	}
	return wrapped
}

// queryError says what a statement was for and why it failed.
func queryError(what string, err error) error {
	wrapped := fmt.Errorf("%s: %w", what, err)
	if text := adviceFor(err); text != "" {
		return hint.Wrap(wrapped, text)
	}
	if sessionLost(err) {
		return hint.Wrap(fmt.Errorf("%s: %w: %w", what, ErrSessionLost, err),
			"the session with the server has ended, and a backup that it began with it: look into the server's log for the reason, and run the command again.")
	}
	return wrapped
}

// sessionLost tells whether the connection failed, as against the statement or
// the caller's patience.
func sessionLost(err error) bool {
	var network net.Error
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// adviceFor is the hint for what the server answered, or "".
func adviceFor(err error) string {
	var answer *pgconn.PgError
	if errors.Is(err, context.Canceled) || !errors.As(err, &answer) {
		return ""
	}
	switch answer.Code {
	case codeInvalidAuthorization, codeInvalidPassword:
		return "the server does not let this user in: check pg_hba.conf, and give a password in the file that PGPASSFILE names."
	case codeInvalidCatalogName:
		return "name a database that exists with dbname= in the connection, for instance postgres."
	case codeInsufficientPrivilege:
		return "connect as a superuser, or grant the role pg_read_all_settings and EXECUTE on the function."
	case codeTooManyConnections:
		return "the server has no connection left: raise max_connections, or connect as a superuser, for whom some are reserved."
	case codeCannotConnectNow:
		return "the server is starting up or shutting down: wait until it accepts connections."
	}
	return ""
}
