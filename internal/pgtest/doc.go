// Package pgtest starts real PostgreSQL servers of every supported major for tests, and runs the distribution's tools
// against them.
//
// The usual test reads
//
//	for _, major := range pgtest.Majors() {
//		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
//			c := pgtest.Start(t, pgtest.Options{Major: major, Config: map[string]string{"archive_mode": "on"}})
//			c.Exec(t, "create table t as select 1 as a")
//			...
//		})
//	}
//
// What a test starts is stopped and removed when the test ends, and the server's log is printed if it failed.
//
// # Servers and tools
//
// scripts/install-postgres.sh puts the servers of all majors into a cache directory; BinDir finds them there. These come
// without client tools: pgbench, pg_verifybackup, pg_waldump and the like are the distribution's, one major only (Tool,
// ToolMajor), and queries go through pgconn, which speaks to every major. A server or tool that is missing fails the
// test; nothing is skipped, so a machine without PostgreSQL cannot look like one where all is well.
//
// # Users
//
// PostgreSQL refuses to run as root. A test that runs as root therefore starts servers, and everything that works on
// their files (Command), as user postgres, and makes directories (TempDir) that this user owns and can reach, which
// testing.TB.TempDir does not. A test that does not run as root uses its own user for everything.
//
// # Environment
//
//	PGBAK_TEST_MAJORS=15,18  restricts Majors (and the installation) to these
//	PGBAK_TEST_CACHE=DIR     where the servers are, if not in /var/cache/pgbak (root) or ~/.cache/pgbak
//	PGBAK_TEST_KEEP=1        leaves the directories of TempDir behind, to look at them
//
// The package is for tests alone: nothing else may import it.
package pgtest
