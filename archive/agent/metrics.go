package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/repo"
)

// Metrics counts what an agent did, and writes it in Prometheus' text format. The
// zero value is ready; safe for concurrent use.
type Metrics struct {
	mu     sync.Mutex
	values map[sample]float64
}

// sample is one line of the exposition, without its value.
type sample struct {
	family string
	labels string // as they are written, without the braces
}

// Family is a metric that is measured when it is asked for.
type Family struct {
	Name, Kind, Help string
	Samples          []Sample
}

// Sample is one value of a family; Labels are names and values in turn.
type Sample struct {
	Labels []string
	Value  float64
}

// families are those that are counted here, in the order in which they are written.
func families() []Family {
	return []Family{
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
		m.values = map[sample]float64{}
	}
	m.values[sample{family, labelText(labels)}] += value
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

// Write writes what was counted, and the families that were measured just now.
func (m *Metrics) Write(w io.Writer, measured ...Family) error {
	m.mu.Lock()
	counted := maps.Clone(m.values)
	m.mu.Unlock()
	var text strings.Builder
	for _, f := range families() {
		writeHead(&text, f)
		for _, s := range slices.SortedFunc(maps.Keys(counted), func(a, b sample) int { return cmp.Compare(a.labels, b.labels) }) {
			if s.family == f.Name {
				writeSample(&text, f.Name, s.labels, counted[s])
			}
		}
	}
	for _, f := range measured {
		writeHead(&text, f)
		for _, s := range f.Samples {
			writeSample(&text, f.Name, labelText(s.Labels), s.Value)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func writeHead(w *strings.Builder, f Family) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.Name, f.Help, f.Name, f.Kind)
}

func writeSample(w *strings.Builder, name, labels string, value float64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(w, "%s%s %s\n", name, labels, strconv.FormatFloat(value, 'g', -1, 64))
}

// labelText writes names and values in turn, values in the format's quotes.
func labelText(labels []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+`="`+escape.Replace(labels[i+1])+`"`)
	}
	return strings.Join(pairs, ",")
}
