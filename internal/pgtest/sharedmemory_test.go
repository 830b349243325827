package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKilledServersLeaveNothingInTheKernel(t *testing.T) {
	for _, major := range Majors() {
		var c *Cluster
		t.Run("a server that ends", func(t *testing.T) {
			c = Start(t, Options{Major: major})
			c.Kill(t)
			c.Start(t)
			if err := os.Remove(filepath.Join(c.DataDir, "postmaster.pid")); err != nil { // as a test does that deletes its directory
				t.Fatal(err)
			}
			c.Kill(t)
			if left := segmentsOf(t, c); len(left) == 0 {
				t.Errorf("PostgreSQL %d leaves no segment when it is killed: this test shows nothing", major)
			}
		})
		if left := segmentsOf(t, c); len(left) != 0 {
			t.Errorf("a killed PostgreSQL %d has left the segments %v", major, left)
		}
	}
}

func TestWhoIsAttachedKeepsItsSegment(t *testing.T) {
	c := Start(t, Options{})
	removeSharedMemory(c.postmasters)
	if c.Query(t, "show dynamic_shared_memory_type") != "mmap" {
		t.Error("dynamic shared memory stays in /dev/shm when the server is killed")
	}
	c.Exec(t, "select pg_reload_conf()")
	table := "       key      shmid perms                  size  cpid  lpid nattch   uid   gid\n" +
		"  10309058     131072   600                    56 16673 16673      0   101   104\n" +
		"  10309059     131073   600                    56 16673 16673      1   101   104\n" +
		"  10309060     131074   600                    56 16674 16674      0   101   104\n"
	if ids := abandonedSegments(strings.NewReader(table), []int{16673}); len(ids) != 1 || ids[0] != 131072 {
		t.Errorf("abandoned are %v, want 131072 only", ids)
	}
}

func segmentsOf(t *testing.T, c *Cluster) []int {
	t.Helper()
	table, err := os.Open("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	return abandonedSegments(table, c.postmasters)
}
