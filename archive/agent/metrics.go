package agent

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/monitor"
	"github.com/pgbak/pgbak/repo"
)

// Metrics counts what an agent did. The zero value is ready; safe for concurrent use.
type Metrics struct {
	mu     sync.Mutex
	values map[sample]monitor.Sample
}

// sample is one line of the exposition, without its value.
type sample struct {
	family string
	labels string // as they are written, without the braces
}

// families are those that are counted here, in the order in which they are written.
func families() []monitor.Family {
	return []monitor.Family{
		{Name: "pgbak_agent_push_requests_total", Kind: "counter", Help: "Calls of archive-push."},
		{Name: "pgbak_agent_push_errors_total", Kind: "counter", Help: "Those that failed, by the exit code that the error has by itself."},
		{Name: "pgbak_agent_push_seconds_total", Kind: "counter", Help: "Their time, waiting for their turn included."},
		{Name: "pgbak_agent_pushed_files_total", Kind: "counter", Help: "WAL files put into a repository, asked for or ahead."},
		{Name: "pgbak_agent_failed_files_total", Kind: "counter", Help: "WAL files that could not be put into a repository."},
		{Name: "pgbak_agent_dropped_files_total", Kind: "counter", Help: "WAL segments given up because of archive.queue-max."},
		{Name: "pgbak_agent_pushed_bytes_total", Kind: "counter", Help: "Bytes of WAL files put into a repository."},
		{Name: "pgbak_agent_stored_bytes_total", Kind: "counter", Help: "Bytes that they take there."},
		{Name: "pgbak_agent_fetched_files_total", Kind: "counter", Help: "WAL files given to archive-get, by the repository that had them."},
		{Name: "pgbak_agent_fetched_bytes_total", Kind: "counter", Help: "Their bytes."},
		{Name: "pgbak_agent_absent_files_total", Kind: "counter", Help: "WAL files asked for by archive-get and proven to be in no repository."},
		{Name: "pgbak_agent_get_errors_total", Kind: "counter", Help: "Gets that failed, by the exit code that the error has by itself."},
		{Name: "pgbak_agent_get_seconds_total", Kind: "counter", Help: "Time of gets, waiting for their turn included."},
	}
}

func (m *Metrics) add(family string, value float64, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[sample]monitor.Sample{}
	}
	of := sample{family, monitor.LabelText(labels)}
	m.values[of] = monitor.Sample{Labels: labels, Value: m.values[of].Value + value}
}

// pushed counts a request.
func (m *Metrics) pushed(stanza string, took time.Duration, err error, code func(error) int) {
	if m == nil {
		return
	}
	m.add("pgbak_agent_push_seconds_total", took.Seconds(), "stanza", stanza)
	m.add("pgbak_agent_push_requests_total", 1, "stanza", stanza)
	if err != nil {
		m.add("pgbak_agent_push_errors_total", 1, "stanza", stanza, "code", strconv.Itoa(code(err)))
	}
}

// Stored counts a file of a batch, whether it was asked for or only ready.
func (m *Metrics) Stored(stanza string, p archive.Pushed) {
	for _, s := range p.Stored {
		if s.Outcome == repo.WALStored {
			labels := []string{"stanza", stanza, "repository", s.Repository}
			m.add("pgbak_agent_pushed_files_total", 1, labels...)
			m.add("pgbak_agent_pushed_bytes_total", float64(s.RawSize), labels...)
			m.add("pgbak_agent_stored_bytes_total", float64(s.StoredSize), labels...)
		}
	}
	for _, f := range p.Failed {
		if f.Unasked() {
			continue
		}
		m.add("pgbak_agent_failed_files_total", 1, "stanza", stanza, "repository", f.Repository)
	}
	if p.Dropped {
		m.add("pgbak_agent_dropped_files_total", 1, "stanza", stanza)
	}
}

func (m *Metrics) fetched(stanza string, got archive.Got, file *os.File, took time.Duration, err error, code func(error) int) {
	if m == nil {
		return
	}
	m.add("pgbak_agent_get_seconds_total", took.Seconds(), "stanza", stanza)
	switch {
	case errors.Is(err, archive.ErrAbsent):
		m.add("pgbak_agent_absent_files_total", 1, "stanza", stanza)
	case err != nil:
		m.add("pgbak_agent_get_errors_total", 1, "stanza", stanza, "code", strconv.Itoa(code(err)))
	default:
		m.add("pgbak_agent_fetched_files_total", 1, "stanza", stanza, "repository", got.Repository)
		if info, err := file.Stat(); err == nil {
			m.add("pgbak_agent_fetched_bytes_total", float64(info.Size()), "stanza", stanza)
		}
	}
}

// Families gives what was counted.
func (m *Metrics) Families() []monitor.Family {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := families()
	for i, f := range all {
		for _, s := range slices.SortedFunc(maps.Keys(m.values), func(a, b sample) int { return cmp.Compare(a.labels, b.labels) }) {
			if s.family == f.Name {
				all[i].Samples = append(all[i].Samples, m.values[s])
			}
		}
	}
	return all
}
