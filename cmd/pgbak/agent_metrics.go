package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/monitor"
	"github.com/pgbak/pgbak/storage/metrics"
)

// measure gives what the agent has counted, and what it knows only when it looks: how
// much waits, and what was asked of the storage.
func (s *agentService) measure() []monitor.Family {
	s.mu.Lock()
	set := s.set
	s.mu.Unlock()
	ready := monitor.Family{Name: "pgbak_agent_ready_files", Kind: "gauge", Help: "WAL files that PostgreSQL has marked ready and that are not acknowledged to it."}
	for _, stanza := range set.config.Stanzas {
		if n, ok := countReady(stanza.PGData); ok {
			ready.Samples = append(ready.Samples, monitor.Sample{Labels: []string{"stanza", stanza.Name}, Value: float64(n)})
		}
	}
	return slices.Concat(s.metrics.Families(), []monitor.Family{ready}, storageFamilies(set.push, set.get))
}

// countReady counts the files that wait; not ok where the directory cannot be seen.
func countReady(pgdata string) (n int, ok bool) {
	if pgdata == "" {
		return 0, false
	}
	dir, err := os.Open(filepath.Join(pgdata, "pg_wal", "archive_status"))
	if err != nil {
		return 0, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		if strings.HasSuffix(name, ".ready") {
			n++
		}
	}
	return n, err == nil
}

func storageFamilies(apps ...*app) []monitor.Family {
	operations := monitor.Family{Name: "pgbak_storage_operations_total", Kind: "counter", Help: "Operations of a repository's storage, failed ones included. Begins anew when the repository is opened anew."}
	failures := monitor.Family{Name: "pgbak_storage_errors_total", Kind: "counter", Help: "Operations that failed, but for answers that an object is or is not there."}
	bytes := monitor.Family{Name: "pgbak_storage_bytes_total", Kind: "counter", Help: "Bytes that were put and read."}
	seconds := monitor.Family{Name: "pgbak_storage_seconds_total", Kind: "counter", Help: "Time of operations."}
	for _, a := range apps {
		a.counting.Lock()
		counters := append([]counter(nil), a.counters...)
		a.counting.Unlock()
		for _, c := range counters {
			shot := c.store.Snapshot()
			for _, o := range []struct {
				name string
				of   metrics.Operation
			}{{"put", shot.Put}, {"get", shot.Get}, {"stat", shot.Stat}, {"list", shot.List}, {"delete", shot.Delete}} {
				labels := []string{"repository", c.repository, "for", a.command, "operation", o.name}
				add := func(f *monitor.Family, v float64) {
					f.Samples = append(f.Samples, monitor.Sample{Labels: labels, Value: v})
				}
				add(&operations, float64(o.of.Calls))
				add(&failures, float64(o.of.Transient+o.of.Throttled+o.of.Other))
				add(&bytes, float64(o.of.Bytes))
				add(&seconds, o.of.Time.Seconds())
			}
		}
	}
	return []monitor.Family{operations, failures, bytes, seconds}
}
