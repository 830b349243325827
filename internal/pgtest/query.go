package pgtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// queryTimeout bounds one query; some wait for an archiver or a checkpoint.
const queryTimeout = 5 * time.Minute

// Exec runs one or several statements in database postgres and fails the test if one fails. Several statements in one
// call are one transaction, unless they say otherwise.
func (c *Cluster) Exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := c.TryQuery(sql); err != nil {
		t.Fatalf("PostgreSQL %d: %v\n%s", c.Major, err, sql)
	}
}

// Query runs statements like Exec and returns the rows as psql does unaligned and without headings: columns separated by
// "|", rows by a line feed, null as nothing, no line feed at the end.
func (c *Cluster) Query(t testing.TB, sql string) string {
	t.Helper()
	rows, err := c.TryQuery(sql)
	if err != nil {
		t.Fatalf("PostgreSQL %d: %v\n%s", c.Major, err, sql)
	}
	return rows
}

// TryQuery is Query for statements that may fail; the error is then a *pgconn.PgError if the server gave one.
func (c *Cluster) TryQuery(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.DSN()+" sslmode=disable")
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("query: %w", err)
	}
	return unaligned(results), nil
}

// Connect opens a connection to database postgres for a session that lasts over several queries, closed at the end of
// the test. parameters are added to the connection string, for instance "replication=database".
func (c *Cluster) Connect(t testing.TB, parameters ...string) *pgconn.PgConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	dsn := strings.Join(append([]string{c.DSN(), "sslmode=disable"}, parameters...), " ")
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("PostgreSQL %d: connect: %v", c.Major, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server may be gone by now
	})
	return conn
}

// unaligned joins the rows of all results.
func unaligned(results []*pgconn.Result) string {
	var rows []string
	for _, result := range results {
		for _, row := range result.Rows {
			columns := make([]string, len(row))
			for i, column := range row {
				columns[i] = string(column)
			}
			rows = append(rows, strings.Join(columns, "|"))
		}
	}
	return strings.Join(rows, "\n")
}
