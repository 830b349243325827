package pgtest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// readyTimeout bounds how long a server may take to start, stop or promote; the machines that run the tests are slow.
const readyTimeout = 2 * time.Minute

// Options say what cluster Start creates. The zero value is one of the newest major with page checksums.
type Options struct {
	// Major is the PostgreSQL major, 13 to 18; 0 means the newest of Majors.
	Major int
	// Config is appended to postgresql.conf, so it is part of the cluster and of its backups. Values are written as
	// quoted strings. It overrides the kit's own choices: fsync=off and small memory.
	Config map[string]string
	// InitArgs are further arguments for initdb.
	InitArgs []string
	// NoChecksums creates the cluster without page checksums.
	NoChecksums bool
	// SegmentSizeMB is the WAL segment size, a power of two from 1 to 1024; 0 means 16.
	SegmentSizeMB int
	// Dir is the data directory, which must not exist or be empty and which the server user must be able to
	// create; empty means a new one that is removed at the end.
	Dir string
}

// Cluster is a PostgreSQL server of a test. It is used from one goroutine, but for TryQuery, Connect and the fields.
type Cluster struct {
	// DataDir is PGDATA, an absolute path.
	DataDir string
	// SocketDir holds the Unix socket and the server's log.
	SocketDir string
	// Port is that of the Unix socket and of the TCP socket on 127.0.0.1.
	Port int
	// Major is the PostgreSQL major.
	Major int

	binDir string
	// flags go to the postmaster's command line, beyond where to listen.
	flags      []string
	postmaster *postmaster
	// postmasters are the ids of all that there were.
	postmasters []int
}

// Start creates a cluster with trust authentication and the superuser postgres, starts it and waits until it accepts
// connections. It is stopped and removed when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Major == 0 {
		o.Major = slices.Max(Majors())
	}
	c := newCluster(t, o.Dir, o.Major)
	if c.DataDir == "" {
		c.DataDir = filepath.Join(TempDir(t), "data")
	}
	c.initdb(t, o)
	c.configure(t, o.Config)
	c.Start(t)
	return c
}

// Open starts a server of the given major on an existing data directory that belongs to the server user, for instance a
// restored one. It does not wait: the server may be about to recover for a while, or to give up (WaitReady,
// WaitFor, WaitExit). cfg is set on the command line, so that the directory stays as it is. The server is stopped when
// the test ends; the directory remains.
func Open(t testing.TB, dataDir string, major int, cfg map[string]string) *Cluster {
	t.Helper()
	c := newCluster(t, dataDir, major)
	for _, name := range slices.Sorted(maps.Keys(cfg)) {
		c.flags = append(c.flags, "-c", name+"="+cfg[name])
	}
	c.launch(t)
	return c
}

// newCluster gives a cluster its sockets and its end.
func newCluster(t testing.TB, dataDir string, major int) *Cluster {
	t.Helper()
	c := &Cluster{DataDir: dataDir, SocketDir: socketDir(t), Major: major, binDir: BinDir(t, major)}
	port, err := freePort()
	if err != nil {
		t.Fatalf("no port for PostgreSQL: %v", err)
	}
	c.Port = port
	// Runs before the directories are removed: cleanups go backwards.
	t.Cleanup(func() {
		if c.postmaster != nil {
			c.postmaster.kill()
		}
		removeSharedMemory(c.postmasters)
		if t.Failed() {
			t.Logf("end of the log of PostgreSQL %d in %s:\n%s", c.Major, c.DataDir, lastLines(c.Log(), 100))
		}
	})
	return c
}

// initdb creates the data directory.
func (c *Cluster) initdb(t testing.TB, o Options) {
	t.Helper()
	args := []string{
		"-D", c.DataDir, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8",
	}
	switch {
	case !o.NoChecksums:
		args = append(args, "-k")
	case o.Major >= 18: // where checksums became the default
		args = append(args, "--no-data-checksums")
	}
	if o.SegmentSizeMB != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(o.SegmentSizeMB))
	}
	args = append(args, o.InitArgs...)
	if out, err := Command(t, filepath.Join(c.binDir, "initdb"), args...).CombinedOutput(); err != nil {
		t.Fatalf("initdb of PostgreSQL %d: %v\n%s", c.Major, err, out)
	}
}

// configure appends the settings of the kit and then those of the test, which win, to postgresql.conf.
func (c *Cluster) configure(t testing.TB, config map[string]string) {
	t.Helper()
	settings := map[string]string{
		"fsync":           "off", // the tests kill servers, not machines
		"shared_buffers":  "16MB",
		"max_connections": "30",
		"log_line_prefix": "%m [%p] ",
	}
	maps.Copy(settings, config)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	file, err := os.OpenFile(filepath.Join(c.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatalf("configure PostgreSQL: %v", err)
	}
	_, err = file.WriteString(text.String())
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.Fatalf("configure PostgreSQL: %v", err)
	}
}

// DSN returns the connection string of database postgres as user postgres over the Unix socket.
func (c *Cluster) DSN() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", c.SocketDir, c.Port)
}

// Log returns what the server has written to its log since the cluster was made here, over all its starts.
func (c *Cluster) Log() string {
	text, err := os.ReadFile(c.logPath())
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(text)
}

func (c *Cluster) logPath() string { return filepath.Join(c.SocketDir, "server.log") }

// lastLines returns at most n lines from the end of text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
