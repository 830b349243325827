// Package readiness decides whether a PostgreSQL server is set up so that its
// WAL reaches the repository, and proves it by waiting for WAL to arrive. The
// command check reports every problem, a backup refuses to start on the fatal
// ones, and both wait for segments with the same loop.
//
// [Problems] is a decision over what the server said ([server.Info]) and what
// the repository knows of the cluster ([repo.Identity]); it opens no
// connection. [WaitForWAL] is the proof: settings can look right and the
// archive_command still fail, so nothing but the segment in the repository counts.
package readiness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// ErrNotReady is wrapped by every problem that lies in the server's settings
// or state. A server that is another cluster than the stanza's gives
// repo.ErrIdentityMismatch instead.
var ErrNotReady = errors.New("the server is not ready for backup")

// Problem is one thing that stands between the server and a usable backup.
type Problem struct {
	// Error says what is wrong in one sentence and carries a hint
	// (internal/hint) that tells what to change.
	Error error
	// Fatal problems make a backup useless or impossible; the others are worth
	// a warning, because only the administrator can know whether they are meant.
	Fatal bool
}

// notReady is an error whose text stands alone, without the sentinel's words,
// and that errors.Is finds as its sentinel.
type notReady struct {
	text string
	kind error
}

func (e *notReady) Error() string { return e.text }
func (e *notReady) Unwrap() error { return e.kind }

// Problems compares what the server says about itself with the configured
// data directory pgdata and the stanza's identity id. The answer is empty for
// a server that is ready; fatal problems come first.
func Problems(info server.Info, pgdata string, id repo.Identity) []Problem {
	problems := identityProblems(info, id)
	// A server that is another cluster makes what it says of directories and
	// archiving beside the point: report that alone.
	if len(problems) > 0 {
		return problems
	}
	for _, decide := range []func(server.Info, string) (Problem, bool){
		recoveryProblem, directoryProblem, levelProblem, modeProblem, commandProblem,
	} {
		if p, found := decide(info, pgdata); found {
			problems = append(problems, p)
		}
	}
	return problems
}

// Fatal joins the fatal problems to one error; nil when there is none.
func Fatal(problems []Problem) error {
	var fatal []error
	for _, p := range problems {
		if p.Fatal {
			fatal = append(fatal, p.Error)
		}
	}
	return errors.Join(fatal...)
}

func identityProblems(info server.Info, id repo.Identity) []Problem {
	if info.SystemID != id.SystemID {
		return []Problem{problem(repo.ErrIdentityMismatch, true,
			"check connection in the configuration: it must lead to the server of this stanza's cluster; a new cluster needs a stanza of its own.",
			"the server is the cluster with system identifier %d, the stanza holds system identifier %d", info.SystemID, id.SystemID)}
	}
	if info.Major != id.Major {
		return []Problem{problem(repo.ErrIdentityMismatch, true,
			"after pg_upgrade run pgbak init --upgrade.",
			"the server is PostgreSQL %d, the stanza holds PostgreSQL %d", info.Major, id.Major)}
	}
	if info.WALSegmentSize != id.SegmentSize {
		return []Problem{problem(repo.ErrIdentityMismatch, true,
			"the size of WAL segments was changed by pg_resetwal: run pgbak init --upgrade and take a full backup.",
			"the server writes WAL segments of %d bytes, the stanza holds segments of %d bytes", info.WALSegmentSize, id.SegmentSize)}
	}
	return nil
}

func recoveryProblem(info server.Info, _ string) (Problem, bool) {
	if !info.InRecovery {
		return Problem{}, false
	}
	return problem(ErrNotReady, true,
		"run this on the primary, or let connection lead to it; pgbak backup --from standby backs up a standby.",
		"the server is in recovery (a standby or a restore that is not finished)"), true
}

func directoryProblem(info server.Info, pgdata string) (Problem, bool) {
	if sameDirectory(info.DataDirectory, pgdata) {
		return Problem{}, false
	}
	return problem(ErrNotReady, true,
		"set pgdata of the stanza to the server's data_directory, or correct connection.",
		"the server's data_directory is %s, the stanza's pgdata is %s", info.DataDirectory, pgdata), true
}

func levelProblem(info server.Info, _ string) (Problem, bool) {
	if info.WALLevel != "minimal" {
		return Problem{}, false
	}
	return problem(ErrNotReady, true,
		"set wal_level = replica in postgresql.conf and restart the server.",
		"wal_level is minimal, which leaves out of the WAL what a restore needs"), true
}

func modeProblem(info server.Info, _ string) (Problem, bool) {
	switch info.ArchiveMode {
	case "on", "always":
		// A standby with archive_mode=always pushes what its primary pushes too:
		// what is the same agrees, and what is not is refused.
		return Problem{}, false
	default:
		return problem(ErrNotReady, true,
			"set archive_mode = on in postgresql.conf and restart the server.",
			"archive_mode is %s", info.ArchiveMode), true
	}
}

func commandProblem(info server.Info, _ string) (Problem, bool) {
	const want = "set archive_command = 'pgbak --config FILE --stanza NAME archive-push %p' and reload the server."
	if info.ArchiveMode != "on" && info.ArchiveMode != "always" {
		// Switched off altogether: modeProblem says it, and PostgreSQL shows
		// archive_command as "(disabled)" then.
		return Problem{}, false
	}
	if info.ArchiveLibrary != "" {
		return problem(ErrNotReady, false,
			"reset archive_library, and "+want,
			"archive_library is %q, so that the server does not use archive_command", info.ArchiveLibrary), true
	}
	command := strings.TrimSpace(info.ArchiveCommand)
	if command == "" || command == "(disabled)" {
		return problem(ErrNotReady, true, want, "archive_command is not set"), true
	}
	if strings.Contains(command, "pgbak") && strings.Contains(command, "archive-push") {
		return Problem{}, false
	}
	// A wrapper script is legitimate, hence a warning: WaitForWAL decides.
	return problem(ErrNotReady, false, want,
		"archive_command does not call pgbak archive-push: %s", command), true
}

func problem(kind error, fatal bool, advice, format string, args ...any) Problem {
	return Problem{
		Error: hint.Wrap(&notReady{text: fmt.Sprintf(format, args...), kind: kind}, "%s", advice),
		Fatal: fatal,
	}
}

// sameDirectory tells whether two names lead to one directory. Names that
// differ are looked up, because PGDATA is often reached through a link; where
// one cannot be looked up, the names decide.
func sameDirectory(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	fa, err := os.Stat(a)
	if err != nil {
		return false
	}
	fb, err := os.Stat(b)
	return err == nil && os.SameFile(fa, fb)
}
