package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// StartStandby makes a standby of a cluster, on this host, and waits until it streams. It is made from a copy of the data
// directory for which the cluster is stopped and started again, as none of the tools for it speaks to every major. A
// replication slot on the cluster keeps the WAL that the standby has not got.
//
// Tablespaces are copied and linked anew; one that is created later has one location on both servers, which cannot work.
// The cluster may be a standby itself.
func StartStandby(t testing.TB, of *Cluster) *Cluster {
	t.Helper()
	dir := TempDir(t)
	data := filepath.Join(dir, "data")
	of.Stop(t, "fast")
	copyTree(t, of.DataDir, data)
	links, _ := filepath.Glob(filepath.Join(data, "pg_tblspc", "*")) // fails on a bad pattern only
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue // in place
		}
		moved := filepath.Join(dir, "tablespace-"+filepath.Base(link))
		copyTree(t, target, moved)
		if err := os.Remove(link); err != nil {
			t.Fatalf("standby: %v", err)
		}
		if err := os.Symlink(moved, link); err != nil {
			t.Fatalf("standby: %v", err)
		}
	}
	of.Start(t)
	slot := "standby_" + filepath.Base(dir)[len("pgbak-"):]
	of.Exec(t, fmt.Sprintf("SELECT pg_create_physical_replication_slot('%s', true)", slot))
	settings := fmt.Sprintf("primary_conninfo = '%s'\nprimary_slot_name = '%s'\n", of.DSN(), slot)
	appendFile(t, filepath.Join(data, "postgresql.auto.conf"), settings)
	appendFile(t, filepath.Join(data, "standby.signal"), "")
	GiveToServer(t, dir)
	s := Open(t, data, of.Major, nil)
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1", readyTimeout)
	return s
}

// copyTree copies what no server works on by cp, as the server user.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := Command(t, "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

func appendFile(t testing.TB, name, text string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(text)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.Fatal(err)
	}
}
